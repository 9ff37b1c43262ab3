"""What writes the stores from the topics that no processor folds: rows and positions in one transaction (rule 22).

The sinks and stores are the engine's, over a database in memory. It dies with what it has not committed, goes on
from its positions, and now and then has to begin again with empty stores.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streams import avro
from streams.bodies import HistoryBatch, RunDeleted, RunVisible
from streams.runtime.context import Context
from streams.runtime.partition import Partition, Position
from streams.runtime.records import Record
from streams.runtime.tables import TableSpec
from streams.stores.materializers import HistorySink, VisibilitySink
from streams.stores.schema import create_tables
from streams.stores.sqlite_history import SqliteHistoryStore
from streams.stores.sqlite_visibility import SqliteVisibilityStore
from streams.topology import HISTORY, VISIBILITY
from tests.simulation.checked import Violation
from tests.simulation.log import PartitionLog
from tests.support.memory import MemoryStore

if TYPE_CHECKING:
    from tests.simulation.world import World

TOPICS = (HISTORY, VISIBILITY)


class Reader:
    """A processor that only passes on what comes next."""

    tables: tuple[TableSpec, ...] = ()

    def __init__(self, topic: str, take: Callable[[Record], None]) -> None:
        self.name = "reader"
        self.input_topic = topic
        self._take = take

    def fold(self, context: Context, record: Record) -> None:
        """See Processor."""
        try:
            self._take(record)
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error

    def due(self, context: Context, key: str, payload: int) -> None:
        """See Processor."""

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """See Processor."""
        raise Violation(reason)


class Readers:
    """Reads of a database in memory, done at once in the calling thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def run(self, read: Callable[[sqlite3.Connection], Any]) -> Any:
        return read(self._connection)


class Materializers:
    """The roles that write the history and the visibility store, in one process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._logs: dict[str, PartitionLog] = {topic: world.logs[f"{topic}/0"] for topic in TOPICS}
        self.crashes = 0
        self._wipe()
        self._start()
        for log in self._logs.values():
            log.on_growth.append(self._grown)

    def _wipe(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        create_tables(self._database)
        self._database.execute(
            "CREATE TABLE positions (topic TEXT PRIMARY KEY, position BLOB NOT NULL) STRICT"
        )

    # Life

    def _start(self) -> None:
        self._up = True
        self._lagging = self._committing = False
        readers = Readers(self._database)
        self._history = HistorySink(SqliteHistoryStore(readers))  # type: ignore[arg-type]
        self._visibility = VisibilitySink(SqliteVisibilityStore(readers), lambda namespace: {})  # type: ignore[arg-type]
        self._partitions = {topic: self._partition(topic) for topic in TOPICS}
        self._read()

    def _partition(self, topic: str) -> Partition:
        world, store = self._world, MemoryStore()
        reader = Reader(topic, self._take)
        partition = Partition(reader, 0, store, store, world.partition_of, world.partition_count)
        row = self._database.execute("SELECT position FROM positions WHERE topic = ?", (topic,)).fetchone()
        if row is not None:
            position = avro.decode(Position, row[0])
            partition.restore(position, [self._logs[topic].read(offset) for offset in position.parked])
        return partition

    def crash(self, *, wiped: bool) -> None:
        """Die with what is not committed, or with everything."""
        if self._up:
            self._up = False
            self.crashes += 1
            if wiped:
                self._wipe()
            self._world.at(self._world.rng.randint(0, 1_500), self._start)

    # Reading topics

    def _grown(self) -> None:
        lag_ms = self._world.faults.lag_ms()
        if lag_ms and not self._lagging:
            self._lagging = True
            self._world.at(lag_ms, self._catch_up)
        self._read()

    def _catch_up(self) -> None:
        self._lagging = False
        self._read()

    def _read(self) -> None:
        if not self._up or self._lagging:
            return
        for topic, partition in self._partitions.items():
            log = self._logs[topic]
            while partition.offset + 1 < log.end:
                partition.step(log.read(partition.offset + 1))
        if not self._committing:
            self._committing = True
            self._world.at(self._world.rng.randint(0, 300), self._begin, self._partitions)

    def _take(self, record: Record) -> None:
        body = record.body
        if record.topic == HISTORY and isinstance(body, RunDeleted | HistoryBatch):
            self._history.accept(body)
        if type(body) is RunDeleted or isinstance(body, RunVisible):
            self._visibility.accept(body)

    # Writing stores

    def _begin(self, partitions: Any) -> None:
        """Freeze what there is; more may come until it is committed."""
        if not self._up or partitions is not self._partitions:
            return
        writes = [write for sink in (self._history, self._visibility) if (write := sink.freeze()) is not None]
        positions = {topic: avro.encode(p.position()) for topic, p in partitions.items()}
        self._world.at(self._world.rng.randint(0, 30), self._commit, partitions, writes, positions)

    def _commit(self, partitions: Any, writes: list[Any], positions: dict[str, bytes]) -> None:
        if not self._up or partitions is not self._partitions:
            return
        database = self._database
        database.execute("BEGIN")
        for write in writes:
            write(database)
        database.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", list(positions.items()))
        if self._world.faults.commit_outcome() == "failed":
            database.execute("ROLLBACK")
            self.crash(wiped=False)
            return
        database.execute("COMMIT")
        self._committing = False
        for sink in (self._history, self._visibility):
            sink.written()
        if any(positions[topic] != avro.encode(p.position()) for topic, p in partitions.items()):
            self._read()

    # What is there

    def read(self, run_id: str, first: int, last: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """Events of a run, as a gateway reads them: contiguous from `first`, or none when that is not there."""
        if not self._up:
            return []
        coroutine = self._history.read(run_id, first, last, max_bytes)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            found: list[tuple[int, bytes]] = stop.value
        self._world.judge.check_page(run_id, first, found)
        return found

    def check(self) -> None:
        """Everything is committed; the judge holds the stores against what there was to write."""
        for topic, partition in self._partitions.items():
            if partition.parked_count:
                raise Violation(f"{topic}: records wait behind a gap before the store")
        self._world.judge.check_stores(self._database)
