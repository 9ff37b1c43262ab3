"""SIGKILL of each role in turn, under load, and what the log, the tables and the stores hold afterwards.

ODRADEK_TEST_KILL_SECONDS says for how long: 30 unless given, 600 every night. ODRADEK_TEST_SEED repeats a run as far
as the moments of the kills go.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time

import pytest

from tests.cluster.checking import check_equality, check_nothing_set_aside
from tests.faults.orders import under_load
from tests.support.cluster import ROLES, Cluster

SECONDS = float(os.environ.get("ODRADEK_TEST_KILL_SECONDS", "30"))
SEED = int(os.environ.get("ODRADEK_TEST_SEED", "1"))
BETWEEN_S = (5.0, 10.0)


async def _kill_in_turn(cluster: Cluster, chance: random.Random) -> int:
    """Kill a process of each role in turn, start it again at once, and so on. Returns how often."""
    until_s = time.monotonic() + SECONDS
    for kills, role in enumerate(itertools.cycle(ROLES)):
        if kills >= len(ROLES) and time.monotonic() > until_s:
            return kills
        await asyncio.sleep(chance.uniform(*BETWEEN_S))
        process = chance.choice(cluster.of(role))
        await asyncio.to_thread(process.kill)
        process.start()
    raise AssertionError("unreachable")


@pytest.mark.timeout(600 + 3 * SECONDS)
async def test_nothing_accepted_is_lost_or_done_twice(cluster: Cluster) -> None:
    async with under_load(cluster.address, f"kills-{SEED}") as load:
        kills = await load.alongside(_kill_in_turn(cluster, random.Random(SEED)))
    assert len(load.runs) >= kills
    check_nothing_set_aside(cluster)
    await asyncio.to_thread(check_equality, cluster, stopped=True)
