"""The scenarios are run once, many at a time, on servers of their own; each test looks at one outcome."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.peer.peer import free_ports

from .registry import Scenario, all_scenarios
from .runner import Outcome, run_all
from .servers import CONFIGURATIONS, connected, started


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What the collected scenarios recorded on `odradek dev`, by scenario id.

    Only the scenarios whose tests were selected are run.
    """
    wanted = {item.callspec.params["scenario"].id for item in request.session.items if _takes_scenario(item)}
    chosen = [scenario for scenario in all_scenarios() if scenario.id in wanted]
    return asyncio.run(_run(chosen, tmp_path_factory.mktemp("oracle")))


def _takes_scenario(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "scenario" in getattr(
        getattr(item, "callspec", None), "params", {}
    )


async def _run(scenarios: list[Scenario], directory: Path) -> dict[str, Outcome]:
    ports = free_ports(len(CONFIGURATIONS))
    async with started("odradek", ports, directory) as addresses, connected(addresses) as targets:
        return await run_all(scenarios, targets)
