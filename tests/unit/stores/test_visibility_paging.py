"""Lists and pages on SQLite."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from streams.stores.run_key import RunKey
from streams.stores.schema import create_tables
from streams.stores.search_attributes import SearchAttributes
from streams.stores.sqlite_readers import SqliteReaders
from streams.stores.sqlite_visibility import SqliteVisibilityStore, count_rows, list_rows
from streams.stores.visibility import VisibilityRow
from tests.unit.stores.paging_contract import PagingContract
from tests.unit.stores.rows import ATTRIBUTES, NAMESPACE


class Database:
    """A store with its write connection, and a read connection to list with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tx = sqlite3.connect(path, isolation_level=None)
        create_tables(self.tx)
        self.readers = SqliteReaders(path)
        self.store = SqliteVisibilityStore(self.readers)

    def write(self, rows: Sequence[VisibilityRow]) -> None:
        self.store.write(self.tx, rows)

    def delete(self, runs: Sequence[RunKey]) -> None:
        self.store.delete(self.tx, runs)

    def clear(self) -> None:
        self.tx.execute("DELETE FROM visibility")
        self.restart()

    def restart(self) -> None:
        self.store = SqliteVisibilityStore(self.readers)

    def page(self, query: str, size: int, token: bytes = b"") -> tuple[list[VisibilityRow], bytes]:
        page = self.readers.run_blocking(
            lambda connection: list_rows(connection, NAMESPACE, query, ATTRIBUTES, size, token)
        )
        return page.rows, page.next_page_token

    def count(self, query: str) -> int:
        return self.readers.run_blocking(
            lambda connection: count_rows(connection, NAMESPACE, query, ATTRIBUTES)
        ).total


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = Database(tmp_path_factory.mktemp("paging") / "engine.db")
    yield opened
    opened.readers.close()
    opened.tx.close()


class TestSqlitePaging(PagingContract):
    pass


PLANS = {
    "": "visibility_by_close",
    "ExecutionStatus = 'Running'": "visibility_by_close",
    "StartTime > '2024-01-01T00:00:00Z'": "visibility_by_close",
    "WorkflowId = 'wf'": "sqlite_autoindex_visibility_1",
    "WorkflowId = 'wf' AND CloseTime > '2024-01-01T00:00:00Z'": "sqlite_autoindex_visibility_1",
}


@pytest.mark.parametrize("query", PLANS)
def test_the_common_lists_are_served_by_an_index(database: Database, query: str) -> None:
    connection = sqlite3.connect(database.path, isolation_level=None)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    list_rows(connection, NAMESPACE, query, SearchAttributes(), 10)
    connection.set_trace_callback(None)
    plans = [
        " ".join(step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        for statement in statements
        if statement.startswith("SELECT visibility.namespace_id")
    ]
    connection.close()
    assert plans
    assert all(PLANS[query] in plan for plan in plans)
