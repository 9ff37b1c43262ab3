import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from streams.stores.run_key import RunKey
from streams.stores.sqlite_visibility import SqliteVisibilityStore
from streams.stores.visibility import VisibilityRow
from tests.unit.stores.rows import ATTRIBUTES, NAMESPACE, row
from tests.unit.stores.visibility_contract import VisibilityContract, listed


class Written:
    """The store with each write in a transaction of its own."""

    def __init__(self, tx: sqlite3.Connection, store: SqliteVisibilityStore) -> None:
        self._tx = tx
        self._store = store
        self.list, self.count = store.list, store.count

    def write(self, rows: Sequence[VisibilityRow]) -> None:
        self._store.write(self._tx, rows)

    def delete(self, runs: Sequence[RunKey]) -> None:
        self._store.delete(self._tx, runs)


class TestSqliteVisibility(VisibilityContract):
    @pytest.fixture
    def visibility(self, tx: sqlite3.Connection, visibility: SqliteVisibilityStore) -> Written:
        return Written(tx, visibility)


def test_status_and_close_time_must_agree() -> None:
    with pytest.raises(ValueError, match="status 2 with close time None"):
        row("a", status=2)
    with pytest.raises(ValueError, match="status 1 with close time"):
        row("a", status=1, closed=1)


async def test_writes_belong_to_the_callers_transaction(
    tx: sqlite3.Connection, visibility: SqliteVisibilityStore
) -> None:
    tx.execute("BEGIN IMMEDIATE")
    visibility.write(tx, [row("a")])
    visibility.delete(tx, [RunKey(NAMESPACE, "none", "none")])
    assert tx.in_transaction
    assert await listed(visibility) == []
    tx.execute("COMMIT")
    assert await listed(visibility) == ["a"]


def test_many_rows_take_few_statements(tx: sqlite3.Connection, visibility: SqliteVisibilityStore) -> None:
    statements: list[str] = []
    visibility.write(tx, [row("first", closed=1)])
    tx.set_trace_callback(statements.append)
    visibility.write(tx, [row(f"run-{n}", closed=n) for n in range(200)])
    assert len(statements) <= 5
    statements.clear()
    visibility.write(tx, [])
    assert statements == []


def test_deleting_looks_rows_up_by_key(tx: sqlite3.Connection, visibility: SqliteVisibilityStore) -> None:
    statements: list[str] = []
    tx.set_trace_callback(statements.append)
    visibility.delete(tx, [RunKey(NAMESPACE, "wf", "run")])
    tx.set_trace_callback(None)
    plan = " ".join(step[3] for step in tx.execute(f"EXPLAIN QUERY PLAN {statements[0]}"))
    assert "SEARCH visibility USING" in plan
    assert "SCAN visibility" not in plan


async def test_lists_and_counts_run_while_the_engine_writes(
    tx: sqlite3.Connection, visibility: SqliteVisibilityStore
) -> None:
    async def write() -> None:
        for at in range(0, 400, 20):
            tx.execute("BEGIN IMMEDIATE")
            visibility.write(tx, [row(f"{n:04}", start=n) for n in range(at, at + 20)])
            tx.execute("COMMIT")
            await asyncio.sleep(0)

    async def watch() -> list[int]:
        seen = [0]
        while seen[-1] < 400:
            seen.append((await visibility.count(NAMESPACE, "", ATTRIBUTES)).total)
            assert len(await listed(visibility)) >= seen[-1]
        return seen

    seen, *_ = await asyncio.gather(watch(), watch(), write())
    assert seen == sorted(seen)
    assert all(total % 20 == 0 for total in seen)


def test_writing_imports_neither_sqlalchemy_nor_sqlglot(tmp_path: Path) -> None:
    script = """
import sqlite3, sys
from streams.stores.schema import create_tables
from streams.stores.sqlite_history import SqliteHistoryStore
from streams.stores.sqlite_readers import SqliteReaders
from streams.stores.sqlite_visibility import SqliteVisibilityStore
from tests.unit.stores.rows import row
connection = sqlite3.connect(sys.argv[1])
create_tables(connection)
readers = SqliteReaders(sys.argv[1])
SqliteHistoryStore(readers).write(connection, [])
SqliteVisibilityStore(readers).write(connection, [row("a", closed=1)])
assert not {"sqlalchemy", "sqlglot"} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "db")], check=True, cwd=Path(__file__).parents[3]
    )
