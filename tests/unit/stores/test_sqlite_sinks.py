"""Stores in a file: what is written again changes nothing, positions come with the data, deleted runs stay away."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from temporalio.api.history.v1 import HistoryEvent

from streams.bodies import HistoryBatch, RunDeleted, RunVisible
from streams.runtime.partition import Applied, Position
from streams.stores.damage import StoreDamagedError, StoreError
from streams.stores.search_attributes import SearchAttributes
from streams.stores.sqlite_sinks import SqliteStores
from streams.topology import HISTORY, VISIBILITY

VISIBLE = RunVisible(
    "default", "w", "run", 1, "Type", "queue", 1, 1, 1, 0, 0, 0, 0, "", "", "w", "run", b"", b""
)
DELETED = RunDeleted("default", "w", "run")


def encoded_events(first: int, last: int) -> tuple[bytes, ...]:
    """Events with their ids."""
    return tuple(HistoryEvent(event_id=number).SerializeToString() for number in range(first, last + 1))


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[SqliteStores]:
    """Both stores, without custom attributes."""
    stores = SqliteStores(tmp_path / "stores.db", lambda namespace: {})
    yield stores
    stores.close()


async def _listed(stores: SqliteStores) -> list[str]:
    page = await stores.visibility.list("default", "", SearchAttributes({}), 10)
    return [row.run_id for row in page.rows]


async def test_histories_come_with_their_position_and_once(stores: SqliteStores) -> None:
    events = encoded_events(1, 3)
    batch = HistoryBatch("default", "w", "run", 1, 3, 1_000, events)
    position = Position(7, 1_000, applied=(Applied("commands/0@id", 0, 5, 1),))
    sink = stores.history_sink()
    for _ in range(2):
        sink.write(HISTORY, [batch], {0: position})
    assert await stores.history.read("run", 1, 9, 1 << 20) == list(enumerate(events, 1))
    sink.close()
    assert stores.history_sink().positions(HISTORY) == {0: position}
    assert stores.history_sink().positions(VISIBILITY) == {}


async def test_a_deleted_run_does_not_come_back(stores: SqliteStores) -> None:
    visibility, deletions, history = stores.visibility_sink(), stores.visibility_sink(), stores.history_sink()
    history.write(HISTORY, [HistoryBatch("default", "w", "run", 1, 1, 0, encoded_events(1, 1))], {})
    visibility.write(VISIBILITY, [VISIBLE], {0: Position(0, 0)})
    assert await _listed(stores) == ["run"]
    deletions.write(HISTORY, [DELETED], {})
    history.write(HISTORY, [DELETED], {0: Position(1, 0)})
    visibility.write(VISIBILITY, [msgspec.structs.replace(VISIBLE, version=2)], {0: Position(1, 0)})
    assert await _listed(stores) == []
    assert await stores.history.read("run", 1, 1, 1 << 20) == []
    assert visibility.positions(VISIBILITY) == {0: Position(1, 0)}


async def test_a_failed_write_leaves_nothing(stores: SqliteStores, tmp_path: Path) -> None:
    sink = stores.visibility_sink()
    with sqlite3.connect(tmp_path / "stores.db") as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON materialized BEGIN SELECT raise(ABORT, 'full'); END"
        )
    with pytest.raises(StoreError, match="full"):
        sink.write(VISIBILITY, [VISIBLE], {0: Position(0, 0)})
    assert await _listed(stores) == []


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(StoreDamagedError, match="is not a file of stores"):
        SqliteStores(path, lambda namespace: {})
