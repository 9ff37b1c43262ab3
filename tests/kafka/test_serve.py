"""`odradek serve` on a real broker: the official SDK works a workflow, over one process and over several."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from deploy.local.kafka import KafkaCluster
from deploy.local.ports import free_ports
from streams.kafka.admin import Cluster
from streams.kafka.names import REPLIES, Names
from streams.kafka.offsets import high_watermarks
from streams.kafka.settings import KafkaSettings
from tests.support import cluster_server
from tests.support.cluster_server import ServerProcess


@activity.defn
async def add(left: int, right: int) -> int:
    """An activity."""
    return left + right


@workflow.defn
class Counter:
    """An activity and a timer, with signals, queries and updates meanwhile, until it is told to finish."""

    def __init__(self) -> None:
        self.count = 0
        self.finished = False

    @workflow.run
    async def run(self, start: int) -> int:
        """The count when told to finish."""
        sum_ = await workflow.execute_activity(
            add, args=[start, 1], start_to_close_timeout=timedelta(seconds=20)
        )
        self.count += sum_  # not +=-ed with the await, which would lose what comes meanwhile
        await asyncio.sleep(0.05)
        await workflow.wait_condition(lambda: self.finished)
        return self.count

    @workflow.signal
    def bump(self, by: int) -> None:
        """Add to the count."""
        self.count += by

    @workflow.query
    def current(self) -> int:
        """The count."""
        return self.count

    @workflow.update
    async def raised(self, by: int) -> bool:
        """Add to the count; whether it was positive before."""
        before, self.count = self.count, self.count + by
        return before > 0

    @workflow.signal
    def finish(self) -> None:
        """Let it return."""
        self.finished = True


class Ports:
    """The ports of one member of up to two processes, whose metrics are side by side."""

    def __init__(self) -> None:
        (self.grpc,) = free_ports(1)
        while True:
            (self.metrics,) = free_ports(1)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.metrics + 1)) and self.metrics + 1 != self.grpc:
                    return


@pytest.fixture
def ports() -> Ports:
    """Ports for the member of a test."""
    return Ports()


@pytest.fixture
def config(tmp_path: Path, broker: KafkaCluster, topic_prefix: str, ports: Ports) -> Path:
    """Settings of a member with its stores in a file; the topics are there."""
    path = cluster_server.write_settings(
        tmp_path / "settings.yaml",
        brokers=broker.bootstrap_servers,
        prefix=topic_prefix,
        port=ports.grpc,
        metrics_port=ports.metrics,
        stores=cluster_server.sqlite_stores(tmp_path),
    )
    cluster_server.prepare_cluster(path, migrate=False)
    return path


@pytest.fixture
def server(config: Path, tmp_path: Path, ports: Ports) -> Iterator[ServerProcess]:
    """All roles in one process."""
    with cluster_server.serving(config, tmp_path / "log", metrics_ports=(ports.metrics,)) as server:
        yield server


async def work_one(client: Client) -> WorkflowHandle[Counter, int]:
    """Run a Counter through everything it does."""
    queue = f"queue-{uuid.uuid4()}"
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[Counter],
        activities=[add],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        handle = await client.start_workflow(Counter.run, 1, id=f"counter-{uuid.uuid4()}", task_queue=queue)
        await handle.signal(Counter.bump, 10)
        assert await handle.execute_update(Counter.raised, 100)
        await handle.signal(Counter.bump, 5)
        assert await handle.query(Counter.current) in (115, 117)  # whether the activity is done by then
        await handle.signal(Counter.finish)
        assert await handle.result() == 117
    return handle


async def test_a_workflow_runs_over_one_process(server: ServerProcess, ports: Ports) -> None:
    client = await Client.connect(f"127.0.0.1:{ports.grpc}")
    handle = await work_one(client)
    # Right after the close, whether or not the store has it yet.
    events = [event async for event in handle.fetch_history_events()]
    assert [event.event_id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].HasField("workflow_execution_completed_event_attributes")
    assert cluster_server.probe(ports.metrics, "/live") is None
    numbers = cluster_server.metrics(ports.metrics)
    assert numbers['odradek_partition_owned{processor="history",partition="0"}'] == 1
    assert numbers["odradek_gateway_records_total"] > 0


async def test_a_member_that_starts_again_goes_on(config: Path, tmp_path: Path, ports: Ports) -> None:
    queue = f"queue-{uuid.uuid4()}"
    with cluster_server.serving(config, tmp_path / "log", metrics_ports=(ports.metrics,)):
        client = await Client.connect(f"127.0.0.1:{ports.grpc}")
        handle = await client.start_workflow(Counter.run, 1, id=f"counter-{uuid.uuid4()}", task_queue=queue)
        await handle.signal(Counter.bump, 3)
        await handle.signal(Counter.finish)
    with cluster_server.serving(config, tmp_path / "log", metrics_ports=(ports.metrics,)):
        client = await Client.connect(f"127.0.0.1:{ports.grpc}")
        handle = client.get_workflow_handle_for(Counter.run, handle.id)
        worker = Worker(
            client,
            task_queue=queue,
            workflows=[Counter],
            activities=[add],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        async with worker:
            assert await handle.result() == 5
        events = [event async for event in handle.fetch_history_events()]
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))


async def test_processes_share_the_work_and_one_that_is_killed_comes_back(
    config: Path, tmp_path: Path, ports: Ports
) -> None:
    both = (ports.metrics, ports.metrics + 1)
    with cluster_server.serving(config, tmp_path / "log", "--processes", "2", metrics_ports=both) as server:
        # The second to join gets its share a moment later.
        await asyncio.to_thread(cluster_server.wait_until, lambda: all(map(owned_at, both)))
        client = await Client.connect(f"127.0.0.1:{ports.grpc}")
        handle = await work_one(client)
        os.kill(children_of(server.process.pid)[1], signal.SIGKILL)
        server.wait_until_ready(*both)
        # Whoever was connected to the one that was killed connects again.
        client = await Client.connect(f"127.0.0.1:{ports.grpc}")
        await work_one(client)
        events = [event async for event in client.get_workflow_handle(handle.id).fetch_history_events()]
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize("local_replies", [True, False])
async def test_answers_of_another_process_come_by_its_socket_or_by_kafka(
    config: Path, tmp_path: Path, broker: KafkaCluster, topic_prefix: str, ports: Ports, local_replies: bool
) -> None:
    def member(metrics_port: int, *roles: str) -> Path:
        return cluster_server.write_settings(
            tmp_path / f"{roles[0]}.yaml",
            brokers=broker.bootstrap_servers,
            prefix=topic_prefix,
            port=ports.grpc,
            metrics_port=metrics_port,
            stores=cluster_server.sqlite_stores(tmp_path),
            serve={"roles": roles, "local_replies": local_replies},
            kafka={"state_directory": str(tmp_path / roles[0])},
        )

    owners = member(ports.metrics + 1, "history", "matching", "timer", "materializer")
    with (
        cluster_server.serving(owners, tmp_path / "owners.log", metrics_ports=(ports.metrics + 1,)),
        cluster_server.serving(
            member(ports.metrics, "gateway"), tmp_path / "gateway.log", metrics_ports=(ports.metrics,)
        ),
    ):
        await work_one(await Client.connect(f"127.0.0.1:{ports.grpc}"))
    settings = KafkaSettings(brokers=broker.bootstrap_servers, prefix=topic_prefix)
    cluster = Cluster(settings)
    ends = high_watermarks(cluster.client, Names(settings.prefix).topic(REPLIES), range(2))
    assert (sum(ends.values()) == 0) == local_replies


def test_a_second_signal_leaves_no_process_behind(config: Path, tmp_path: Path, ports: Ports) -> None:
    server = ServerProcess(config, tmp_path / "log", "--processes", "2")
    try:
        server.wait_until_ready(ports.metrics, ports.metrics + 1)
        pid = server.process.pid
        paused, other = children_of(pid)
        os.kill(paused, signal.SIGSTOP)  # holds the first signal's goodbye up
        os.kill(pid, signal.SIGTERM)
        cluster_server.wait_until(lambda: other not in children_of(pid))
    finally:
        code = server.stop()
    assert code == 128 + signal.SIGTERM
    cluster_server.wait_until(lambda: not listens(ports.metrics))


def listens(port: int) -> bool:
    """Whether a process has a port, paused or not."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def owned_at(metrics_port: int) -> list[str]:
    """The partitions that a process owns."""
    numbers = cluster_server.metrics(metrics_port)
    return [name for name, value in numbers.items() if name.startswith("odradek_partition_owned") and value]


def children_of(pid: int) -> list[int]:
    """The processes that a process started, in that order."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
