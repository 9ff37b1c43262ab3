"""One owned partition on Kafka: the fold, what it sends, its ticks, and when its checkpoints are due."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from confluent_kafka import Message

from streams.bodies import HistoryBatch, ReplyRecord
from streams.kafka import wire
from streams.kafka.changelog import PartitionChangelog
from streams.kafka.dead_letters import original_headers
from streams.kafka.inline_events import InlineEvents
from streams.kafka.outlet import Outlet
from streams.kafka.settings import KafkaSettings
from streams.kafka.status import MemberStatus, PartitionStatus
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.codec import Codec
from streams.runtime.logic import marker
from streams.runtime.owner import Owner
from streams.runtime.records import Correlation, Record, Reply, Tick

LOG = logging.getLogger(__name__)

TICK_RETRY_MS: Final = 1_000
"""When a tick is appended again that has not come back."""

_NEVER_MS: Final = 1 << 62

DeliverLocally = Callable[[ReplyRecord], bool]
"""Hands a reply to a gateway of this process; False when it is not there. Called on the member's thread."""


class Ownership:
    """A partition in this process's hands, from its takeover on. Belongs to the member's thread.

    SendError, StorageError and PartitionHaltedError out of any method end it.
    """

    def __init__(
        self,
        owner: Owner,
        changelog: PartitionChangelog,
        outlet: Outlet,
        codec: Codec,
        settings: KafkaSettings,
        member: MemberStatus,
        status: PartitionStatus,
        deliver_locally: DeliverLocally,
    ) -> None:
        self.owner = owner
        self.changelog = changelog
        self.waiting: deque[Message] = deque()
        """Records that came while nothing may be folded."""
        self.gap_to: int | None = None
        """The offset of a record that came before others that are to be folded first, None for no such thing."""
        self._outlet = outlet
        self._codec = codec
        self._settings = settings
        self._member = member
        self._status = status
        self._deliver_locally = deliver_locally
        self._recent = InlineEvents()
        self._judged: dict[int, wire.Headers] = {}
        self._next = owner.partition.offset + 1
        self._folded_since_cut = 0
        self._changed_since_ms = 0
        self._tick_after_ms = 0
        self._cut = self._submitted = False
        status.position = status.checkpoint_offset = owner.partition.offset

    def begin(self) -> None:
        """Let out what a checkpoint held back; a partition that never had a checkpoint begins with a logic marker."""
        partition = self.owner.partition
        if self.owner.checkpointed < 0 and partition.logic.supported > 0:
            self._outlet.append(
                marker(partition.processor.input_topic, partition.number, partition.logic.supported)
            )
        self.drain()

    # Folding

    @property
    def next_offset(self) -> int:
        """The offset to fold next."""
        return self._next

    @property
    def blocked(self) -> bool:
        """Whether nothing may be folded now."""
        return self.owner.must_checkpoint or self.owner.leaving is not None

    def take(self, message: Message, now_ms: int) -> None:
        """Fold a record of the log, or keep it until that may be done; one that was folded before is dropped."""
        if self.blocked:
            self.waiting.append(message)
            return
        offset = message.offset()
        if offset is None or offset < self._next or self.gap_to is not None:
            return
        if offset > self._next:
            self.gap_to = offset  # never folded over: what is in between may only not have been delivered
            return
        owner, status = self.owner, self._status
        record = wire.record_of(self._codec, owner.partition.processor.input_topic, message)
        self._member.folding_since_ms = now_ms
        began_s = time.perf_counter()
        owner.fold(record, message.leader_epoch() or 0)
        status.fold_seconds_total += time.perf_counter() - began_s
        self._member.folding_since_ms = 0
        if owner.leaving is not None:
            return
        if owner.must_checkpoint:
            self._judged[offset] = original_headers(message)
        self._next = offset + 1
        status.position = offset
        status.folded_total += 1
        self._folded_since_cut += 1
        if not self._changed_since_ms:
            self._changed_since_ms = now_ms
        if isinstance(record.body, Tick) and record.source == owner.partition.source:
            # The broker's clock may be behind ours: what it does not hold for due is not due.
            early_ms = owner.partition.due.next_due_ms() - owner.partition.now_ms
            self._tick_after_ms = now_ms + early_ms if 0 < early_ms <= TICK_RETRY_MS else 0
        self.drain()

    def fold_waiting(self, now_ms: int) -> None:
        """Fold what came while nothing might be folded."""
        while self.waiting and not self.blocked:
            self.take(self.waiting.popleft(), now_ms)

    def drain(self) -> None:
        """Send off all that is released."""
        owner, status, outlet = self.owner, self._status, self._outlet
        offset, acknowledged = -1, partial(owner.acknowledge, -1)
        while owner.emissions:
            record = owner.emissions.popleft()
            if record.origin_offset != offset:
                offset = record.origin_offset
                acknowledged = partial(owner.acknowledge, offset)
            if isinstance(record.body, HistoryBatch):
                self._recent.add(record.body.run_id, record.body.first_event_id, record.body.events)
            outlet.append(record, acknowledged)
            status.emitted_total += 1
        while owner.replies:
            self._reply(*owner.replies.popleft())
        while owner.letters:
            letter = owner.letters.popleft()
            LOG.error("%s: record %d set aside: %s", letter.source, letter.offset, letter.reason)
            original = self._judged.pop(letter.offset, [])
            outlet.letter(letter, original, partial(owner.letter_acknowledged, letter))
            status.dead_letters_total += 1
        while owner.warnings:
            LOG.warning(owner.warnings.popleft())

    def _reply(self, offset: int, correlation: Correlation, reply: Reply) -> None:
        first, events = self._attached(reply)
        record = ReplyRecord(
            correlation.gateway,
            correlation.epoch,
            correlation.id,
            reply.code,
            reply.message,
            reply.body,
            reply.attach_run,
            reply.attach_first,
            reply.attach_last,
            reply.kind,
            first,
            events,
        )
        self._status.replied_total += 1
        if self._deliver_locally(record):
            self.owner.acknowledge(offset)
        elif not self._outlet.reply(record, partial(self.owner.acknowledge, offset)):
            LOG.warning("a reply to %r is dropped: it names no partition of replies", correlation.gateway)
            self._member.dropped_replies_total += 1
            self.owner.acknowledge(offset)

    def _attached(self, reply: Reply) -> tuple[int, tuple[bytes, ...]]:
        """The events at the end of those that belong to a reply, as far as they are still here."""
        first, last = reply.attach_first, reply.attach_last
        if not reply.attach_run:
            return 0, ()
        if reply.held and reply.held_first_id <= last:
            held = reply.held[max(0, first - reply.held_first_id) : last - reply.held_first_id + 1]
            last = reply.held_first_id - 1
        else:
            held = ()
        start, events = self._recent.get(reply.attach_run, first, last)
        if events and start + len(events) - 1 == last:
            return start, (*events, *held)
        if held:
            return max(first, reply.held_first_id), held
        return 0, ()

    # Time

    @property
    def tick_at_ms(self) -> int:
        """When the next tick is to be appended, in ms."""
        return max(self.owner.partition.due.next_due_ms(), self._tick_after_ms)

    def tick(self, now_ms: int) -> None:
        """Append a tick if something is due."""
        partition, at_ms = self.owner.partition, self.tick_at_ms
        if self.blocked or at_ms > now_ms:
            return
        if at_ms > 0:
            self._status.tick_lateness_ms = now_ms - at_ms
        self._tick_after_ms = now_ms + TICK_RETRY_MS
        self._outlet.append(
            Record(
                partition.processor.input_topic,
                partition.number,
                "",
                Tick(),
                source=partition.source,
                origin_offset=self._next,
            )
        )

    # Checkpoints

    def checkpoint_at_ms(self, age_ms: int) -> int:
        """When a checkpoint is to be cut, in ms; 0 for at once, a far future for not yet."""
        if self._cut or not self._changed_since_ms:
            return _NEVER_MS
        settings = self._settings
        if self.blocked or self._folded_since_cut >= settings.checkpoint_records:
            return 0
        if self._status.dirty_keys >= settings.checkpoint_keys:
            return 0
        return self._changed_since_ms + age_ms

    @property
    def awaits_acknowledgements(self) -> bool:
        """Whether a checkpoint waits for what was sent before it to arrive."""
        return self._cut and not self._submitted

    def cut(self) -> None:
        """Freeze a checkpoint of all that is folded, unless one is under way."""
        if self.owner.cut():
            self._cut = True
            self._outlet.hurry()
            self._folded_since_cut = 0
            self._changed_since_ms = 0

    def take_writable(self) -> Checkpoint | None:
        """The checkpoint to be written now, once."""
        if self._submitted:
            return None
        checkpoint = self.owner.writable()
        self._submitted = checkpoint is not None
        return checkpoint

    def written(self, checkpoint: Checkpoint, size_bytes: int, seconds: float, now_ms: int) -> None:
        """The checkpoint is committed: what waited for it leaves, and what could not be folded is."""
        self._cut = self._submitted = False
        status = self._status
        status.checkpoint_offset = checkpoint.position.offset
        status.checkpoint_time_ms = now_ms
        status.checkpoint_rows = len(checkpoint.rows) + len(checkpoint.dues)
        status.checkpoint_bytes = size_bytes
        status.checkpoint_seconds = seconds
        status.checkpoints_total += 1
        self.owner.written()
        self.drain()
        self.fold_waiting(now_ms)

    def count_dirty(self) -> None:
        """Note how many keys have changed."""
        partition = self.owner.partition
        self._status.dirty_keys = partition.due.dirty_count + sum(
            table.dirty_count for table in partition.tables.values()
        )

    @property
    def is_covered(self) -> bool:
        """Whether checkpoints stand for everything folded."""
        return self.owner.checkpointed == self.owner.partition.offset
