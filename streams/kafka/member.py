"""A member of the group that owns the partitions of one processor: the driver of its folds, on one thread.

It joins the group, takes over what it is assigned, folds, sends, and writes checkpoints; what it loses it drops at
once, since whatever it still sends is recognised as a duplicate (fold.md rule 4).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.history_processor import HistoryProcessor
from streams.kafka.admin import Cluster, ClusterError
from streams.kafka.changelog import SETTLE_TIMEOUT_S, FencedError, TakeoverCancelledError
from streams.kafka.checkpoint_writer import CheckpointWriter, Written, next_age_ms
from streams.kafka.groups import group_config
from streams.kafka.names import Names
from streams.kafka.outlet import Outlet, SendError
from streams.kafka.ownership import DeliverLocally, Ownership
from streams.kafka.partitions import Partitions
from streams.kafka.record_deletion import Materialised, RecordDeletion
from streams.kafka.seats import Seat
from streams.kafka.settings import KafkaSettings
from streams.kafka.standbys import Standbys
from streams.kafka.status import MemberStatus
from streams.kafka.takeovers import Request, Taken, Takeovers
from streams.matching_processor import MatchingProcessor
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.context import Processor
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.partition import PartitionHaltedError
from streams.runtime.tables import StorageError
from streams.timer_processor import TimerProcessor

LOG = logging.getLogger(__name__)

ROLES: Final[Mapping[str, Callable[[], Processor]]] = {
    "history": HistoryProcessor,
    "matching": MatchingProcessor,
    "timer": TimerProcessor,
}
"""The processor of each role."""

BATCH: Final = 200
"""Records folded before anything else gets its turn."""

POLL_MS: Final = 100
"""How long the thread waits at most when nothing comes."""

CLOSELY_MS: Final = 2
"""The same while a checkpoint waits for acknowledgements, or a partition for its checkpoint."""

TAKING_MS: Final = 10
"""The same while a takeover is under way."""

WAITING_LIMIT: Final = 2_000
"""Records of a partition kept in memory while it cannot go on; more stay on the broker."""

FENCED_FAILURES: Final = 4
"""As how many failures it counts to be fenced, for how long to wait."""

RELEASE_TIMEOUT_S: Final = 5.0
"""How long a last checkpoint may hold up the release of a partition."""

COMMIT_MS: Final = 5_000
"""How often the group's offsets are brought up to date. They are for display."""

END_OFFSETS_MS: Final = 1_000

_GONE: Final = frozenset(
    (
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._LOG_TRUNCATION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
    )
)
"""Errors after which the log is not what it was: the next takeover says what has become of it."""


def _nowhere(reply: Any) -> bool:
    return False


class Member:
    """Owns partitions of one role's processor; `start` it once.

    `deliver_locally` takes replies to gateways of this process (see DeliverLocally). `materialised(partition)` is how
    far the history store has got with what a partition of `commands` made, as an offset of that partition: without it
    no command is ever deleted. `on_end(reason)` is called on the member's thread when it ends: None after `stop`,
    UnsupportedLogicError when another release has to take its place, else what it cannot go on from.
    """

    def __init__(
        self,
        role: str,
        settings: KafkaSettings,
        *,
        deliver_locally: DeliverLocally = _nowhere,
        materialised: Materialised | None = None,
        on_end: Callable[[BaseException | None], None] = lambda reason: None,
        supported_logic: int | None = None,
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
    ) -> None:
        self.role = role
        self.status = MemberStatus(role)
        self._settings = settings
        self._deliver_locally = deliver_locally
        self._materialised = materialised
        self._on_end = on_end
        self._supported_logic = supported_logic
        self._settle_timeout_s = settle_timeout_s
        self._processor = ROLES[role]
        self._input = self._processor().input_topic
        self._names = Names(settings.prefix)
        self._topic = self._names.topic(self._input)
        self._codec = Codec(BODY_TYPES)
        self._stopping = threading.Event()
        self._release_on_stop = True
        self._leaving: UnsupportedLogicError | None = None
        self._seats: dict[int, Seat] = {}
        self._closing: dict[int, threading.Event] = {}
        self._sweep_at_ms = self._commit_at_ms = self._end_offsets_at_ms = 0
        self._age_ms = settings.checkpoint_age_ms
        self._thread = threading.Thread(target=self._run, name=role, daemon=True)

    # Life

    def start(self) -> None:
        """Join the group. Returns at once."""
        self._thread.start()

    def stop(self, *, release: bool = True) -> None:
        """Leave the group; with `release` after a last checkpoint of each partition, so that the next owner has
        nothing to fold again, else at once. Blocks until the thread has ended.
        """
        self._release_on_stop = release
        self._stopping.set()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def owned(self) -> list[int]:
        """The partitions owned now, in order."""
        return sorted(number for number, p in list(self.status.partitions.items()) if p.state == "owned")

    def _run(self) -> None:
        reason: BaseException | None = None
        try:
            self._open()
            try:
                while not self._stopping.is_set() and self._leaving is None:
                    self._round()
                if self._release_on_stop:
                    self._release(list(self._seats.values()))
            finally:
                self._close()
            reason = self._leaving
        except BaseException as error:
            LOG.exception("the %s member ends", self.role)
            reason = error
        self.status.joined = False
        self._on_end(reason)

    def _open(self) -> None:
        cluster = Cluster(self._settings)
        topics = cluster.check()
        self._partitions = Partitions({name: topic.partitions for name, topic in topics.items()})
        self._outlet = Outlet(self._settings, self._codec, self._partitions)
        self._writer = CheckpointWriter(f"{self.role}-checkpoints")
        self._takeovers = Takeovers(
            self._settings,
            self._codec,
            self._processor,
            self._partitions,
            self._supported_logic,
            self._settle_timeout_s,
        )
        self._takeovers.check_logic()
        self._deletion = RecordDeletion(self._settings, self.role, self._topic, self._materialised)
        self._standbys = Standbys(self._settings, self.role, self._partitions.count(self._input), self.status)
        self._consumer = Consumer(self._group_config(cluster), logger=LOG)
        self._joined_by_ms = _now_ms() + self._settings.session_timeout_ms
        self._consumer.subscribe([self._topic], self._assigned, self._revoked, self._lost)

    def _group_config(self, cluster: Cluster) -> dict[str, Any]:
        return {
            **group_config(self._settings, cluster, self.role, self._supported_logic),
            "error_cb": self._noticed,
            "on_commit": lambda error, offsets: None,
        }

    def _close(self) -> None:
        for seat in self._seats.values():
            seat.drop(self._writer, "restoring", "")
        self._consumer.close()
        self._seats.clear()
        self.status.partitions.clear()
        self._standbys.stop()
        self._takeovers.stop()
        while not self._takeovers.results.empty():
            self._put_away(self._takeovers.results.get())
        self._writer.stop()
        self._outlet.close()

    def _noticed(self, error: KafkaError) -> None:
        LOG.warning("%s: %s", self.role, error.str())

    # The group

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.status.joined = True
        places = [TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions]
        consumer.incremental_assign(places)
        if places:
            consumer.pause(places)
        for place in places:
            if place.partition >= self._partitions.count(self._input):
                raise ClusterError(
                    f"{self._topic} has got partitions since the start: set how many, and restart"
                )
            standby, closed = self._standbys.release(place.partition)
            closed = self._closing.pop(place.partition, closed)
            seat = Seat(self.role, place.partition, closed, standby)
            self._seats[place.partition] = seat
            self.status.partitions[place.partition] = seat.status
            self._request(seat)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        self._release([self._seats[number] for number in numbers if number in self._seats])
        self._give_up(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        LOG.warning("%s: lost partitions %s", self.role, sorted(p.partition for p in partitions))
        self._give_up(consumer, partitions)

    def _give_up(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            seat = self._seats.pop(place.partition, None)
            self.status.partitions.pop(place.partition, None)
            if seat is not None:
                seat.drop(self._writer, "restoring", "")
                if seat.closed is not None:
                    self._closing[place.partition] = seat.closed
        consumer.incremental_unassign(partitions)

    def _release(self, seats: list[Seat]) -> None:
        """Write a last checkpoint of each partition, as far as time allows."""
        owned = [seat for seat in seats if seat.ownership is not None]
        deadline_s = time.monotonic() + RELEASE_TIMEOUT_S
        while time.monotonic() < deadline_s:
            self._outlet.poll(0.001)
            if self._outlet.failure:
                return
            for seat in owned:
                if seat.ownership is not None:
                    self._guarded(seat, lambda ownership: ownership.cut())
                    self._submit(seat)
            self._take_written(wait_s=0.005)
            if all(seat.ownership is None or seat.ownership.is_covered for seat in owned):
                self._commit_offsets(owned, asynchronous=False)
                return

    # The round

    def _round(self) -> None:
        first = self._consumer.poll(self._wait_ms() / 1000)
        if first is not None:
            for message in (first, *self._consumer.consume(BATCH, 0)):
                self._take(message)
        self._outlet.poll()
        if self._outlet.failure:
            self._begin_again(self._outlet.failure)
        self._take_taken()
        self._take_written()
        now_ms = _now_ms()
        self.status.loop_time_ms = now_ms
        if now_ms >= self._sweep_at_ms:
            self._sweep(now_ms)
        self._outlet.send()

    def _wait_ms(self) -> int:
        return max(0, min(self._sweep_at_ms - _now_ms(), POLL_MS))

    def _take(self, message: Message) -> None:
        error = message.error()
        partition = message.partition()
        if error is not None:
            self._take_error(error, partition)
            return
        seat = self._seats.get(partition) if partition is not None else None
        if seat is None or seat.ownership is None:
            return
        now_ms = _now_ms()
        if not self._guarded(seat, lambda ownership: ownership.take(message, now_ms)):
            return
        self._sweep_at_ms = min(self._sweep_at_ms, self._look_at_ms(seat.ownership, now_ms))
        if len(seat.ownership.waiting) >= WAITING_LIMIT and not seat.held:
            seat.held = True
            self._consumer.pause([TopicPartition(self._topic, seat.number)])

    def _take_error(self, error: KafkaError, partition: int | None) -> None:
        if error.fatal():
            raise KafkaException(error)
        seat = self._seats.get(partition) if partition is not None else None
        if seat is not None and error.code() in _GONE:
            self._end(seat, "restoring", f"{self._topic}/{partition} cannot be read on: {error.str()}")
        else:
            LOG.warning("%s: %s", self.role, error.str())

    def _look_at_ms(self, ownership: Ownership, now_ms: int) -> int:
        """When a partition wants to be looked at next."""
        if ownership.gap_to is not None:
            return 0
        if ownership.blocked or ownership.awaits_acknowledgements:
            return now_ms + CLOSELY_MS
        return min(ownership.tick_at_ms, ownership.checkpoint_at_ms(self._age_ms))

    def _sweep(self, now_ms: int) -> None:
        """Do what is due by the clock."""
        if not self.status.joined and now_ms >= self._joined_by_ms:
            self.status.joined = True  # a group with more members than partitions tells some of them nothing
        taking = any(seat.is_taken_over for seat in self._seats.values())
        next_ms = now_ms + (TAKING_MS if taking else POLL_MS)
        for seat in list(self._seats.values()):
            if seat.retry_at_ms and now_ms >= seat.retry_at_ms:
                self._request(seat)
            if seat.ownership is not None and seat.seek_to is None:
                self._look_for_gap(seat, seat.ownership)
            if seat.seek_to is not None:
                self._seek(seat)
            ownership = seat.ownership
            if ownership is not None and self._guarded(seat, lambda owned: self._look_after(owned, now_ms)):
                self._submit(seat)
                next_ms = min(next_ms, max(self._look_at_ms(ownership, now_ms), now_ms + 1))
                self._watch_leaving(seat, ownership)
        self._sweep_at_ms = next_ms
        if now_ms >= self._commit_at_ms:
            self._commit_at_ms = now_ms + COMMIT_MS
            self._commit_offsets(list(self._seats.values()), asynchronous=True)
            self._deletion.delete(
                [
                    (seat.ownership.owner, seat.status)
                    for seat in self._seats.values()
                    if seat.ownership is not None
                ]
            )
        if now_ms >= self._end_offsets_at_ms:
            self._end_offsets_at_ms = now_ms + END_OFFSETS_MS
            self._note_end_offsets()
            self._tell_standbys()

    def _look_after(self, ownership: Ownership, now_ms: int) -> None:
        ownership.tick(now_ms)
        ownership.count_dirty()
        if ownership.checkpoint_at_ms(self._age_ms) <= now_ms:
            ownership.cut()

    def _watch_leaving(self, seat: Seat, ownership: Ownership) -> None:
        if ownership.owner.leaving is None or self._leaving is not None:
            return
        seat.status.state, seat.status.reason = "leaving", str(ownership.owner.leaving)
        if ownership.owner.may_release:
            LOG.error("the %s member leaves: %s", self.role, ownership.owner.leaving)
            self._leaving = ownership.owner.leaving

    # Takeovers

    def _request(self, seat: Seat) -> None:
        seat.retry_at_ms = 0
        seat.requested_ms = _now_ms()
        self._sweep_at_ms = 0
        generation = seat.generation
        standby, seat.standby = seat.standby, None
        self._takeovers.submit(
            Request(
                token=(seat, generation),
                partition=seat.number,
                status=seat.status,
                wanted=lambda: seat.generation == generation and not self._stopping.is_set(),
                after=seat.closed,
                standby=standby,
            )
        )

    def _take_taken(self) -> None:
        while not self._takeovers.results.empty():
            taken = self._takeovers.results.get()
            seat, generation = taken.token
            if seat.generation != generation:
                self._put_away(taken)
            elif taken.error is not None:
                self._refused(seat, taken.error)
            else:
                self._own(seat, taken)

    def _put_away(self, taken: Taken) -> None:
        """Let go of a partition that was taken over too late."""
        if taken.changelog is not None:
            self._writer.close_changelog(taken.changelog)

    def _refused(self, seat: Seat, error: Exception) -> None:
        if isinstance(error, TakeoverCancelledError):
            return
        if isinstance(error, UnsupportedLogicError):
            LOG.error("the %s member leaves: %s", self.role, error)
            self._leaving = error
            return
        self.status.failures_total += 1
        seat.wait_again("refused", str(error), _now_ms())
        LOG.error("%s/%d cannot be taken over: %s", self._topic, seat.number, error)

    def _own(self, seat: Seat, taken: Taken) -> None:
        assert taken.owner is not None and taken.changelog is not None
        seat.ownership = Ownership(
            taken.owner,
            taken.changelog,
            self._outlet,
            self._codec,
            self._settings,
            self.status,
            seat.status,
            self._deliver_locally,
        )
        seat.status.state, seat.status.reason = "owned", ""
        seat.status.takeovers_total += 1
        seat.status.takeover_seconds = (_now_ms() - seat.requested_ms) / 1000
        seat.seek_to = seat.ownership.next_offset
        if self._guarded(seat, lambda ownership: ownership.begin()):
            self._seek(seat)
        self._sweep_at_ms = 0

    def _seek(self, seat: Seat) -> None:
        """Have the log delivered from the offset to fold next."""
        assert seat.seek_to is not None
        place = TopicPartition(self._topic, seat.number, seat.seek_to)
        try:
            self._consumer.seek(place)
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS):
                raise
            return  # its assignment is only just under way: again at the next sweep
        self._consumer.resume([place])
        seat.seek_to = None
        if seat.ownership is not None:
            seat.ownership.gap_to = None

    def _look_for_gap(self, seat: Seat, ownership: Ownership) -> None:
        """Have records delivered that were left out; the ownership ends when they cannot be had."""
        if ownership.gap_to is None:
            return
        first, last = ownership.next_offset, ownership.gap_to - 1
        what = f"{self._topic}/{seat.number}: records {first} to {last} were not delivered"
        if seat.note_gap(first):
            LOG.warning("%s and are asked for again", what)
        else:
            self._end(
                seat, "halted", f"{what}, however often they were asked for: they are gone from the log"
            )

    # Ends of ownerships

    def _guarded(self, seat: Seat, act: Callable[[Ownership], object]) -> bool:
        """Do something with an ownership, and end it when that fails; whether it goes on."""
        assert seat.ownership is not None
        try:
            act(seat.ownership)
        except PartitionHaltedError as error:
            self._end(seat, "halted", str(error))
        except (StorageError, SendError, MemoryError) as error:
            self._end(seat, "restoring", f"{type(error).__name__}: {error}")
        else:
            return True
        return False

    def _end(self, seat: Seat, state: Any, reason: str) -> None:
        """Throw an ownership away, and take the partition over again in a while."""
        LOG.error("%s/%d: the ownership ends: %s", self._topic, seat.number, reason)
        self.status.failures_total += 1
        if seat.ownership is not None:
            with contextlib.suppress(KafkaException):  # it may just have been taken from us
                self._consumer.pause([TopicPartition(self._topic, seat.number)])
        seat.drop(self._writer, state, reason)
        seat.wait_again(state, reason, _now_ms())

    def _begin_again(self, reason: str) -> None:
        """Something did not arrive: no ownership may go on (fold.md rule 11)."""
        for seat in self._seats.values():
            if seat.ownership is not None:
                self._end(seat, "restoring", reason)
        self._outlet.close()
        self._outlet = Outlet(self._settings, self._codec, self._partitions)

    # Checkpoints

    def _submit(self, seat: Seat) -> None:
        ownership = seat.ownership
        if ownership is None:
            return
        checkpoint = ownership.take_writable()
        if checkpoint is not None:
            self._writer.submit((seat, seat.generation), ownership.changelog, checkpoint)

    def _take_written(self, wait_s: float = 0) -> None:
        """Take note of what the writer has done; waits for something for so long."""
        while True:
            try:
                written = (
                    self._writer.results.get(timeout=wait_s) if wait_s else self._writer.results.get_nowait()
                )
            except queue.Empty:
                return
            wait_s = 0
            seat, generation = written.token
            if seat.generation == generation:
                self._note_written(seat, written)

    def _note_written(self, seat: Seat, written: Written) -> None:
        if written.error is not None:
            reason = str(written.error)
            if isinstance(written.error, FencedError):
                # The group will tell who owns it; until then nobody is helped by fencing in turn.
                seat.failures = max(seat.failures, FENCED_FAILURES)
                reason = f"another owner has taken it: {reason}"
            self._end(seat, "restoring", reason)
            return
        seat.failures = 0
        now_ms = _now_ms()
        ownership = seat.ownership
        goes_on = self._guarded(
            seat,
            lambda owned: owned.written(written.checkpoint, written.size_bytes, written.seconds, now_ms),
        )
        if goes_on and seat.held and ownership is not None and not ownership.waiting:
            seat.held = False
            self._consumer.resume([TopicPartition(self._topic, seat.number)])
        spent_s = sum(other.status.checkpoint_seconds for other in self._seats.values())
        self._age_ms = next_age_ms(self._settings.checkpoint_age_ms, spent_s)
        self._sweep_at_ms = 0

    # For display

    def _commit_offsets(self, seats: list[Seat], *, asynchronous: bool) -> None:
        offsets = [
            TopicPartition(self._topic, seat.number, seat.status.checkpoint_offset + 1)
            for seat in seats
            if seat.ownership is not None and seat.note_commit()
        ]
        if not offsets:
            return
        try:
            if asynchronous:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            LOG.info("%s: offsets were not committed: %s", self.role, error)

    def _tell_standbys(self) -> None:
        """Have copies kept of what others own, and of nothing whose store is still in use here."""
        held = {**self._closing, **dict.fromkeys(self._seats)}
        self._standbys.know(self._consumer.memberid() or "", held)

    def _note_end_offsets(self) -> None:
        for seat in self._seats.values():
            if seat.ownership is not None and seat.seek_to is None:
                place = TopicPartition(self._topic, seat.number)
                _, high = self._consumer.get_watermark_offsets(place, cached=True)
                seat.status.end_offset = max(seat.status.position + 1, high)
                if not seat.ownership.blocked:
                    seat.note_end(seat.ownership.next_offset, high)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
