"""`python -m tests.simulation --seed N [--bug NAME] [--seeds A:B] [--jobs N]`: replay a seed, or run many."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.planted import BUGS, planted
from tests.simulation.world import simulate


def attempt(seed: int, bug: str) -> tuple[int, str]:
    """Run a seed; returns what was found, empty when nothing was."""
    try:
        with planted(bug):
            simulate(seed)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return seed, f"{type(error).__name__}: {error}"[:2_000]
    return seed, ""


def command(seed: int, bug: str = "") -> str:
    """What replays a seed."""
    return f"python -m tests.simulation --seed {seed}" + (f" --bug {bug}" if bug else "")


def main() -> int:
    """The exit code: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, with a traceback")
    parser.add_argument("--seeds", help="run the seeds A:B (B excluded)")
    parser.add_argument("--bug", default="", choices=["", *BUGS], help="plant this bug first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for --seeds")
    options = parser.parse_args()
    if options.seed is not None:
        try:
            with planted(options.bug):
                simulate(options.seed)
        except BaseException:
            traceback.print_exc()
            return 1
        print(f"seed {options.seed}: nothing found")
        return 0
    first, last = map(int, (options.seeds or "0:100").split(":"))
    began_s, failed = time.monotonic(), 0
    with ProcessPoolExecutor(options.jobs) as pool:
        seeds = range(first, last)
        for seed, found in pool.map(attempt, seeds, [options.bug] * len(seeds), chunksize=8):
            if found:
                failed += 1
                print(f"{found}\n  replay: {command(seed, options.bug)}", flush=True)
    print(f"{last - first} seeds, {failed} with findings, {time.monotonic() - began_s:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
