"""A database file, read only: also one that a running server writes to, as of its last commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from streams import avro, topology
from streams.bodies import HistoryBatch, RunDeleted
from streams.history.state import UNTOLD
from streams.history.step import CURRENT, EXECUTIONS, current_key, run_key
from streams.history_processor import HistoryProcessor
from streams.matching_processor import MatchingProcessor
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.database import APPLICATION_ID, FORMAT, DatabaseError
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.partition import DeadLetter, Partition, PartitionHaltedError, Position
from streams.runtime.records import Record
from streams.runtime.tables import Entity
from streams.stores.sqlite_history import read_events
from streams.timer_processor import TimerProcessor

PROCESSORS = (HistoryProcessor, MatchingProcessor, TimerProcessor)
KINDS = {spec.name: spec.kinds for processor in PROCESSORS for spec in processor.tables}
"""The struct of each kind of part, by table."""

_ALL_BYTES = 2**62


class Run(msgspec.Struct):
    """A run as of the last record in the log: its parts (kind, id, value), and its events with their ids.

    `stored_event_id` is the last event that the history store has; what follows was folded from the log's tail.
    """

    entity: Entity
    events: list[tuple[int, bytes]]
    stored_event_id: int


class DatabaseFile:
    """A file opened for looking: one snapshot, no lock. Use it as a context manager.

    Raises DatabaseError when there is no such file or it is not ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._codec = Codec(BODY_TYPES)
        if not path.is_file():
            raise DatabaseError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
        # Without a write-ahead log beside it nobody has the file open: then nothing need be made beside it.
        mode = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?{mode}", uri=True, isolation_level=None
            )
            self._check()
            self._connection.execute("BEGIN")
            rows = self._query("SELECT tbl, name FROM state_tables ORDER BY name")
            self._names: dict[int, str] = dict(rows)
        except sqlite3.Error as error:
            raise DatabaseError(f"{path} is not an Odradek database file ({error})") from error

    def __enter__(self) -> DatabaseFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _check(self) -> None:
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            raise DatabaseError(f"{self.path} is not an Odradek database file")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise DatabaseError(
                f"{self.path} has format {version}; this version reads up to {FORMAT}: use a newer release"
            )

    def _query(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise DatabaseError(f"{self.path}: {error}") from error

    # The log

    def records(self, after: int = -1) -> Iterator[Record]:
        """The records in the log with offsets above `after`, in order."""
        for (data,) in self._query("SELECT records FROM log WHERE last > ? ORDER BY first", after):
            for record in self._codec.decode_batch(data):
                if record.offset > after:
                    yield record

    def log_bounds(self) -> tuple[int, int]:
        """The first and the last offset in the log, (0, -1) when it is empty."""
        ((first, last),) = self._query("SELECT min(first), max(last) FROM log")
        return (0, -1) if first is None else (first, last)

    # Tables, as of the last checkpoint

    @property
    def tables(self) -> list[str]:
        """The tables there are."""
        return sorted({name.rpartition("/")[0] for name in self._names.values()})

    def rows(self, table: str) -> Iterator[tuple[str, str, str, msgspec.Struct]]:
        """Every row of a table: key, kind, id, value."""
        for number, name in self._names.items():
            if name.rpartition("/")[0] == table:
                sql = "SELECT key, kind, id, value FROM state WHERE tbl = ? ORDER BY key, kind, id"
                for key, kind, id, value in self._query(sql, number):
                    yield key, kind, id, avro.decode(KINDS[table][kind], value)

    def due(self) -> Iterator[tuple[str, str, int, int]]:
        """What falls due when: partition, key, time in ms, payload."""
        yield from self._query(
            "SELECT partition, key, due_ms, payload FROM due ORDER BY partition, due_ms, key"
        )

    def positions(self) -> list[tuple[str, Position]]:
        """What the last checkpoint stands for, by partition."""
        rows = self._query("SELECT partition, position FROM positions ORDER BY partition")
        return [(name, avro.decode(Position, data)) for name, data in rows]

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Records that changed nothing, in order."""
        for (data,) in self._query("SELECT letter FROM dead_letters ORDER BY offset"):
            yield avro.decode(DeadLetter, data)

    # What a partition restores itself from: see RowStore and DueStore

    def load(self, table: str, partition: int, key: str) -> list[tuple[str, str, bytes]]:
        """See RowStore."""
        sql = "SELECT kind, id, value FROM state JOIN state_tables USING (tbl) WHERE name = ? AND key = ?"
        return [(kind, id, value) for kind, id, value in self._query(sql, f"{table}/{partition}", key)]

    def keys(self, table: str, partition: int, prefix: str) -> list[str]:
        """See RowStore."""
        sql = (
            "SELECT DISTINCT key FROM state JOIN state_tables USING (tbl)"
            " WHERE name = ? AND key >= ? AND key < ? ORDER BY key"
        )
        return [key for (key,) in self._query(sql, f"{table}/{partition}", prefix, prefix + "\U0010ffff")]

    def load_due(self, partition_name: str, after_ms: int, until_ms: int) -> list[tuple[str, int, int]]:
        """See DueStore."""
        sql = "SELECT key, due_ms, payload FROM due WHERE partition = ? AND due_ms > ? AND due_ms <= ?"
        return [
            (key, due_ms, payload)
            for key, due_ms, payload in self._query(sql, partition_name, after_ms, until_ms)
        ]

    def due_row(self, partition_name: str, key: str) -> tuple[int, int] | None:
        """See DueStore."""
        sql = "SELECT due_ms, payload FROM due WHERE partition = ? AND key = ?"
        return next(((due_ms, payload) for due_ms, payload in self._query(sql, partition_name, key)), None)

    # Workflows, as of the last record

    def run(self, namespace: str, workflow_id: str, run_id: str) -> Run:
        """A run, the current one when `run_id` is empty: the log's tail is folded in memory.

        Raises DatabaseError when there is none, or when the tail cannot be folded.
        """
        partition, tail = self._folded()
        if not run_id:
            current = partition.tables[CURRENT].entity(current_key(namespace, workflow_id)).get(CURRENT)
            if current is None:
                raise DatabaseError(f"there is no workflow {workflow_id} in namespace {namespace}")
            run_id = current.run_id
        entity = partition.tables[EXECUTIONS].entity(run_key(namespace, workflow_id, run_id))
        if entity.empty:
            raise DatabaseError(f"workflow {workflow_id} of namespace {namespace} has no run {run_id}")
        events = read_events(self._connection, run_id, 1, _ALL_BYTES, _ALL_BYTES)
        stored = events[-1][0] if events else 0
        for batch in tail:
            if isinstance(batch, HistoryBatch) and batch.run_id == run_id:
                numbered = enumerate(batch.events, batch.first_event_id)
                events.extend((id, event) for id, event in numbered if id > stored)
        untold = entity.get(UNTOLD)
        if untold is not None:
            events.extend(enumerate(untold.events, untold.first_event_id))
        return Run(entity, events, stored)

    def _folded(self) -> tuple[Partition, list[HistoryBatch | RunDeleted]]:
        """The partition of workflows after the last record, and what its tail adds to histories."""
        partition = Partition(HistoryProcessor(), 0, self, self, lambda topic, key: 0, lambda topic: 1)
        tail: list[HistoryBatch | RunDeleted] = []
        try:
            for name, position in self.positions():
                if name == partition.name:
                    partition.restore(position)
            for record in self.records(partition.offset):
                if record.topic == topology.COMMANDS:
                    emissions = partition.step(record).emissions
                    tail.extend(one.body for one in emissions if one.topic == topology.HISTORY)
        except (PartitionHaltedError, UnsupportedLogicError) as error:
            raise DatabaseError(f"{self.path}: {error}") from error
        return partition, tail
