"""Owners that stop for a while, come and go: whatever they do, another one goes on, and none does harm."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

import pytest

from tests.cluster.checking import check_equality, check_nothing_set_aside
from tests.faults.orders import under_load
from tests.support.cluster import FOLDING, PARTITIONS, Cluster

ROUNDS = 3
LOAD = 3
"""Workflows that have to end before anything else is done."""


@pytest.mark.parametrize("role", FOLDING)
async def test_an_owner_that_was_paused_past_its_session_does_no_harm(cluster: Cluster, role: str) -> None:
    paused, other = cluster.of(role)
    async with under_load(cluster.address, f"paused-{role}") as load:
        await load.until_ended(LOAD)
        paused.pause()
        await load.alongside(_until(cluster, lambda: len(cluster.owned_of(other, role)) == PARTITIONS))
        await load.until_ended(LOAD)
        paused.resume()
        await load.alongside(_until(cluster, lambda: cluster.is_shared(role)))
        await load.until_ended(LOAD)
    cluster.check_all_run()
    check_nothing_set_aside(cluster)


async def test_members_come_and_go_while_others_restore(cluster: Cluster) -> None:
    first, _ = cluster.of("history")
    spare = cluster.spare("history")
    async with under_load(cluster.address, "come-and-go") as load:
        try:
            for number in range(ROUNDS):
                await load.until_ended(LOAD)
                await asyncio.to_thread(first.kill)
                shutil.rmtree(first.state)
                spare.start()
                first.start()
                await load.alongside(_until(cluster, lambda: bool(spare.assigned())))
                if number % 2:
                    await asyncio.to_thread(spare.kill)
                else:
                    spare.ask_to_stop()
                    assert await asyncio.to_thread(spare.wait) == 0, spare.log
            await load.alongside(_until(cluster, lambda: cluster.is_shared("history")))
        finally:
            if spare.is_running:
                spare.kill()
    cluster.check_all_run()
    check_nothing_set_aside(cluster)
    await asyncio.to_thread(check_equality, cluster, stopped=True)


async def _until(cluster: Cluster, true: Callable[[], bool]) -> None:
    await asyncio.to_thread(cluster.wait, true)
