"""The engine in one process over one SQLite file: every partition, its log, and the stores.

All partitions append in one total order. Records that are there at the same moment are folded at once, with
what they emit, and commit together; every answer waits for the commit that covers what it rests on (fold.md
rule 17). Checkpoints ride on those commits: about once a second the rows that changed since the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from streams import avro, bodies, topology
from streams.history_processor import HistoryProcessor
from streams.matching_processor import MatchingProcessor
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.committer import Committer
from streams.runtime.database import Commit, Database, PartitionCheckpoint
from streams.runtime.failures import EngineFailedError
from streams.runtime.logic import UnsupportedLogicError, marker
from streams.runtime.partition import DeadLetter, Partition, PartitionHaltedError
from streams.runtime.records import Correlation, Record, Reply, Tick, Undecodable
from streams.runtime.tables import StorageError
from streams.stores.materializers import DeadLetterSink, HistorySink, RegistrySink, Sink, VisibilitySink
from streams.stores.sqlite_history import SqliteHistoryStore
from streams.stores.sqlite_readers import SqliteReaders
from streams.stores.sqlite_visibility import SqliteVisibilityStore
from streams.timer_processor import TimerProcessor

LOG = logging.getLogger(__name__)

CHECKPOINT_MS = 1_000
"""How old changes get before a commit carries a checkpoint."""

PUMP_BUDGET_S = 0.005
"""How long records are folded before other tasks of the loop get their turn."""

IDLE_COMMIT_S = 0.02
"""How long records for which nobody waits may stay out of the log."""

IDLE_BATCH = 256
"""How many such records are committed without waiting any longer."""

BUSY_REPLIES = 4
"""After a commit that answered at least this many calls, records are folded in bursts."""

BURST_S = 0.004
"""How long a burst gathers: code and state stay in the processor's caches, and one commit serves more calls."""

CACHE_PARTS = 10_000
"""Parts of clean entities that each table keeps in memory."""

SAFETY_SPAN = 2_000
"""Records below the checkpoint that stay in the log, for inspection."""

EXTERNAL = "external"
"""The chainless source of records appended by the process itself."""


class EmbeddedEngine:
    """Implements `gateway.engine.Engine` on one SQLite file.

    `clock_ms` is the wall clock; `on_failure` is called once, on the loop, when the engine cannot go on;
    `on_visible` is told what lists show of a run whenever that changes, restarts not repeated.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_failure: Callable[[BaseException], None],
        on_visible: Callable[[bodies.RunVisible], None] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._database = Database(path)
        self._clock_ms = clock_ms
        self._on_failure = on_failure
        self._on_visible = on_visible
        self._codec = Codec(BODY_TYPES)
        self._readers = SqliteReaders(path)
        self.registry = RegistrySink(self._database.registry())
        self.history = HistorySink(SqliteHistoryStore(self._readers))
        self.visibility_store = SqliteVisibilityStore(self._readers)
        visibility = VisibilitySink(self.visibility_store, self.registry.types_of)
        self.dead_letters = DeadLetterSink()
        self._sinks: dict[str, tuple[Sink, ...]] = {
            topology.HISTORY: (self.history,),
            topology.VISIBILITY: (visibility,),
            topology.REGISTRY: (self.registry,),
            topology.DEAD_LETTERS: (self.dead_letters,),
        }
        self._deleted_sinks: tuple[Sink, ...] = (self.history, visibility)
        self._all_sinks: tuple[Sink, ...] = (self.history, visibility, self.registry, self.dead_letters)
        self.partitions = {
            processor.input_topic: Partition(
                processor,
                0,
                self._database,
                self._database,
                lambda topic, key: 0,
                lambda topic: 1,
                CACHE_PARTS,
            )
            for processor in (HistoryProcessor(), MatchingProcessor(), TimerProcessor())
        }
        self._committer = Committer(self._database.commit)
        self._gateways: dict[str, tuple[int, Callable[[int, Reply], None]]] = {}
        self._inbox: deque[Record] = deque()
        self._queue: deque[Record] = deque()
        self._sequence = 0
        self._offset = -1
        self._time_ms = 0
        self._batch: list[Record] = []
        self._replies: list[tuple[Correlation, Reply]] = []
        self._committing = False
        self._idle: asyncio.Future[None] | None = None
        self._idle_handle: asyncio.TimerHandle | None = None
        self._last_replies = 0
        self._checkpointed_ms = 0
        self._dirty = False
        self._checkpoint_wanted = False
        self._checkpointed = -1
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._pump_handle: asyncio.Handle | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._tick_at_ms = 0
        self._failure: BaseException | None = None
        self._running = False
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self._epoch = 0

    # Life

    async def start(self) -> None:
        """Restore the last checkpoint, fold the log's tail again, and go. Raises EngineFailedError."""
        self._loop = asyncio.get_running_loop()
        try:
            self._restore()
        except (StorageError, PartitionHaltedError, UnsupportedLogicError) as error:
            self._failure = error
            raise EngineFailedError(str(error)) from error
        self._raise_logic()
        self._running = True
        self._epoch = max(
            self._clock_ms(), self._time_ms + 1, *(p.newest_epoch() + 1 for p in self.partitions.values())
        )
        self._schedule_tick()
        self._wake()
        await asyncio.sleep(0)

    def _restore(self) -> None:
        """Be where the log ends. Raises StorageError for a file that does not hold what it should."""
        positions = self._database.positions()
        for partition in self.partitions.values():
            if partition.name in positions:
                partition.restore(positions[partition.name])
        self._offset = self._database.last_offset()
        if any(partition.offset > self._offset for partition in self.partitions.values()):
            raise StorageError(f"the log ends at {self._offset}, before the checkpoint")
        self._time_ms = max(p.now_ms for p in self.partitions.values())
        self._checkpointed = min(p.offset for p in self.partitions.values())
        self._refold(self._checkpointed)
        self.registry.show(self.registry.take_uncommitted())

    def _raise_logic(self) -> None:
        """Go over to the newest logic, now that the tail was folded by the one that it was first folded by.

        The only member decides alone (fold.md rule 9). A new log begins with these markers.
        """
        for partition in self.partitions.values():
            if partition.logic.version < partition.logic.supported:
                topic, newest = partition.processor.input_topic, partition.logic.supported
                self._inbox.append(marker(topic, partition.number, newest))

    def _refold(self, position: int) -> None:
        """Fold the tail again. What it emits is appended unless the tail holds it; chains drop the rest."""
        held: set[tuple[str, str, int, int]] = set()
        emitted: list[Record] = []
        for data in self._database.batches(position):
            for record in self._decoded(data):
                if not isinstance(
                    record.body, Tick
                ):  # A tick has no place in a chain, but a number like one.
                    held.add((record.topic, record.source, record.origin_offset, record.index))
                partition = self.partitions[record.topic]
                self._time_ms = max(self._time_ms, record.time_ms)
                if record.offset > partition.offset:
                    self._fold(partition, record, emitted.append)
        self._queue.extend(r for r in emitted if (r.topic, r.source, r.origin_offset, r.index) not in held)
        self._replies.clear()

    def _decoded(self, data: bytes) -> list[Record]:
        """The records of a batch of the log, all of which this process could have written."""
        try:
            records = self._codec.decode_batch(data)
        except avro.DecodeError as error:
            raise StorageError(f"a batch of the log is damaged: {error}") from error
        for record in records:
            if isinstance(record.body, Undecodable):
                raise StorageError(
                    f"record {record.offset} of the log cannot be read: {record.body.reason}. If a newer release"
                    " wrote the file, start that one"
                )
        return records

    async def stop(self) -> None:
        """Write a last checkpoint and close the file."""
        if self._failure is None:
            with contextlib.suppress(EngineFailedError):
                await self.flush()
        self._running = False
        for handle in (self._pump_handle, self._tick_handle, self._idle_handle):
            if handle is not None:
                handle.cancel()
        if self._committing:
            self._idle = self._loop.create_future()
            await self._idle
        self._committer.close()
        self._readers.close()
        self._database.close()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._running = False
            for _, future in self._flushes:
                if not future.done():
                    future.set_exception(EngineFailedError(str(error)))
            self._flushes.clear()
            self._on_failure(error)

    # What the gateway uses

    def attach_gateway(self, name: str, on_reply: Callable[[int, Reply], None]) -> int:
        """See gateway.engine.Engine."""
        self._epoch += 1
        epoch = self._epoch
        self._gateways[name] = (epoch, on_reply)
        self.append(topology.TASKS, name, bodies.GatewayLease(name, epoch, 0))
        return epoch

    def append(
        self, topic: str, key: str, body: msgspec.Struct, correlation: Correlation | None = None
    ) -> None:
        """See gateway.engine.Engine. Raises EngineFailedError once the engine has stopped."""
        if self._failure is not None:
            raise EngineFailedError(str(self._failure))
        self._sequence += 1
        self._inbox.append(
            Record(
                topic,
                0,
                key,
                body,
                source=EXTERNAL,
                origin_epoch=self._epoch,
                origin_offset=self._sequence,
                correlation=correlation,
            )
        )
        self._wake()

    async def flush(self) -> None:
        """See gateway.engine.Engine. Raises EngineFailedError."""
        if self._failure is not None:
            raise EngineFailedError(str(self._failure))
        self._pump()
        if self._checkpointed >= self._offset:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._flushes.append((self._offset, future))
        self._checkpoint_wanted = True
        self._commit_soon()
        await future

    @property
    def namespaces(self) -> Mapping[str, bodies.NamespaceConfig]:
        """See gateway.engine.Engine."""
        return self.registry.namespaces

    async def read_events(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """See gateway.engine.Engine."""
        return await self.history.read(run_id, first_event_id, last_event_id, max_bytes)

    # Folding

    def _wake(self) -> None:
        if self._pump_handle is None and self._running:
            if self._last_replies >= BUSY_REPLIES:
                self._pump_handle = self._loop.call_later(BURST_S, self._pump)
            else:
                self._pump_handle = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Append and fold what waits, and what that emits, until nothing is left or the budget is used up."""
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None
        if not self._running:
            return
        self._time_ms = max(self._time_ms, self._clock_ms())
        until = time.perf_counter() + PUMP_BUDGET_S
        queue, inbox = self._queue, self._inbox
        try:
            while queue or inbox:
                self._append(queue.popleft() if queue else inbox.popleft())
                if time.perf_counter() > until:
                    self._pump_handle = self._loop.call_soon(self._pump)
                    break
        except Exception as error:
            self._fail(error)
            return
        self._schedule_tick()
        self._commit_soon()

    def _append(self, record: Record) -> None:
        self._offset += 1
        record.offset = self._offset
        record.time_ms = self._time_ms
        self._batch.append(record)
        self._fold(self.partitions[record.topic], record, self._queue.append)

    def _fold(self, partition: Partition, record: Record, emit: Callable[[Record], None]) -> None:
        outcome = partition.step(record)
        self._dirty = True
        for emission in outcome.emissions:
            sinks = self._sinks.get(emission.topic)
            if sinks is None:
                emit(emission)
            elif emission.topic == topology.HISTORY and type(emission.body) is bodies.RunDeleted:
                for sink in self._deleted_sinks:
                    sink.accept(emission.body)
            else:
                for sink in sinks:
                    sink.accept(emission.body)
                if (
                    self._on_visible is not None
                    and self._running
                    and isinstance(emission.body, bodies.RunVisible)
                ):
                    self._on_visible(emission.body)
        for _, reply in outcome.replies:
            if reply.held:
                self.history.hold(reply.attach_run, reply.held_first_id, reply.held)
        self._replies.extend(outcome.replies)
        if outcome.warnings and self._running:
            for sentence in outcome.warnings:
                LOG.warning(sentence)
        if outcome.verdicts:
            self._note_verdicts(outcome.verdicts)

    def _note_verdicts(self, verdicts: list[DeadLetter]) -> None:
        """A judged record is never judged by other code: a checkpoint covers it before its reply leaves."""
        self._checkpoint_wanted = True
        for letter in verdicts:
            self.dead_letters.accept(letter)
            LOG.error("record %s of %s set aside: %s", letter.offset, letter.key, letter.reason)

    # Time

    def _schedule_tick(self) -> None:
        due_ms = min(partition.due.next_due_ms() for partition in self.partitions.values())
        if self._tick_handle is not None:
            if due_ms >= self._tick_at_ms:
                return
            self._tick_handle.cancel()
        self._tick_at_ms = due_ms
        delay_s = max(due_ms - self._clock_ms(), 0) / 1000
        self._tick_handle = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._tick_handle = None
        if not self._running:
            return
        now_ms = max(self._time_ms, self._clock_ms())
        for partition in self.partitions.values():
            if partition.due.next_due_ms() <= now_ms:
                self._inbox.append(
                    Record(
                        partition.processor.input_topic,
                        partition.number,
                        "",
                        Tick(),
                        source=partition.name,
                        origin_offset=self._offset + 1,
                    )
                )
        self._pump()

    # Committing

    def _commit_soon(self) -> None:
        """Commit at once when somebody waits for it, else within a moment: polls alone are in no hurry."""
        if self._committing or not self._running:
            return
        if self._replies or self._checkpoint_due() or len(self._batch) >= IDLE_BATCH:
            self._commit()
        elif self._batch and self._idle_handle is None:
            self._idle_handle = self._loop.call_later(IDLE_COMMIT_S, self._commit_idle)

    def _commit_idle(self) -> None:
        self._idle_handle = None
        if self._batch and not self._committing and self._running:
            self._commit()

    def _checkpoint_due(self) -> bool:
        return self._checkpoint_wanted or (
            self._dirty and self._time_ms - self._checkpointed_ms >= CHECKPOINT_MS
        )

    def _commit(self) -> None:
        """Hand everything folded so far to the commit thread."""
        try:
            checkpoint = self._checkpoint_due()
            if checkpoint:
                # A checkpoint stands for its emissions too: they have to be in the log with it.
                while self._queue:
                    self._append(self._queue.popleft())
            batch, self._batch = self._batch, []
            replies, self._replies = self._replies, []
            commit = Commit()
            if batch:
                commit.first, commit.last = batch[0].offset, batch[-1].offset
                commit.records = self._codec.encode_batch(batch)
            if checkpoint:
                self._freeze(commit)
        except Exception as error:
            self._fail(error)
            return
        offset = self._offset
        namespaces = self.registry.take_uncommitted()
        self._committing = True
        self._committer.submit(
            commit, lambda error: self._committed(error, offset, checkpoint, namespaces, replies)
        )

    def _committed(
        self,
        error: BaseException | None,
        offset: int,
        checkpoint: bool,
        namespaces: Mapping[str, bodies.NamespaceConfig | None],
        replies: list[tuple[Correlation, Reply]],
    ) -> None:
        self._committing = False
        if error is not None:
            self._fail(error)
        else:
            self._last_replies = len(replies)
            self.registry.show(namespaces)
            if checkpoint:
                self._checkpoint_written(offset)
            self._send(replies)
            self._commit_soon()
        if self._idle is not None and not self._committing and not self._idle.done():
            self._idle.set_result(None)

    def _checkpoint_written(self, offset: int) -> None:
        self._checkpointed = offset
        for partition in self.partitions.values():
            partition.due.written()
            for table in partition.tables.values():
                table.written()
        for sink in self._all_sinks:
            sink.written()
        self._release_flushes()

    def _freeze(self, commit: Commit) -> None:
        self._checkpoint_wanted = False
        self._dirty = False
        self._checkpointed_ms = self._time_ms
        for partition in self.partitions.values():
            partition.offset = self._offset
            rows = [row for table in partition.tables.values() for row in table.freeze()]
            commit.partitions = [
                *commit.partitions,
                PartitionCheckpoint(
                    partition.name,
                    partition.number,
                    partition.position(len(rows)),
                    rows,
                    partition.due.freeze(),
                ),
            ]
        commit.stores = [write for sink in self._all_sinks if (write := sink.freeze()) is not None]
        commit.truncate_below = max(self._offset - SAFETY_SPAN, 0)

    def _release_flushes(self) -> None:
        waiting, self._flushes = self._flushes, []
        for offset, future in waiting:
            if offset <= self._checkpointed:
                if not future.done():
                    future.set_result(None)
            else:
                self._flushes.append((offset, future))
                self._checkpoint_wanted = True

    def _send(self, replies: list[tuple[Correlation, Reply]]) -> None:
        for correlation, reply in replies:
            gateway = self._gateways.get(correlation.gateway)
            if gateway is not None and gateway[0] == correlation.epoch:
                gateway[1](correlation.id, reply)
