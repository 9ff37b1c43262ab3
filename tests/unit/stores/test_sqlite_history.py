import asyncio
import sqlite3
from collections.abc import Sequence

import pytest

from streams.stores.history import EventBatch
from streams.stores.run_key import RunKey
from streams.stores.sqlite_history import SqliteHistoryStore
from tests.unit.stores.history_contract import NO_LIMIT, HistoryContract, batch, event, ids


class Written:
    """The store with each write in a transaction of its own."""

    def __init__(self, tx: sqlite3.Connection, store: SqliteHistoryStore) -> None:
        self._tx = tx
        self._store = store
        self.read, self.read_reverse = store.read, store.read_reverse

    def write(self, batches: Sequence[EventBatch]) -> None:
        self._store.write(self._tx, batches)

    def delete_runs(self, runs: Sequence[RunKey]) -> None:
        self._store.delete_runs(self._tx, runs)

    def put(self, run_id: str, first: int, last: int, blob: bytes) -> None:
        self._tx.execute(
            "UPDATE history SET events = ? WHERE run_id = ? AND first_event_id = ?", (blob, run_id, first)
        )


class TestSqliteHistory(HistoryContract):
    @pytest.fixture
    def history(self, tx: sqlite3.Connection, history: SqliteHistoryStore) -> Written:
        return Written(tx, history)


async def test_a_longer_batch_takes_the_place_of_a_shorter_one(
    tx: sqlite3.Connection, history: SqliteHistoryStore
) -> None:
    history.write(tx, [batch(1, 3), batch(4, 5)])
    longer = event(4, 11)
    history.write(tx, [batch(4, 6, events=(longer, event(5), event(6)))])
    assert await history.read("run", 4, 4, NO_LIMIT) == [(4, longer)]
    assert tx.execute("SELECT count(*) FROM history").fetchone() == (2,)


async def test_writes_belong_to_the_callers_transaction(
    tx: sqlite3.Connection, history: SqliteHistoryStore
) -> None:
    tx.execute("BEGIN IMMEDIATE")
    history.write(tx, [batch(1, 3)])
    assert tx.in_transaction
    assert await history.read("run", 1, 3, NO_LIMIT) == []
    history.delete_runs(tx, [RunKey("ns", "wf", "absent")])
    tx.execute("COMMIT")
    assert ids(await history.read("run", 1, 3, NO_LIMIT)) == [1, 2, 3]
    tx.execute("BEGIN IMMEDIATE")
    history.write(tx, [batch(4, 5)])
    tx.execute("ROLLBACK")
    assert ids(await history.read("run", 1, 9, NO_LIMIT)) == [1, 2, 3]


def test_many_batches_take_few_statements(tx: sqlite3.Connection, history: SqliteHistoryStore) -> None:
    statements: list[str] = []
    tx.set_trace_callback(statements.append)
    history.write(tx, [batch(1, 2, f"run-{n}") for n in range(200)])
    history.write(tx, [])
    assert len(statements) <= 5
    assert tx.execute("SELECT count(*) FROM history").fetchone() == (200,)


async def test_readers_work_while_a_write_is_open(
    tx: sqlite3.Connection, history: SqliteHistoryStore
) -> None:
    history.write(tx, [batch(1, 50)])
    tx.execute("BEGIN IMMEDIATE")
    history.write(tx, [batch(51, 60)])
    pages = await asyncio.gather(*(history.read("run", n, 60, NO_LIMIT) for n in range(1, 21)))
    tx.execute("COMMIT")
    assert [ids(page) for page in pages] == [list(range(n, 51)) for n in range(1, 21)]


@pytest.mark.parametrize(("first", "last", "count"), [(0, 0, 1), (1, 2, 1), (1, 0, 1), (4, 4, 0)])
def test_a_batch_must_fit_its_ids(first: int, last: int, count: int) -> None:
    with pytest.raises(ValueError, match="events cannot be"):
        EventBatch("ns", "wf", "run", first, last, (b"e",) * count, 0)
