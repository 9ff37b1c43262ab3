"""Both stores in one SQLite file of their own, each with how far it got: for small set-ups on one machine."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from streams import avro
from streams.bodies import HistoryBatch, RunVisible
from streams.runtime.partition import Position
from streams.stores.damage import StoreDamagedError, StoreError, of_sqlite
from streams.stores.materializers import event_batch, grouped, run_key, visibility_row
from streams.stores.schema import create_tables
from streams.stores.sqlite_history import SqliteHistoryStore
from streams.stores.sqlite_readers import SqliteReaders
from streams.stores.sqlite_visibility import SqliteVisibilityStore

APPLICATION_ID: Final = 0x4F445253
BUSY_TIMEOUT_MS: Final = 10_000
_DAY_MS: Final = 24 * 3600 * 1000
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS materialized (
        topic TEXT NOT NULL, partition INTEGER NOT NULL, position BLOB NOT NULL, PRIMARY KEY (topic, partition)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS deleted_runs (run_id TEXT PRIMARY KEY, deleted_ms INTEGER NOT NULL) STRICT;
"""


def create_file(path: Path) -> None:
    """Make the file of both stores where it is missing. Raises StoreError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if application != APPLICATION_ID and (application or tables):
                raise StoreDamagedError(f"{path} is not a file of stores")
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.executescript(_SCHEMA)
            create_tables(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be used for stores: {error}") from error


class _Sink:
    """A connection that writes, with positions. Used by one thread, whichever opens it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def positions(self, topic: str) -> Mapping[int, Position]:
        """See streams.kafka.materializer.StoreSink."""
        with self._transaction() as tx:
            rows = tx.execute(
                "SELECT partition, position FROM materialized WHERE topic = ?", (topic,)
            ).fetchall()
        try:
            return {partition: avro.decode(Position, data) for partition, data in rows}
        except avro.DecodeError as error:
            raise StoreDamagedError(f"the position of {topic} in {self._path} is damaged: {error}") from error

    def write(self, topic: str, bodies: Sequence[Any], positions: Mapping[int, Position]) -> None:
        """See streams.kafka.materializer.StoreSink."""
        with self._transaction() as tx:
            for deletions, group in grouped(bodies):
                self._write(tx, deletions, group)
            tx.executemany(
                "INSERT OR REPLACE INTO materialized VALUES (?, ?, ?)",
                [(topic, number, avro.encode(position)) for number, position in positions.items()],
            )

    def _write(self, tx: sqlite3.Connection, deletions: bool, bodies: Sequence[Any]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """See streams.kafka.materializer.StoreSink."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed at the end. Raises StoreError."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                self._connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
                self._connection.execute("PRAGMA synchronous=FULL")
            tx = self._connection
            tx.execute("BEGIN IMMEDIATE")
            try:
                yield tx
            except BaseException:
                tx.execute("ROLLBACK")
                raise
            tx.execute("COMMIT")
        except sqlite3.Error as error:
            raise of_sqlite(error) or StoreError(f"{self._path} cannot be written: {error}") from error


class SqliteHistorySink(_Sink):
    """Histories on their way into the file."""

    def __init__(self, path: Path, store: SqliteHistoryStore) -> None:
        super().__init__(path)
        self._store = store

    def _write(self, tx: sqlite3.Connection, deletions: bool, bodies: Sequence[Any]) -> None:
        if deletions:
            self._store.delete_runs(tx, [run_key(body) for body in bodies])
        else:
            self._store.write(tx, [event_batch(body) for body in bodies if isinstance(body, HistoryBatch)])


class SqliteVisibilitySink(_Sink):
    """Rows of runs on their way into the file; what was deleted within a day does not come back.

    `types_of` gives a namespace's custom search attributes.
    """

    def __init__(
        self, path: Path, store: SqliteVisibilityStore, types_of: Callable[[str], Mapping[str, int]]
    ) -> None:
        super().__init__(path)
        self._store = store
        self._types_of = types_of

    def _write(self, tx: sqlite3.Connection, deletions: bool, bodies: Sequence[Any]) -> None:
        if deletions:
            now_ms = time.time_ns() // 1_000_000
            self._store.delete(tx, [run_key(body) for body in bodies])
            tx.execute("DELETE FROM deleted_runs WHERE deleted_ms < ?", (now_ms - _DAY_MS,))
            tx.executemany(
                "INSERT OR REPLACE INTO deleted_runs VALUES (?, ?)",
                [(body.run_id, now_ms) for body in bodies],
            )
            return
        newest = {body.run_id: body for body in bodies if isinstance(body, RunVisible)}
        for run_id in list(newest):
            if tx.execute("SELECT 1 FROM deleted_runs WHERE run_id = ?", (run_id,)).fetchone():
                del newest[run_id]
        self._store.write(
            tx, [visibility_row(b, self._types_of(b.namespace), trust_marks=True) for b in newest.values()]
        )


class SqliteStores:
    """The file at `path`: its readers, and what materializers write it with. Raises StoreError.

    `types_of` gives a namespace's custom search attributes.
    """

    def __init__(self, path: Path, types_of: Callable[[str], Mapping[str, int]]) -> None:
        create_file(path)
        self._path = path
        self._types_of = types_of
        self._readers = SqliteReaders(path)
        self.history = SqliteHistoryStore(self._readers)
        self.visibility = SqliteVisibilityStore(self._readers)

    def history_sink(self) -> SqliteHistorySink:
        """What a materializer of histories writes."""
        return SqliteHistorySink(self._path, self.history)

    def visibility_sink(self) -> SqliteVisibilitySink:
        """What a materializer of visibility writes."""
        return SqliteVisibilitySink(self._path, self.visibility, self._types_of)

    def close(self) -> None:
        """Close what reads."""
        self._readers.close()
