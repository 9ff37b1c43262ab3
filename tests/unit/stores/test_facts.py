"""Stores laid beside the facts that folds emitted: what is missing, too much or different is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent

from streams.bodies import HistoryBatch, RunDeleted, RunVisible
from streams.stores.facts import StoredFacts
from streams.stores.sqlite_sinks import SqliteStores
from streams.topology import HISTORY, VISIBILITY

RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
DELETED = RunDeleted("ns", "wf", "run-2")


def _batch(run_id: str, first: int, last: int, version: int = 0) -> HistoryBatch:
    ids = range(first, last + 1)
    events = tuple(HistoryEvent(event_id=id, version=version).SerializeToString() for id in ids)
    return HistoryBatch("ns", "wf", run_id, first, last, 1_000, events)


def _row(run_id: str, version: int = 1) -> RunVisible:
    return RunVisible(
        *("ns", "wf", run_id, version, "type", "queue", RUNNING, 1, 1, 0, 3, 99, 1),
        *("", "", "wf", run_id, b"", b""),
    )


BATCHES = [
    _batch("run-1", 1, 2),
    _batch("run-1", 3, 3),
    _batch("run-2", 1, 1),
    _batch("run-3", 1, 1),
    DELETED,
]
ROWS = [_row("run-1"), _row("run-1", 2), _row("run-2"), _row("run-3"), DELETED]


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[StoredFacts]:
    made = StoredFacts(tmp_path / "facts")
    for body in (*BATCHES, *ROWS):
        made.add(body)
    made.add(msgspec.structs.replace(ROWS[0], workflow_type="older"))
    yield made
    made.close()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[SqliteStores]:
    made = SqliteStores(tmp_path / "stores.db", lambda namespace: {})
    yield made
    made.close()


def _fill(stores: SqliteStores, batches: list[Any], rows: list[Any]) -> None:
    for sink, topic, bodies in (
        (stores.history_sink(), HISTORY, batches),
        (stores.visibility_sink(), VISIBILITY, rows),
    ):
        sink.write(topic, bodies, {})
        sink.close()


async def _differences(facts: StoredFacts, stores: SqliteStores, *run_ids: str) -> list[str]:
    return [
        *await facts.history_differences(stores.history, run_ids),
        *await facts.visibility_differences(stores.visibility, lambda namespace: {}),
    ]


async def test_stores_that_hold_the_facts_have_no_differences(
    facts: StoredFacts, stores: SqliteStores
) -> None:
    _fill(stores, BATCHES, ROWS)
    assert await _differences(facts, stores, "run-1", "run-3") == []


async def test_what_is_missing_is_named(facts: StoredFacts, stores: SqliteStores) -> None:
    _fill(stores, [BATCHES[0]], [ROWS[1]])
    assert await _differences(facts, stores, "run-1") == [
        "the history of run run-1 has no event 3",
        "the history of run run-3 has no event 1",
        "the row of run run-3 is missing",
    ]


async def test_what_is_too_much_is_named(facts: StoredFacts, stores: SqliteStores) -> None:
    _fill(stores, [*BATCHES, _batch("run-1", 4, 4), _batch("run-4", 1, 1)], [*ROWS, _row("run-4")])
    assert await _differences(facts, stores, "run-1", "run-2", "run-3", "run-4") == [
        "the history of run run-1 has an event 4 that no fold emitted",
        "the history of run run-2 is there, and the run was deleted",
        "the history of run run-4 is there, and no fold emitted it",
        "the row of run run-4 is there and has not to be",
    ]


async def test_what_is_different_is_named(facts: StoredFacts, stores: SqliteStores) -> None:
    _fill(stores, [_batch("run-1", 1, 2, version=7), *BATCHES[1:]], [ROWS[0], *ROWS[2:]])
    event, row = await _differences(facts, stores, "run-1", "run-3")
    assert event == "the history of run run-1 has another event 1 than the folds emitted"
    assert row.startswith("the row of run run-1 is VisibilityRow(")
