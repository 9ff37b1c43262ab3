"""Record golden files from the real server, or compare a server with them.

python -m tests.oracle list
python -m tests.oracle record  [-k TEXT]      the real server, built on first use
python -m tests.oracle compare [-k TEXT]                  our server, started for it
python -m tests.oracle compare --address HOST:PORT [--tight-address HOST:PORT]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest, WorkflowServiceStub

from benchmarks.peer.peer import SERVER_VERSION, free_ports

from .accepted import expected
from .compare import difference
from .registry import Scenario, all_scenarios
from .runner import Outcome, run_all
from .servers import CONFIGURATIONS, Target, connected, started


async def record(arguments: argparse.Namespace, scenarios: Sequence[Scenario]) -> int:
    """Run everything `--times` times on fresh real servers; write only what came out the same each time.

    What did not gets another round, up to `--rounds`, of again `--times` runs: a machine that stalls for
    seconds lets time-outs fire that are none of the script's.
    """
    left = list(scenarios)
    for number in range(arguments.rounds):
        runs = [await _run_on_real(left, arguments) for _ in range(arguments.times)]
        last = number == arguments.rounds - 1
        left = [
            scenario
            for scenario in left
            if not _keep(scenario, [run[scenario.id] for run in runs], tell=last)
        ]
        print(f"\nround {number + 1}: {len(scenarios) - len(left)} recorded, {len(left)} not")
        if not left:
            break
    return 1 if left else 0


async def _run_on_real(scenarios: Sequence[Scenario], arguments: argparse.Namespace) -> dict[str, Outcome]:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            started("temporal", free_ports(len(CONFIGURATIONS)), Path(directory)) as addresses,
            connected(addresses) as targets,
        ):
            await _require_the_real_server(targets)
            return await run_all(scenarios, targets, at_once=arguments.at_once, on_done=_progress)


def _keep(scenario: Scenario, outcomes: Sequence[Outcome], *, tell: bool) -> bool:
    """Write the golden file if all outcomes are the same recording. Returns whether they are."""
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    others = [outcome for outcome in outcomes if outcome.text != outcomes[0].text]
    if failures or others:
        if tell:
            verdict = "FAILED" if failures else "UNSTABLE"
            what = failures[0] if failures else difference(outcomes[0].text, others[0].text)
            print(f"\n{verdict} {scenario.id}\n{what}")
        return False
    scenario.golden.parent.mkdir(parents=True, exist_ok=True)
    if scenario.golden.exists() and scenario.golden.read_text() != outcomes[0].text:
        print(f"\nCHANGED {scenario.id}\n{difference(scenario.golden.read_text(), outcomes[0].text)}")
    scenario.golden.write_text(outcomes[0].text)
    return True


async def _require_the_real_server(targets: dict[str, Target]) -> None:
    for target in targets.values():
        answer = await WorkflowServiceStub(target.channel).GetSystemInfo(GetSystemInfoRequest(), timeout=10)
        if answer.server_version != SERVER_VERSION:
            raise SystemExit(
                f"{target.address} is {answer.server_version}, not the real server {SERVER_VERSION}"
            )


async def compare(arguments: argparse.Namespace, scenarios: Sequence[Scenario]) -> int:
    """Run scenarios and print how each differs from its golden file."""
    if not arguments.address:
        with tempfile.TemporaryDirectory() as directory:
            async with started(
                arguments.server, free_ports(len(CONFIGURATIONS)), Path(directory)
            ) as addresses:
                return await _compare_at(addresses, scenarios, arguments)
    addresses = {"default": arguments.address}
    if arguments.tight_address:
        addresses["tight"] = arguments.tight_address
    runnable = [scenario for scenario in scenarios if scenario.server in addresses]
    if len(runnable) < len(scenarios):
        print(f"{len(scenarios) - len(runnable)} scenarios left out: they need --tight-address")
    return await _compare_at(addresses, runnable, arguments)


async def _compare_at(
    addresses: dict[str, str], scenarios: Sequence[Scenario], arguments: argparse.Namespace
) -> int:
    async with connected(addresses) as targets:
        outcomes = await run_all(scenarios, targets, at_once=arguments.at_once, on_done=_progress)
    verdicts: dict[str, list[str]] = {"same": [], "different": [], "failed": []}
    for outcome in outcomes.values():
        real_server = arguments.server == "temporal" and not arguments.address
        golden = outcome.scenario.golden.read_text() if real_server else expected(outcome.scenario)
        if outcome.failure is None and outcome.text == golden:
            verdicts["same"].append(outcome.scenario.id)
            continue
        verdicts["failed" if outcome.failure else "different"].append(outcome.scenario.id)
        print(f"\n--- {outcome.scenario.id} (- real server, + this one)")
        if outcome.failure:
            print(outcome.failure)
        if not arguments.quiet:
            print(difference(golden, outcome.text))
    for verdict in ("failed", "different"):
        if verdicts[verdict]:
            print(f"\n{verdict}: " + " ".join(verdicts[verdict]))
    print(
        "\n"
        + ", ".join(f"{len(ids)} {verdict}" for verdict, ids in verdicts.items())
        + f" of {len(scenarios)}"
    )
    return 0 if len(verdicts["same"]) == len(scenarios) else 1


def _progress(outcome: Outcome) -> None:
    if outcome.elapsed_s > 20 or outcome.failure:
        verdict = "no recording" if outcome.failure else "slow"
        print(f"  {outcome.scenario.id}: {verdict}, {outcome.elapsed_s:.1f} s")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["list", "record", "compare"])
    parser.add_argument(
        "-k", default="", metavar="TEXT", help="only scenarios whose id has one of these, comma-separated"
    )
    parser.add_argument("--address", help="compare a server that runs already")
    parser.add_argument("--tight-address", help="the same server with the limits of `servers.py`")
    parser.add_argument(
        "--server", default="odradek", choices=["odradek", "temporal"], help="what compare starts"
    )
    parser.add_argument("--times", type=int, default=2, help="recordings that must agree")
    parser.add_argument("--rounds", type=int, default=3, help="how often what did not agree is tried")
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("-q", "--quiet", action="store_true", help="no diffs, only which scenarios differ")
    arguments = parser.parse_args()
    wanted = arguments.k.split(",")
    scenarios = [scenario for scenario in all_scenarios() if any(text in scenario.id for text in wanted)]
    if arguments.action == "list":
        print("\n".join(scenario.id for scenario in scenarios))
        return 0
    return asyncio.run({"record": record, "compare": compare}[arguments.action](arguments, scenarios))


if __name__ == "__main__":
    sys.exit(main())
