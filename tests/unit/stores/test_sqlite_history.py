import asyncio
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.history.v1 import HistoryEvent

from streams.stores.damage import StoreDamagedError
from streams.stores.event_blob import join_events
from streams.stores.history import EventBatch
from streams.stores.run_key import RunKey
from streams.stores.sqlite_history import SqliteHistoryStore, read_events, read_events_reverse

NO_LIMIT = 1 << 30

_UNKNOWN_FIELD = bytes((0xC2, 0x3E))  # The tag of field 1000, length-delimited.


def event(event_id: int, size: int = 10) -> bytes:
    """An encoded event that takes `size` bytes: the rest is a field that this release does not know."""
    known = HistoryEvent(event_id=event_id).SerializeToString()
    padding = size - len(known) - len(_UNKNOWN_FIELD) - 1
    return known + _UNKNOWN_FIELD + bytes((padding,)) + b"." * padding


def batch(first: int, last: int, run_id: str = "run", events: tuple[bytes, ...] | None = None) -> EventBatch:
    held = tuple(event(event_id) for event_id in range(first, last + 1)) if events is None else events
    return EventBatch("ns", "wf", run_id, first, last, held, time_ms=1)


def ids(page: list[tuple[int, bytes]]) -> list[int]:
    return [event_id for event_id, _ in page]


async def test_reads_what_was_written_in_both_directions(
    tx: sqlite3.Connection, history: SqliteHistoryStore
) -> None:
    history.write(tx, [batch(1, 3), batch(4, 4), batch(1, 2, "other"), batch(5, 9)])
    assert await history.read("run", 1, 9, NO_LIMIT) == [(n, event(n)) for n in range(1, 10)]
    assert await history.read_reverse("run", 1, 9, NO_LIMIT) == [(n, event(n)) for n in range(9, 0, -1)]
    assert ids(await history.read("other", 1, 9, NO_LIMIT)) == [1, 2]
    assert await history.read("absent", 1, 9, NO_LIMIT) == []


async def test_ranges_cut_through_batches(tx: sqlite3.Connection, history: SqliteHistoryStore) -> None:
    history.write(tx, [batch(1, 3), batch(4, 7)])
    assert ids(await history.read("run", 2, 5, NO_LIMIT)) == [2, 3, 4, 5]
    assert ids(await history.read_reverse("run", 2, 5, NO_LIMIT)) == [5, 4, 3, 2]
    assert ids(await history.read("run", 3, 2, NO_LIMIT)) == []
    assert ids(await history.read("run", 6, 20, NO_LIMIT)) == [6, 7]


async def test_a_page_holds_as_many_events_as_its_bytes_allow_and_at_least_one(
    tx: sqlite3.Connection, history: SqliteHistoryStore
) -> None:
    history.write(tx, [batch(1, 3), batch(4, 7)])
    assert ids(await history.read("run", 1, 7, 40)) == [1, 2, 3, 4]
    assert ids(await history.read("run", 1, 7, 39)) == [1, 2, 3]
    assert ids(await history.read("run", 1, 7, 0)) == [1]
    assert ids(await history.read_reverse("run", 1, 7, 49)) == [7, 6, 5, 4]


async def test_a_page_ends_before_a_gap(tx: sqlite3.Connection, history: SqliteHistoryStore) -> None:
    history.write(tx, [batch(1, 2), batch(5, 6)])
    assert ids(await history.read("run", 1, 6, NO_LIMIT)) == [1, 2]
    assert ids(await history.read("run", 3, 6, NO_LIMIT)) == []
    assert ids(await history.read_reverse("run", 1, 6, NO_LIMIT)) == [6, 5]
    assert ids(await history.read_reverse("run", 1, 7, NO_LIMIT)) == []


async def test_a_batch_written_again_replaces_itself(
    tx: sqlite3.Connection, history: SqliteHistoryStore
) -> None:
    history.write(tx, [batch(1, 3), batch(1, 3)])
    history.write(tx, [batch(1, 3), batch(4, 5)])
    longer = event(4, 11)
    history.write(tx, [batch(4, 6, events=(longer, event(5), event(6)))])
    assert ids(await history.read("run", 1, 9, NO_LIMIT)) == [1, 2, 3, 4, 5, 6]
    assert (await history.read("run", 4, 4, NO_LIMIT)) == [(4, longer)]
    assert tx.execute("SELECT count(*) FROM history").fetchone() == (2,)


async def test_deleting_runs_leaves_the_others(tx: sqlite3.Connection, history: SqliteHistoryStore) -> None:
    history.write(tx, [batch(1, 3, f"run-{n}") for n in range(300)])
    history.delete_runs(
        tx, [RunKey("ns", "wf", f"run-{n}") for n in range(299)] + [RunKey("ns", "wf", "none")]
    )
    assert tx.execute("SELECT run_id FROM history").fetchall() == [("run-299",)]


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    bounds=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    max_bytes=st.integers(0, 300),
)
def test_pages_are_what_a_list_of_all_events_would_give(
    tx: sqlite3.Connection,
    history: SqliteHistoryStore,
    sizes: list[int],
    bounds: tuple[int, int],
    max_bytes: int,
) -> None:
    tx.execute("DELETE FROM history")
    first = 1
    for size in sizes:
        history.write(tx, [batch(first, first + size - 1)])
        first += size
    low, high = bounds
    fitting = max(1, max_bytes // 10)
    up = list(range(low, min(high, first - 1) + 1))[:fitting]
    assert ids(read_events(tx, "run", low, high, max_bytes)) == up
    down = list(range(high, low - 1, -1))[:fitting] if high < first else []
    assert ids(read_events_reverse(tx, "run", low, high, max_bytes)) == down


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        event(1) + event(2),
        join_events([event(1)]),
        join_events([event(1), event(3)]),
        join_events([event(1), event(2)])[:-1],
        join_events([event(1), b"\xff" * 10]),
    ],
)
async def test_a_damaged_batch_is_told_by_the_run_and_its_ids(
    tx: sqlite3.Connection, history: SqliteHistoryStore, damage: bytes
) -> None:
    history.write(tx, [batch(1, 2), batch(3, 4)])
    tx.execute("UPDATE history SET events = ? WHERE first_event_id = 1", (damage,))
    for read in (history.read, history.read_reverse):
        with pytest.raises(StoreDamagedError, match="events 1 to 2 of run run are damaged: "):
            await read("run", 1, 4, NO_LIMIT)
    assert ids(await history.read("run", 3, 4, NO_LIMIT)) == [3, 4]
