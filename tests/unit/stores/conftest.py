"""A real SQLite file with the stores' tables, set up as the engine does."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.stores.schema import create_tables
from streams.stores.sqlite_history import SqliteHistoryStore
from streams.stores.sqlite_readers import SqliteReaders
from streams.stores.sqlite_visibility import SqliteVisibilityStore


def open_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    create_tables(connection)
    return connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.db"


@pytest.fixture
def tx(path: Path) -> Iterator[sqlite3.Connection]:
    """The engine's write connection, in autocommit unless a test begins a transaction."""
    connection = open_database(path)
    yield connection
    connection.close()


@pytest.fixture
def readers(tx: sqlite3.Connection, path: Path) -> Iterator[SqliteReaders]:
    pool = SqliteReaders(path)
    yield pool
    pool.close()


@pytest.fixture
def history(readers: SqliteReaders) -> SqliteHistoryStore:
    return SqliteHistoryStore(readers)


@pytest.fixture
def visibility(readers: SqliteReaders) -> SqliteVisibilityStore:
    return SqliteVisibilityStore(readers)
