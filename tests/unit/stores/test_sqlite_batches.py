"""Statements of many rows find each row by its key, however large the table is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from streams.runtime import database
from streams.stores import sqlite_history, sqlite_visibility
from streams.stores.schema import create_tables
from streams.stores.sqlite_batches import RowsStatement

DELETIONS = {
    "state": (database._DROP, 4),
    "due": (database._DROP_DUE, 2),
    "visibility": (sqlite_visibility._DELETE, 3),
    "history": (sqlite_history._DELETE, 1),
}


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(database._SCHEMA)
        create_tables(connection)
        yield connection


@pytest.mark.parametrize("rows", [1, 2, 128])
@pytest.mark.parametrize("table", DELETIONS)
def test_no_deletion_reads_the_whole_table(connection: sqlite3.Connection, table: str, rows: int) -> None:
    statement, columns = DELETIONS[table]
    plans: list[str] = []

    class Explaining:
        def execute(self, text: str, values: list[str]) -> None:
            plans.extend(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values))

    statement.run(Explaining(), ["x"] * (rows * columns))  # type: ignore[arg-type]
    assert any(plan.startswith(f"SEARCH {table}") for plan in plans)
    assert not any(plan.startswith(f"SCAN {table}") for plan in plans)


def test_rows_are_deleted_by_their_whole_key(connection: sqlite3.Connection) -> None:
    rows = [("a", f"k{number}", number, 0) for number in range(300)] + [("b", "k7", 7, 0)]
    connection.executemany("INSERT INTO due VALUES (?, ?, ?, ?)", rows)
    RowsStatement.deleting("due", "partition", "key").run(
        connection, [value for number in range(0, 300, 2) for value in ("a", f"k{number}")]
    )
    left = connection.execute("SELECT partition, key FROM due ORDER BY partition, due_ms").fetchall()
    assert left == [*(("a", f"k{number}") for number in range(1, 300, 2)), ("b", "k7")]
