"""The embedded engine's SQLite file: log, tables, due times, positions and stores, committed together.

One connection writes, on a thread of its own; one reads on the caller's thread, for state that is loaded when it is
touched. Statements are few and large: every step of one costs the interpreter lock twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from streams import avro
from streams.runtime.due import DueRow
from streams.runtime.partition import Position
from streams.runtime.tables import Row, StorageError
from streams.stores.schema import create_tables
from streams.stores.sqlite_batches import RowsStatement

APPLICATION_ID = 0x0D7ADE17
"""Marks a SQLite file as ours (PRAGMA application_id)."""

FORMAT = 1
"""The format of the file (PRAGMA user_version); a newer one is refused."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, records BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS state (
    tbl INTEGER NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (tbl, key, kind, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state_tables (tbl INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS due (
    partition TEXT NOT NULL, key TEXT NOT NULL, due_ms INTEGER NOT NULL, payload INTEGER NOT NULL,
    PRIMARY KEY (partition, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS due_by_time ON due (partition, due_ms);
CREATE TABLE IF NOT EXISTS positions (partition TEXT PRIMARY KEY, position BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS registry (name TEXT PRIMARY KEY, config BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS dead_letters (offset INTEGER PRIMARY KEY, letter BLOB NOT NULL) STRICT;
"""

_APPEND = "INSERT INTO log VALUES (?, ?, ?)"
_PUT = RowsStatement("INSERT OR REPLACE INTO state (tbl, key, kind, id, value) VALUES", 5)
_DROP = RowsStatement.deleting("state", "tbl", "key", "kind", "id")
_PUT_DUE = RowsStatement("INSERT OR REPLACE INTO due (partition, key, due_ms, payload) VALUES", 4)
_DROP_DUE = RowsStatement.deleting("due", "partition", "key")


class DatabaseError(Exception):
    """The file cannot be used: the message says why in one sentence."""


class PartitionCheckpoint(msgspec.Struct):
    """What one partition adds to a checkpoint."""

    name: str
    number: int
    position: Position
    rows: list[Row]
    due: list[DueRow]


class Commit(msgspec.Struct):
    """One transaction: a log batch, and with a checkpoint the rows of partitions and stores.

    `first`..`last` are the offsets in `records` (none when `records` is empty). With `partitions` the log up to
    `truncate_below` is no longer needed. `stores` write on the open transaction.
    """

    first: int = 0
    last: int = 0
    records: bytes = b""
    partitions: list[PartitionCheckpoint] = []
    truncate_below: int = 0
    stores: list[Callable[[sqlite3.Connection], None]] = []


class Database:
    """The file, opened for one process.

    Raises DatabaseError when it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd = _lock(path)
        try:
            self._writer = _open(path)
            self._reader = sqlite3.connect(path, isolation_level=None)
            self._reader.execute("PRAGMA query_only=ON")
            self._tables: dict[str, int] = dict(self._reader.execute("SELECT name, tbl FROM state_tables"))
        except sqlite3.Error as error:
            os.close(self._lock_fd)
            raise DatabaseError(f"{path}: {error}") from error
        except DatabaseError:
            os.close(self._lock_fd)
            raise

    def close(self) -> None:
        """Close every connection and release the file."""
        self._reader.close()
        self._writer.execute("PRAGMA busy_timeout=0")  # whoever else reads the file is not waited for
        with contextlib.suppress(sqlite3.Error):  # as on a full disk: the write-ahead log stays, and counts
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()
        os.close(self._lock_fd)

    # Reading

    def _query(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}") from error

    def load(self, table: str, partition: int, key: str) -> list[tuple[str, str, bytes]]:
        """See RowStore."""
        number = self._tables.get(f"{table}/{partition}")
        if number is None:
            return []
        return self._query("SELECT kind, id, value FROM state WHERE tbl = ? AND key = ?", number, key)  # type: ignore[return-value]

    def keys(self, table: str, partition: int, prefix: str) -> list[str]:
        """See RowStore."""
        number = self._tables.get(f"{table}/{partition}")
        if number is None:
            return []
        rows = self._query(
            "SELECT DISTINCT key FROM state WHERE tbl = ? AND key >= ? AND key < ? ORDER BY key",
            number,
            prefix,
            prefix + "\U0010ffff",
        )
        return [str(key) for (key,) in rows]

    def load_due(self, partition_name: str, after_ms: int, until_ms: int) -> list[tuple[str, int, int]]:
        """See DueStore."""
        return self._query(  # type: ignore[return-value]
            "SELECT key, due_ms, payload FROM due WHERE partition = ? AND due_ms > ? AND due_ms <= ?",
            partition_name,
            after_ms,
            until_ms,
        )

    def due_row(self, partition_name: str, key: str) -> tuple[int, int] | None:
        """See DueStore."""
        rows = self._query(
            "SELECT due_ms, payload FROM due WHERE partition = ? AND key = ?", partition_name, key
        )
        return rows[0] if rows else None  # type: ignore[return-value]

    def positions(self) -> dict[str, Position]:
        """The position of every partition at the last checkpoint. Raises StorageError."""
        rows = self._query("SELECT partition, position FROM positions")
        try:
            return {str(name): avro.decode(Position, data) for name, data in rows}  # type: ignore[arg-type]
        except avro.DecodeError as error:
            raise StorageError(f"the checkpoint is damaged: {error}") from error

    def registry(self) -> list[bytes]:
        """The encoded configuration of every namespace at the last checkpoint."""
        return [data for (data,) in self._query("SELECT config FROM registry ORDER BY name")]  # type: ignore[misc]

    def batches(self, after: int) -> Iterator[bytes]:
        """The log batches that hold offsets above `after`, in order. Raises StorageError, also for a gap."""
        rows = self._reader.execute(
            "SELECT first, last, records FROM log WHERE last > ? ORDER BY first", (after,)
        )
        while True:
            try:
                row = rows.fetchone()
            except sqlite3.Error as error:
                raise StorageError(f"{self.path}: {error}") from error
            if row is None:
                return
            first, last, data = row
            if first > after + 1:
                raise StorageError(f"the log lacks its records from {after + 1} to {first - 1}")
            after = last
            yield data

    def last_offset(self) -> int:
        """The highest offset in the log, -1 when it is empty."""
        rows = self._query("SELECT max(last) FROM log")
        return -1 if rows[0][0] is None else int(rows[0][0])  # type: ignore[call-overload]

    # Writing, on one thread at a time

    def commit(self, commit: Commit) -> None:
        """Write everything in one transaction. Raises sqlite3.Error, after which the process must end."""
        tx = self._writer
        if not (commit.partitions or commit.stores or commit.truncate_below):
            # One statement is a transaction of its own: each takes the interpreter lock several times.
            if commit.records:
                tx.execute(_APPEND, (commit.first, commit.last, commit.records))
            return
        tx.execute("BEGIN IMMEDIATE")
        try:
            if commit.records:
                tx.execute(_APPEND, (commit.first, commit.last, commit.records))
            for partition in commit.partitions:
                self._write_partition(tx, partition)
            for write in commit.stores:
                write(tx)
            if commit.truncate_below:
                tx.execute("DELETE FROM log WHERE last < ?", (commit.truncate_below,))
            tx.execute("COMMIT")
        except BaseException:
            if tx.in_transaction:
                tx.execute("ROLLBACK")
            raise

    def _write_partition(self, tx: sqlite3.Connection, checkpoint: PartitionCheckpoint) -> None:
        put: list[object] = []
        drop: list[object] = []
        for table, key, kind, id, value in checkpoint.rows:
            number = self._table_number(tx, f"{table}/{checkpoint.number}")
            if value is None:
                drop += (number, key, kind, id)
            else:
                put += (number, key, kind, id, value)
        _PUT.run(tx, put)
        _DROP.run(tx, drop)
        put_due: list[object] = []
        drop_due: list[object] = []
        for key, due_ms, payload in checkpoint.due:
            if due_ms is None:
                drop_due += (checkpoint.name, key)
            else:
                put_due += (checkpoint.name, key, due_ms, payload)
        _PUT_DUE.run(tx, put_due)
        _DROP_DUE.run(tx, drop_due)
        tx.execute(
            "INSERT OR REPLACE INTO positions VALUES (?, ?)",
            (checkpoint.name, avro.encode(checkpoint.position)),
        )

    def _table_number(self, tx: sqlite3.Connection, name: str) -> int:
        number = self._tables.get(name)
        if number is None:
            number = len(self._tables) + 1
            tx.execute("INSERT INTO state_tables VALUES (?, ?)", (number, name))
            self._tables = {**self._tables, name: number}
        return number


def _lock(path: Path) -> int:
    """Take the file for this process. Raises DatabaseError."""
    if path.is_dir():
        raise DatabaseError(f"{path} is a directory, not a database file")
    if not path.parent.is_dir():
        raise DatabaseError(f"{path}: the directory {path.parent} does not exist")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DatabaseError(f"{path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise DatabaseError(f"{path} is in use by another process") from error
    return fd


def _open(path: Path) -> sqlite3.Connection:
    """The write connection of a file in our format. Raises DatabaseError, sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as error:
        connection.close()
        raise DatabaseError(f"{path} is not an Odradek database file") from error
    if application != APPLICATION_ID and (application or version or tables):
        connection.close()
        raise DatabaseError(f"{path} is not an Odradek database file")
    if version > FORMAT:
        connection.close()
        raise DatabaseError(
            f"{path} has format {version}; this version reads up to {FORMAT}: use a newer release"
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={FORMAT}")
    connection.executescript(_SCHEMA)
    create_tables(connection)
    return connection
