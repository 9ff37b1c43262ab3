"""Copies of the tables of partitions that other members own, kept up from their changelogs for a quick takeover.

There are as many of each as the settings ask for, and one at least once its owner has fallen silent. A copy holds
committed checkpoints only, and is no more trusted than any local store: a takeover verifies it as it would one that was
found on disk, and reads on from where it is (fold.md rules 15 and 16).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Container, Iterable, Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from streams.kafka import groups
from streams.kafka.admin import Cluster, ClusterError
from streams.kafka.changelog import Place, place_of
from streams.kafka.log import LASTING
from streams.kafka.names import PROCESSORS, Names
from streams.kafka.offsets import ReadError, high_watermarks, last_stable_offsets, start_offsets
from streams.kafka.restoring import Restored
from streams.kafka.rocks import Head, PartitionStore, open_store
from streams.kafka.settings import KafkaSettings
from streams.kafka.silence import Silences
from streams.kafka.standby_plan import followed_by
from streams.kafka.status import MemberStatus, StandbyStatus
from streams.runtime.local_store import LocalHead
from streams.runtime.tables import StorageError
from streams.runtime.takeover import TakeoverRefusedError

LOG = logging.getLogger(__name__)

PLAN_S: Final = 2.0
"""How often the group is looked at where there is something to follow."""

LISTEN_S: Final = 0.5
LISTEN_TIMEOUT_S: Final = 2.0
"""How often others' partitions are looked at for whether their owners are at work, and how long that may take."""

RETRY_S: Final = 30.0
"""When to try again to follow what could not be followed."""

REFRESH_S: Final = 600.0
"""How often an idle copy notes that it still misses nothing."""

BATCH: Final = 1_000
POLL_S: Final = 0.2
_STOP_WAIT_S: Final = 10.0


class Copy:
    """One partition that is followed. Whoever uses it holds the lock of its `Standbys`."""

    def __init__(
        self,
        place: Place,
        store: PartitionStore,
        start_offset: int,
        status: StandbyStatus,
        passable: Container[int],
    ) -> None:
        self.place = place
        self.store = store
        self.status = status
        self._logged = False
        head = store.head()
        self.since_ms = _now_ms() if head is None else head.local.time_ms
        self.begin = place.begin(head, start_offset)
        self._found = Restored(place.name, self.begin, passable)
        status.next_offset = self.begin

    def take(self, batch: list[Message]) -> None:
        """Go on with records. Raises StorageError, TakeoverRefusedError."""
        status, found = self.status, self._found
        self._write(found.take(batch), found.next_offset)
        status.next_offset = found.next_offset
        status.records_total += len(batch)
        if found.position is not None:
            status.checkpoint_offset = found.position.offset

    def at_end(self, offset: int, time_ms: int) -> None:
        """Everything below an offset was read, and nothing more was there then. Raises StorageError."""
        if not self._logged:
            self.store.flush()  # what was not logged has to be in files before anything is
            self._logged = True
        self.since_ms = time_ms
        self.status.next_offset = self.status.end_offset = offset
        self.status.state = "following"
        self._write((), offset)

    def _write(self, changed: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        head = Head(LocalHead(self.place.topic_id, offset, self.since_ms), self._found.first)
        self.store.apply(changed, head, logged=self._logged)


class Standbys:
    """Follows what the plan gives this member, on a thread of its own, which runs once `know` was called.

    The member's thread says with `know` what it has, and takes a copy for itself with `release`.
    """

    def __init__(
        self, settings: KafkaSettings, processor: str, partitions: int, status: MemberStatus
    ) -> None:
        names = Names(settings.prefix)
        self._cluster: Cluster | None = None
        self._consumer: Consumer | None = None
        self._silences = Silences(settings.checkpoint_age_ms / 1000)
        self._settings = settings
        self._processor = processor
        self._partitions = partitions
        self._input = names.topic(PROCESSORS[processor])
        self._group = names.group(processor)
        self._topic = names.changelog(processor)
        self._status = status
        self._lock = threading.Lock()
        self._copies: dict[int, Copy] = {}
        self._opening: dict[int, threading.Event] = {}
        self._member_id = ""
        self._held: Mapping[int, threading.Event | None] = {}
        self._retry_at_s: dict[int, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{processor}-standbys", daemon=True)

    # The member's side

    def know(self, member_id: str, held: Mapping[int, threading.Event | None]) -> None:
        """What the member is called in its group, and which partitions it holds: the local store of each that it has
        given up is free once its event is set, those with None are its own.
        """
        with self._lock:
            self._member_id, self._held = member_id, held
        if not self._thread.ident:
            self._thread.start()

    def release(self, number: int) -> tuple[PartitionStore | None, threading.Event | None]:
        """Follow a partition no more, since the member is to own it: its copy, if there is one.

        One that is only being opened is closed instead, after which the event is set.
        """
        with self._lock:
            self._held = {**self._held, number: None}
            self._status.standbys.pop(number, None)
            copy = self._copies.pop(number, None)
            return (None if copy is None else copy.store), self._opening.get(number)

    def stop(self) -> None:
        """Let go of all copies and end; a cluster that does not answer is not waited for."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(_STOP_WAIT_S)

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception:
                LOG.exception("%s is not followed for %.0f s", self._topic, RETRY_S)
            self._stopping.wait(RETRY_S)

    def _follow(self) -> None:
        """Keep copies until the member stops."""
        assigned: dict[int, Copy] = {}
        listen_at_s = plan_at_s = refresh_at_s = 0.0
        silent: frozenset[int] = frozenset()
        try:
            while not self._stopping.is_set():
                now_s = time.monotonic()
                if now_s >= listen_at_s:
                    listen_at_s = now_s + LISTEN_S
                    heard, silent = silent, self._listen(now_s)
                    if silent - heard:
                        LOG.warning("%s: the owners of partitions %s are silent", self._topic, sorted(silent))
                        plan_at_s = 0.0
                if now_s >= plan_at_s and (self._settings.standbys or silent or self._copies):
                    plan_at_s = now_s + PLAN_S
                    self._follow_plan(now_s, silent)
                if now_s >= refresh_at_s and self._copies:
                    refresh_at_s = now_s + REFRESH_S
                    self._refresh()
                if self._copies or assigned:
                    self._assign(assigned)
                    self._read()
                else:
                    self._stopping.wait(POLL_S)
        finally:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
            for number in list(self._copies):
                self._drop(number)

    def _listen(self, now_s: float) -> frozenset[int]:
        """The partitions whose owners are silent, as far as that can be told now."""
        with self._lock:
            others = [number for number in range(self._partitions) if not self._is_held(number)]
        inputs: dict[int, int] = {}
        changelogs: dict[int, int] = {}  # empty where it cannot be told: who waits for brokers is not silent
        if others:
            client = self._connected.client
            try:
                inputs = high_watermarks(client, self._input, others, LISTEN_TIMEOUT_S)
                changelogs = high_watermarks(client, self._topic, others, LISTEN_TIMEOUT_S)
            except ReadError as error:
                LOG.info("nothing is known of owners: %s", error)
        self._silences.note(now_s, inputs, changelogs)
        return self._silences.silent(now_s)

    @property
    def _connected(self) -> Cluster:
        """Connections to the cluster, which a member that owns everything never needs."""
        if self._cluster is None:
            self._cluster = Cluster(self._settings)
        return self._cluster

    @property
    def _reading(self) -> Consumer:
        """The consumer of what is followed."""
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **self._settings.consumer({"fetch.wait.max.ms": 500}),
                    "group.id": f"{self._group}-standby",  # required, and never joined
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                },
                logger=LOG,
            )
        return self._consumer

    def _read(self) -> None:
        first = self._reading.poll(POLL_S)
        if first is None:
            return
        batches: dict[int, list[Message]] = {}
        for message in (first, *self._reading.consume(BATCH, 0)):
            number, error = message.partition(), message.error()
            if number is None:
                LOG.warning("%s: %s", self._topic, "" if error is None else error.str())
            elif error is None:
                batches.setdefault(number, []).append(message)
            else:
                self._take(number, batches.pop(number, []))
                self._look_at(number, error, message.offset())
        for number, batch in batches.items():
            self._take(number, batch)

    def _take(self, number: int, batch: list[Message]) -> None:
        if not batch:
            return
        place = TopicPartition(self._topic, number)
        _, high = self._reading.get_watermark_offsets(place, cached=True)
        with self._lock:
            copy = self._copies.get(number)
            if copy is None:
                return
            try:
                copy.take(batch)
                copy.status.end_offset = max(copy.status.next_offset, high)
                return
            except (StorageError, TakeoverRefusedError) as error:
                reason = str(error)
        self._give_up(number, reason)

    def _look_at(self, number: int, error: KafkaError, offset: int | None) -> None:
        if error.code() == KafkaError._PARTITION_EOF and offset is not None:
            self._at_end(number, offset)
        elif error.code() in LASTING:
            self._give_up(number, f"{self._topic}/{number} cannot be read on: {error.str()}")
        else:
            LOG.warning("%s/%d: %s", self._topic, number, error.str())

    def _at_end(self, number: int, offset: int) -> None:
        with self._lock:
            copy = self._copies.get(number)
            if copy is None:
                return
            try:
                copy.at_end(offset, _now_ms())
                return
            except StorageError as error:
                reason = str(error)
        self._give_up(number, reason)

    # What is followed

    def _follow_plan(self, now_s: float, silent: frozenset[int]) -> None:
        """Bring what is followed up to the plan; while the group is on the move, it stays as it is."""
        with self._lock:
            member_id = self._member_id
        try:
            group = groups.describe(self._connected.client, [self._group])[self._group]
        except ClusterError as error:
            LOG.warning("%s: %s", self._topic, error)
            return
        if not group.stable or all(member.id != member_id for member in group.members):
            return
        standbys = self._settings.standbys
        wanted = followed_by(member_id, group.members, self._input, self._partitions, standbys or 1)
        if not standbys:
            wanted &= silent
        for number in set(self._copies) - wanted:
            self._drop(number)
        for number in sorted(wanted - set(self._copies)):
            if now_s >= self._retry_at_s.get(number, 0.0):
                self._open(number)

    def _open(self, number: int) -> None:
        """Begin to follow a partition, unless this member holds it."""
        opened = threading.Event()
        with self._lock:
            if self._is_held(number):
                return
            self._opening[number] = opened
            status = StandbyStatus(self._processor, number)
        copy, reason = None, ""
        try:
            copy = self._copy(number, status)
        except (StorageError, ReadError, ClusterError, TakeoverRefusedError) as error:
            reason = str(error)
        with self._lock:
            del self._opening[number]
            held = self._is_held(number)
            if copy is not None and not held:
                self._copies[number] = copy
            if not held:
                self._status.standbys[number] = status
        if copy is not None and held:
            copy.store.close()
        opened.set()
        if reason:
            self._give_up(number, reason)

    def _is_held(self, number: int) -> bool:
        """Whether the member owns a partition, is about to, or has not yet let go of its store."""
        return number in self._held and not ((gone := self._held[number]) and gone.is_set())

    def _copy(self, number: int, status: StandbyStatus) -> Copy:
        place = place_of(
            self._settings, self._processor, number, self._connected.check()[f"{self._processor}-changelog"]
        )
        client = self._connected.client
        stable = last_stable_offsets(client, place.topic, [number])[number]
        store = open_store(
            place.folder,
            self._settings.block_cache_bytes,
            lambda head: place.reason_to_wipe(head, stable),
        )
        try:
            start = start_offsets(client, place.topic, [number])[number]
            copy = Copy(place, store, start, status, self._settings.passed_over(place.topic, number))
        except BaseException:
            store.close()
            raise
        status.end_offset = stable
        return copy

    def _drop(self, number: int) -> None:
        """Follow a partition no more; its copy stays on disk."""
        with self._lock:
            copy = self._copies.pop(number, None)
            self._status.standbys.pop(number, None)
        if copy is not None:
            copy.store.close()

    def _give_up(self, number: int, reason: str) -> None:
        """Let go of a copy that cannot be kept up, and begin again with it later."""
        LOG.error("%s/%d is not followed: %s", self._topic, number, reason)
        with self._lock:
            copy = self._copies.pop(number, None)
            status = self._status.standbys.get(number)
            if status is not None:
                status.state, status.reason = "refused", reason
        if copy is not None:
            copy.store.close()
        self._retry_at_s[number] = time.monotonic() + RETRY_S

    def _assign(self, assigned: dict[int, Copy]) -> None:
        """Have the consumer read what is followed, each copy from where it is, and nothing else."""
        with self._lock:
            wanted = dict(self._copies)
        gone = [number for number, copy in assigned.items() if wanted.get(number) is not copy]
        if gone:
            self._reading.incremental_unassign([TopicPartition(self._topic, number) for number in gone])
        come = {number: copy for number, copy in wanted.items() if assigned.get(number) is not copy}
        if come:
            self._reading.incremental_assign(
                [TopicPartition(self._topic, number, copy.begin) for number, copy in come.items()]
            )
        assigned.clear()
        assigned.update(wanted)

    def _refresh(self) -> None:
        """Note where the changelogs end, and that copies of idle ones still miss nothing; begin again with others."""
        now_ms = _now_ms()
        try:
            ends = high_watermarks(self._connected.client, self._topic, list(self._copies))
        except ReadError as error:
            LOG.warning("%s", error)
            return
        for number, end in ends.items():
            with self._lock:
                copy = self._copies.get(number)
                behind = copy is not None and copy.status.next_offset < end
                age_ms = 0 if copy is None else now_ms - copy.since_ms
                limit_ms = 0 if copy is None else copy.place.delete_retention_ms // 2
            if copy is None:
                continue
            if not behind:
                self._at_end(number, end)
            elif age_ms > limit_ms:
                self._give_up(
                    number, f"it is {age_ms} ms behind, and deletions are kept for {2 * limit_ms} ms"
                )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
