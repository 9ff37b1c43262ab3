"""Many seeds in many processes, and what replays one."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.planted import planted
from tests.simulation.world import simulate

PLANTED_SEEDS = 500
"""Seeds within which every planted bug has to be found."""


def attempt(seed: int, bug: str = "") -> str:
    """Run one seed; returns what was found, empty when nothing was."""
    try:
        with planted(bug):
            simulate(seed)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:2_000]
    return ""


def first_finding(first: int, last: int, bug: str = "") -> tuple[int, str] | None:
    """The first of the seeds first..last-1 that finds something, and what; None when none does."""
    for seed in range(first, last):
        found = attempt(seed, bug)
        if found:
            return seed, found
    return None


def command(seed: int, bug: str = "") -> str:
    """What replays a seed."""
    return f"python -m tests.simulation --seed {seed}" + (f" --bug {bug}" if bug else "")


def processes(count: int) -> ProcessPoolExecutor:
    """Processes of their own, whatever threads this one has."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
