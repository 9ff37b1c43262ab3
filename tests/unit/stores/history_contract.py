"""What every history store does: the same cases for each, over a fixture of its own."""

from collections.abc import Sequence
from typing import Protocol
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.history.v1 import HistoryEvent

from streams.stores.damage import StoreDamagedError
from streams.stores.event_blob import join_events
from streams.stores.history import EventBatch, HistoryReader
from streams.stores.run_key import RunKey

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


class HistoryUnderTest(HistoryReader, Protocol):
    """A store, with writes that are there when they return."""

    def write(self, batches: Sequence[EventBatch]) -> None: ...

    def delete_runs(self, runs: Sequence[RunKey]) -> None: ...

    def put(self, run_id: str, first: int, last: int, blob: bytes) -> None:
        """Put these bytes in place of a batch's events."""


class HistoryContract:
    """Inherit, and give a fixture `history`."""

    async def test_reads_what_was_written_in_both_directions(self, history: HistoryUnderTest) -> None:
        history.write([batch(1, 3), batch(4, 4), batch(1, 2, "other"), batch(5, 9)])
        assert await history.read("run", 1, 9, NO_LIMIT) == [(n, event(n)) for n in range(1, 10)]
        assert await history.read_reverse("run", 1, 9, NO_LIMIT) == [(n, event(n)) for n in range(9, 0, -1)]
        assert ids(await history.read("other", 1, 9, NO_LIMIT)) == [1, 2]
        assert await history.read("absent", 1, 9, NO_LIMIT) == []

    async def test_ranges_cut_through_batches(self, history: HistoryUnderTest) -> None:
        history.write([batch(1, 3), batch(4, 7)])
        assert ids(await history.read("run", 2, 5, NO_LIMIT)) == [2, 3, 4, 5]
        assert ids(await history.read_reverse("run", 2, 5, NO_LIMIT)) == [5, 4, 3, 2]
        assert ids(await history.read("run", 3, 2, NO_LIMIT)) == []
        assert ids(await history.read("run", 6, 20, NO_LIMIT)) == [6, 7]

    async def test_a_page_holds_as_many_events_as_its_bytes_allow_and_at_least_one(
        self, history: HistoryUnderTest
    ) -> None:
        history.write([batch(1, 3), batch(4, 7)])
        assert ids(await history.read("run", 1, 7, 40)) == [1, 2, 3, 4]
        assert ids(await history.read("run", 1, 7, 39)) == [1, 2, 3]
        assert ids(await history.read("run", 1, 7, 0)) == [1]
        assert ids(await history.read_reverse("run", 1, 7, 49)) == [7, 6, 5, 4]

    async def test_a_page_ends_before_a_gap(self, history: HistoryUnderTest) -> None:
        history.write([batch(1, 2), batch(5, 6)])
        assert ids(await history.read("run", 1, 6, NO_LIMIT)) == [1, 2]
        assert ids(await history.read("run", 3, 6, NO_LIMIT)) == []
        assert ids(await history.read_reverse("run", 1, 6, NO_LIMIT)) == [6, 5]
        assert ids(await history.read_reverse("run", 1, 7, NO_LIMIT)) == []

    async def test_a_batch_written_again_changes_nothing(self, history: HistoryUnderTest) -> None:
        history.write([batch(1, 3), batch(1, 3)])
        history.write([batch(1, 3), batch(4, 5)])
        assert await history.read("run", 1, 9, NO_LIMIT) == [(n, event(n)) for n in range(1, 6)]

    async def test_batches_that_overlap_show_each_event_once(self, history: HistoryUnderTest) -> None:
        history.write([batch(1, 3), batch(4, 5)])
        history.write([batch(4, 6)])
        assert ids(await history.read("run", 1, 9, NO_LIMIT)) == [1, 2, 3, 4, 5, 6]
        assert ids(await history.read_reverse("run", 1, 6, NO_LIMIT)) == [6, 5, 4, 3, 2, 1]

    async def test_deleting_runs_leaves_the_others(self, history: HistoryUnderTest) -> None:
        history.write([batch(1, 3, f"run-{n}") for n in range(300)])
        history.delete_runs(
            [RunKey("ns", "wf", f"run-{n}") for n in range(299)] + [RunKey("ns", "wf", "none")]
        )
        for n in (0, 150, 298):
            assert await history.read(f"run-{n}", 1, 3, NO_LIMIT) == []
        assert ids(await history.read("run-299", 1, 3, NO_LIMIT)) == [1, 2, 3]

    async def test_nothing_to_write_or_delete_is_no_error(self, history: HistoryUnderTest) -> None:
        history.write([])
        history.delete_runs([])

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(
        sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
        bounds=st.tuples(st.integers(1, 45), st.integers(1, 45)),
        max_bytes=st.integers(0, 300),
    )
    async def test_pages_are_what_a_list_of_all_events_would_give(
        self, history: HistoryUnderTest, sizes: list[int], bounds: tuple[int, int], max_bytes: int
    ) -> None:
        run_id = str(uuid4())
        first = 1
        for size in sizes:
            history.write([batch(first, first + size - 1, run_id)])
            first += size
        low, high = bounds
        fitting = max(1, max_bytes // 10)
        up = list(range(low, min(high, first - 1) + 1))[:fitting]
        assert ids(await history.read(run_id, low, high, max_bytes)) == up
        down = list(range(high, low - 1, -1))[:fitting] if high < first else []
        assert ids(await history.read_reverse(run_id, low, high, max_bytes)) == down

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
        self, history: HistoryUnderTest, damage: bytes
    ) -> None:
        history.write([batch(1, 2), batch(3, 4)])
        history.put("run", 1, 2, damage)
        for read in (history.read, history.read_reverse):
            with pytest.raises(StoreDamagedError, match="events 1 to 2 of run run are damaged: "):
                await read("run", 1, 4, NO_LIMIT)
        assert ids(await history.read("run", 3, 4, NO_LIMIT)) == [3, 4]
