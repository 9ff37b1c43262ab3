"""`python -m tests.simulation --seed N [--bug NAME]` replays a seed; `--seeds A:B [--jobs N]` runs many."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

from tests.simulation.planted import BUGS, planted
from tests.simulation.runs import attempt, command, processes
from tests.simulation.world import simulate


def main() -> int:
    """The exit code: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, with a traceback")
    parser.add_argument("--seeds", default="0:100", help="run the seeds A:B, B excluded")
    parser.add_argument("--bug", default="", choices=["", *BUGS], help="plant this bug first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for --seeds")
    options = parser.parse_args()
    return _one(options.seed, options.bug) if options.seed is not None else _many(options)


def _one(seed: int, bug: str) -> int:
    try:
        with planted(bug):
            simulate(seed)
    except BaseException:
        traceback.print_exc()
        return 1
    print(f"seed {seed}: nothing found")
    return 0


def _many(options: argparse.Namespace) -> int:
    first, last = map(int, options.seeds.split(":"))
    seeds = range(first, last)
    began_s, failed = time.monotonic(), 0
    with processes(options.jobs) as pool:
        for seed, found in zip(
            seeds, pool.map(attempt, seeds, [options.bug] * len(seeds), chunksize=8), strict=True
        ):
            if found:
                failed += 1
                print(f"{found}\n  replay: {command(seed, options.bug)}", flush=True)
    print(f"{len(seeds)} seeds, {failed} with findings, {time.monotonic() - began_s:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
