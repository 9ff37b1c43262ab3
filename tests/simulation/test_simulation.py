"""Seeds without a finding, and planted bugs that are found. ODRADEK_TEST_SEEDS says how many seeds (2,000)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.runs import PLANTED_SEEDS, command, first_finding, processes

SEEDS = int(os.environ.get("ODRADEK_TEST_SEEDS", "2000"))
SHARE = 100

pytestmark = pytest.mark.timeout(3_600)


@pytest.fixture(scope="module")
def findings() -> Iterator[dict[Any, Future[tuple[int, str] | None]]]:
    """What every share of the seeds finds, and every planted bug: worked off by as many processes as there are CPUs."""
    pool = processes(os.cpu_count() or 1)
    found: dict[Any, Future[tuple[int, str] | None]] = {}
    for first in range(0, SEEDS, SHARE):
        found[first] = pool.submit(first_finding, first, min(first + SHARE, SEEDS))
    for bug in BUGS:
        found[bug] = pool.submit(first_finding, 0, PLANTED_SEEDS, bug)
    yield found
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_nothing_is_found(first: int, findings: dict[Any, Future[tuple[int, str] | None]]) -> None:
    found = findings[first].result()
    if found is not None:
        seed, what = found
        pytest.fail(f"{what}\nreplay: {command(seed)}", pytrace=False)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, findings: dict[Any, Future[tuple[int, str] | None]]) -> None:
    found = findings[bug].result()
    assert found is not None, f"{bug} was not found by {PLANTED_SEEDS} seeds: {BUGS[bug].__doc__}"


def test_twenty_bugs_are_planted() -> None:
    assert len(BUGS) >= 20
    assert all(bug.__doc__ for bug in BUGS.values())
