"""Brokers that are killed and come back, alone or one of three."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from deploy.local.kafka import Broker
from tests.cluster.checking import check_equality, check_nothing_set_aside
from tests.faults.orders import under_load
from tests.support.cluster import ROLES, Cluster, Parts, watchful_brokers

LOAD = 3
"""Workflows that have to end before anything else is done."""


async def test_the_only_broker_is_killed_and_comes_back(cluster: Cluster) -> None:
    (broker,) = cluster.parts.kafka.brokers
    async with under_load(cluster.address, "broker") as load:
        for _ in range(2):
            await load.until_ended(LOAD)
            await asyncio.to_thread(broker.kill)
            await load.alongside(asyncio.to_thread(broker.start))
        await load.until_ended(LOAD)
    cluster.check_all_run()
    check_nothing_set_aside(cluster)
    await asyncio.to_thread(check_equality, cluster)


@pytest.fixture
def wide_cluster(parts: Parts, parts_directory: Path, folder: Path) -> Iterator[Cluster]:
    """Two processes of all roles on three brokers, which have every record twice before it counts."""
    kafka = watchful_brokers(parts_directory / "three-brokers", 3)
    (folder / "wide").mkdir()
    cluster = Cluster(
        Parts(kafka, parts.cassandra, parts.postgres),
        folder / "wide",
        "wide",
        roles=[",".join(ROLES)],
        kafka={"replication": 3},
    )
    try:
        kafka.start()
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
        kafka.kill()


def _leaders(cluster: Cluster) -> Counter[int]:
    """Of how many of the engine's partitions each broker is the leader; -1 stands for none."""
    client = AdminClient({**cluster.settings.kafka.client(), "log_level": 0})
    return Counter(
        partition.leader
        for name, topic in client.list_topics(timeout=20).topics.items()
        if name.startswith(cluster.settings.kafka.prefix)
        for partition in topic.partitions.values()
    )


def _in_sync(cluster: Cluster) -> bool:
    """Whether every replica is where its leader is."""
    client = AdminClient({**cluster.settings.kafka.client(), "log_level": 0})
    topics = client.list_topics(timeout=20).topics.values()
    return all(len(p.isrs) == len(p.replicas) for topic in topics for p in topic.partitions.values())


def _busiest(cluster: Cluster) -> Broker:
    """The broker that leads most."""
    ((node_id, _),) = _leaders(cluster).most_common(1)
    return cluster.parts.kafka.brokers[node_id - 1]


async def test_three_brokers_lose_a_leader_and_get_it_back(wide_cluster: Cluster) -> None:
    cluster = wide_cluster
    async with under_load(cluster.address, "leader") as load:
        for _ in range(2):
            await load.until_ended(LOAD)
            broker = await asyncio.to_thread(_busiest, cluster)
            await asyncio.to_thread(broker.kill)
            await load.until_ended(LOAD)
            assert broker.node_id not in await asyncio.to_thread(_leaders, cluster)
            await load.alongside(asyncio.to_thread(broker.start))
            await load.alongside(asyncio.to_thread(cluster.wait, lambda: _in_sync(cluster)))
        await load.until_ended(LOAD)
    cluster.check_all_run()
    check_nothing_set_aside(cluster)
    await asyncio.to_thread(check_equality, cluster)
