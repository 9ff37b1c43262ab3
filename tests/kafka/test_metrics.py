"""What a running member tells an operator is so: each metric against what is on the broker."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowUpdateStage
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from deploy.local.kafka import KafkaCluster
from deploy.local.ports import free_ports
from streams import topology
from streams.kafka.names import PROCESSORS
from streams.kafka.settings import KafkaSettings
from tests.kafka.driving import read_all, settings_for
from tests.support import cluster_server

PARTITIONS = 2
WAIT_S = 30.0


@workflow.defn
class Sleeper:
    """Sleeps a moment, then waits to be told."""

    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self) -> str:
        """Until told."""
        await asyncio.sleep(0.1)
        await workflow.wait_condition(lambda: self.told)
        return "told"

    @workflow.update
    async def tell(self) -> bool:
        """Tell it."""
        self.told = True
        return True


class Member:
    """A member under test, by its ports."""

    def __init__(self, grpc: int, metrics: int, kafka: KafkaSettings) -> None:
        self.grpc = grpc
        self.kafka = kafka
        self._metrics = metrics

    def numbers(self) -> dict[str, float]:
        """All metrics now."""
        return cluster_server.metrics(self._metrics)

    def of(self, name: str, **labels: object) -> float:
        """One metric now."""
        label_text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return self.numbers()[f"{name}{{{label_text}}}" if labels else name]

    def only_polls_wait(self) -> bool:
        """Whether no call waits but for polls."""
        numbers = self.numbers()
        return numbers["odradek_gateway_calls_in_flight"] == numbers["odradek_gateway_waiting_polls"]

    def sum(self, name: str, **labels: object) -> float:
        """A metric's sum over its children with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            value
            for key, value in self.numbers().items()
            if key.partition("{")[0] == name and all(label in key for label in wanted)
        )


@pytest.fixture
def member(tmp_path: Path, broker: KafkaCluster, topic_prefix: str) -> Callable[[], Any]:
    """Starts a member of all roles with its stores in a file; the same disk each time."""
    grpc, metrics = free_ports(2)
    config = cluster_server.write_settings(
        tmp_path / "settings.yaml",
        brokers=broker.bootstrap_servers,
        prefix=topic_prefix,
        port=grpc,
        metrics_port=metrics,
        stores=cluster_server.sqlite_stores(tmp_path),
        partitions=PARTITIONS,
    )
    cluster_server.prepare_cluster(config, migrate=False)
    kafka = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state", partitions=PARTITIONS)

    @contextmanager
    def serving() -> Iterator[Member]:
        with cluster_server.serving(config, tmp_path / "log", metrics_ports=(metrics,)):
            yield Member(grpc, metrics, kafka)

    return serving


async def test_every_metric_says_what_is_so(member: Callable[[], Any]) -> None:
    with member() as running:
        await _work(running)
        await asyncio.to_thread(_check_logs, running)
        await asyncio.to_thread(_check_materializers, running)
        _check_checkpoints(running)
    with member() as again:
        _check_takeovers(again)


async def _work(running: Member) -> None:
    """Run a workflow, and look at the gateway meanwhile."""
    client = await Client.connect(f"127.0.0.1:{running.grpc}")
    queue = f"queue-{uuid.uuid4()}"
    handle = await client.start_workflow(Sleeper.run, id="sleeper", task_queue=queue)
    assert running.of("odradek_gateway_waiting_polls") == 0
    assert running.of("odradek_gateway_calls_in_flight") == 0
    # Nobody works the queue yet: an update waits for its acceptance.
    update = asyncio.create_task(
        handle.start_update(Sleeper.tell, wait_for_stage=WorkflowUpdateStage.ACCEPTED)
    )
    await _until(lambda: running.of("odradek_gateway_calls_in_flight") == 1)
    worker = Worker(
        client, task_queue=queue, workflows=[Sleeper], workflow_runner=UnsandboxedWorkflowRunner()
    )
    async with worker:
        await update
        assert await handle.result() == "told"
        await _until(lambda: running.of("odradek_gateway_waiting_polls") > 0)
        await _until(running.only_polls_wait)
    assert 0 <= running.sum("odradek_tick_lateness_seconds", processor="timer") < 10
    assert running.of("odradek_gateway_records_total") >= 5


def _check_logs(running: Member) -> None:
    """Positions, ends and counts are those of the logs."""
    for processor, topic in PROCESSORS.items():
        for number in range(PARTITIONS):
            labels = {"processor": processor, "partition": number}

            def is_so(topic: str = topic, number: int = number, labels: dict[str, object] = labels) -> bool:
                there = [m for m in read_all(running.kafka, topic) if m.partition() == number]
                numbers = running.numbers()

                def of(name: str) -> float:
                    return numbers[f'{name}{{processor="{labels["processor"]}",partition="{number}"}}']

                return (
                    of("odradek_partition_position") == there[-1].offset()
                    and of("odradek_partition_end_offset") == there[-1].offset() + 1
                    and of("odradek_partition_folded_total") == len(there)
                    and of("odradek_partition_lag") == 0
                )

            cluster_server.wait_until(is_so)
            assert running.of("odradek_partition_owned", **labels) == 1
            assert 0 < running.of("odradek_partition_fold_seconds_total", **labels) < 10
            assert running.of("odradek_partition_dead_letters_total", **labels) == 0
    emitted = running.sum("odradek_partition_emitted_total", processor="history")
    made = sum(len(read_all(running.kafka, name)) for name in (topology.HISTORY, topology.VISIBILITY))
    assert emitted > made >= 3  # events together, and two rows for lists
    assert running.sum("odradek_partition_replied_total", processor="history") >= 4


def _check_materializers(running: Member) -> None:
    """The stores have all of their topics."""
    for topic in (topology.HISTORY, topology.VISIBILITY):
        there = read_all(running.kafka, topic)
        assert there
        ends = {m.partition(): m.offset() for m in there}
        for number, last in ends.items():
            labels = {"topic": topic, "partition": number}
            cluster_server.wait_until(
                lambda labels=labels, last=last: running.of("odradek_materializer_position", **labels) == last
            )
            assert running.of("odradek_materializer_lag", **labels) == 0
            assert running.of("odradek_materializer_lag_seconds", **labels) == 0
        assert running.of("odradek_materializer_records_total", topic=topic) == len(there)
        assert running.of("odradek_materializer_store_down", topic=topic) == 0


def _check_checkpoints(running: Member) -> None:
    """Checkpoints stand for all that is folded, once nothing more comes."""
    for number in range(PARTITIONS):
        labels = {"processor": "history", "partition": number}
        cluster_server.wait_until(
            lambda labels=labels: (
                running.of("odradek_checkpoint_offset", **labels)
                == running.of("odradek_partition_position", **labels)
            )
        )
        assert running.of("odradek_dirty_keys", **labels) == 0
        assert running.of("odradek_checkpoints_total", **labels) >= 1
        assert running.of("odradek_checkpoint_rows", **labels) >= 1
        assert running.of("odradek_checkpoint_bytes", **labels) > 100
        assert 0 < running.of("odradek_checkpoint_seconds", **labels) < 10
        assert 0 < running.of("odradek_checkpoint_age_seconds", **labels) < 60


def _check_takeovers(again: Member) -> None:
    """What was restored and how long that took."""
    for processor in PROCESSORS:
        for number in range(PARTITIONS):
            labels = {"processor": processor, "partition": number}
            assert again.of("odradek_partition_takeovers_total", **labels) == 1
            assert again.of("odradek_restore_remaining", **labels) == 0
            assert again.of("odradek_restore_records_total", **labels) >= 1
            assert 0 < again.of("odradek_restore_seconds", **labels) < 10
            assert again.of("odradek_takeover_seconds", **labels) >= again.of(
                "odradek_restore_seconds", **labels
            )
    assert again.of("odradek_member_failures_total", role="history") == 0


async def _until(true: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
