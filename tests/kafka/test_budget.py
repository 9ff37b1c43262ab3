"""What a workflow costs in records on Kafka, counted in every topic (fold.md rule 12)."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from deploy.local.kafka import KafkaCluster
from deploy.local.ports import free_ports
from streams.kafka.names import ALL_TOPICS, REPLIES, Names
from streams.kafka.settings import KafkaSettings
from tests.kafka.driving import read_all
from tests.support import cluster_server

BUDGET = 20
WORKFLOWS = 40


@activity.defn
async def double(number: int) -> int:
    """An activity."""
    return 2 * number


@workflow.defn
class OneActivity:
    """A workflow of one activity."""

    @workflow.run
    async def run(self, number: int) -> int:
        """Twice the number."""
        return await workflow.execute_activity(double, number, start_to_close_timeout=timedelta(seconds=20))


@pytest.fixture
def ports() -> tuple[int, int]:
    """Of the gateway and of the metrics."""
    grpc, metrics = free_ports(2)
    return grpc, metrics


async def test_a_workflow_of_one_activity_keeps_within_its_budget(
    tmp_path: Path, broker: KafkaCluster, topic_prefix: str, ports: tuple[int, int]
) -> None:
    """By the official SDK as it comes, result awaited; with all that else is written meanwhile: leases, ticks,
    positions of checkpoints.
    """
    config = cluster_server.write_settings(
        tmp_path / "settings.yaml",
        brokers=broker.bootstrap_servers,
        prefix=topic_prefix,
        port=ports[0],
        metrics_port=ports[1],
        stores=cluster_server.sqlite_stores(tmp_path),
    )
    cluster_server.prepare_cluster(config, migrate=False)
    settings = KafkaSettings(
        brokers=broker.bootstrap_servers, prefix=topic_prefix, partitions=2, replication=1
    )
    with cluster_server.serving(config, tmp_path / "log", metrics_ports=(ports[1],)):
        client = await Client.connect(f"127.0.0.1:{ports[0]}")
        queue = f"queue-{uuid.uuid4()}"
        worker = Worker(
            client,
            task_queue=queue,
            workflows=[OneActivity],
            activities=[double],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        async with worker:
            await run_one(client, queue, -1)  # queues, polls and connections are there then
            before = await asyncio.to_thread(counted, settings)
            for number in range(WORKFLOWS):
                await run_one(client, queue, number)
    # The process has stopped: its last checkpoints are written, and its last events.
    after = counted(settings)
    costs = {name: (after[name] - before[name]) / WORKFLOWS for name in ALL_TOPICS}
    assert sum(costs.values()) <= BUDGET, costs
    assert costs[REPLIES] == 0, "they skip the topic where the gateway lives in the owner's process"
    assert costs["history"] >= 1
    assert costs["visibility"] >= 2


async def run_one(client: Client, queue: str, number: int) -> None:
    """Run a workflow to its result."""
    result = await client.execute_workflow(OneActivity.run, number, id=f"wf-{uuid.uuid4()}", task_queue=queue)
    assert result == 2 * number


def counted(settings: KafkaSettings) -> dict[str, int]:
    """How many records each topic holds, without those that end transactions.

    Replies are gone after minutes: all that ever were are counted, of which none is of a transaction.
    """
    counts = {name: len(read_all(settings, name)) for name in ALL_TOPICS if name != REPLIES}
    topic = Names(settings.prefix).topic(REPLIES)
    consumer = Consumer({**settings.consumer(), "group.id": "tests"})
    ends = [
        consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
        for number in range(settings.partitions)
    ]
    consumer.close()
    return {**counts, REPLIES: sum(ends)}
