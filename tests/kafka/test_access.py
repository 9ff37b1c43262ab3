"""Roles run with the rights that docs/operations/access.md gives them, and with no others."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from deploy.local import java
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import free_ports
from tests.support import cluster_server

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "access.md"
ROLES = ("history", "matching", "timer", "materializer", "gateway")
COMMANDS = {"`odradek topics`": "topics", "`odradek upgrade`": "upgrade"}
EVERY_ROLE = "every role"
KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,  # its number is Kafka's for the cluster
}
USERS = (*ROLES, *COMMANDS.values())


@activity.defn
async def double(number: int) -> int:
    """An activity."""
    return 2 * number


@workflow.defn
class Doubling:
    """A timer, then an activity."""

    @workflow.run
    async def run(self, number: int) -> int:
        """Twice the number."""
        await workflow.sleep(0.1)
        return await workflow.execute_activity(double, number, start_to_close_timeout=timedelta(seconds=20))


def rights() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """The rows of the table: who, on what kind of thing, of which names, may do what."""
    for row in re.findall(r"^\| (.*) \|$", PAGE.read_text(), re.MULTILINE):
        cells = [cell.strip() for cell in row.split(" | ")]
        if len(cells) == 5 and cells[1] in KINDS:
            yield cells[0], cells[1], re.findall(r"`([^`]+)`", cells[2]), cells[3].split(", ")


def bindings() -> Iterator[AclBinding]:
    """The same for Kafka. Users are called as their roles are."""
    for who, kind, names, operations in rights():
        users = ROLES if who == EVERY_ROLE else (COMMANDS.get(who, who),)
        for user in users:
            for name in names or ["kafka-cluster"]:
                pattern = ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL
                for operation in operations:
                    yield AclBinding(
                        KINDS[kind],
                        name.rstrip("*"),
                        pattern,
                        f"User:{user}",
                        "*",
                        AclOperation[operation],
                        AclPermissionType.ALLOW,
                    )


@pytest.fixture
def guarded_broker(parts_directory: Path) -> Iterator[tuple[KafkaCluster, int]]:
    """A broker that knows who asks at its second port, and lets nobody do anything there."""
    client, controller, guarded = free_ports(3)
    listeners = f"PLAINTEXT://127.0.0.1:{client},SASL_PLAINTEXT://127.0.0.1:{guarded}"
    users = " ".join(f'user_{name}="{name}"' for name in USERS)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    properties = {
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{login} {users};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    ports = [BrokerPorts(client, controller)]
    cluster = KafkaCluster(parts_directory / "guarded", ports, properties, java.SHORT_LIVED)
    try:
        cluster.start()
        yield cluster, guarded
    finally:
        cluster.kill()


def as_user(user: str) -> dict[str, str]:
    """The properties of a client that is one."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": user,
        "sasl.password": user,
    }


async def test_every_role_works_with_the_rights_it_is_given(
    guarded_broker: tuple[KafkaCluster, int], tmp_path: Path
) -> None:
    cluster, guarded = guarded_broker
    everybody = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
    for future in everybody.create_acls(list(bindings())).values():
        future.result()
    grpc_port, *metrics_ports = free_ports(1 + len(ROLES))

    def settings(user: str, metrics_port: int) -> Path:
        return cluster_server.write_settings(
            tmp_path / f"{user}.yaml",
            brokers=f"127.0.0.1:{guarded}",
            prefix="odradek",
            port=grpc_port,
            metrics_port=metrics_port,
            stores=cluster_server.sqlite_stores(tmp_path),
            kafka={"properties": as_user(user), "state_directory": str(tmp_path / f"state-{user}")},
        )

    cluster_server.prepare_cluster(settings("topics", 0), migrate=False)
    assert _said("topics", "diff", settings("topics", 0)) == "every topic is as the settings say\n"
    with ExitStack() as stack:
        for role, metrics_port in zip(ROLES, metrics_ports, strict=True):
            log = tmp_path / f"{role}.log"
            stack.enter_context(
                cluster_server.serving(
                    settings(role, metrics_port), log, "--roles", role, metrics_ports=(metrics_port,)
                )
            )
        client = await Client.connect(f"127.0.0.1:{grpc_port}")
        queue = f"queue-{uuid.uuid4()}"
        worker = Worker(
            client,
            task_queue=queue,
            workflows=[Doubling],
            activities=[double],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        async with worker:
            assert await client.execute_workflow(Doubling.run, 21, id="doubling", task_queue=queue) == 42
        events = [event async for event in client.get_workflow_handle("doubling").fetch_history_events()]
        assert len(events) > 10
        assert "is in force everywhere" in _said("upgrade", "finalize", settings("upgrade", 0))
    for role in ROLES:
        said = (tmp_path / f"{role}.log").read_text()
        assert not re.search("authoriz", said, re.IGNORECASE), said

    assert _delete_records(guarded, "history") is None
    assert _delete_records(guarded, "gateway") == KafkaError.TOPIC_AUTHORIZATION_FAILED


def _said(command: str, what: str, config: Path) -> str:
    """What a command of the cluster's says."""
    arguments = [cluster_server.ODRADEK, command, what, "--config", config]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _delete_records(port: int, user: str) -> int | None:
    """What an owner's deletion of no records comes to: the error, None when it is let."""
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", **as_user(user), "log_level": 0})
    (future,) = client.delete_records([TopicPartition("odradek.commands", 0, 0)]).values()
    try:
        future.result()
    except KafkaException as error:
        return error.args[0].code()
    return None
