"""Real Kafka, Cassandra and PostgreSQL for the tests that ask for them, one of each in a test run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from cassandra.cluster import Cluster, Session
from confluent_kafka.admin import AdminClient

from deploy.local import java
from deploy.local.cassandra import CassandraNode, CassandraPorts
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import free_ports
from deploy.local.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
Part = KafkaCluster | CassandraNode | PostgresServer
P = TypeVar("P", KafkaCluster, CassandraNode, PostgresServer)


@pytest.fixture(scope="session")
def parts_directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory whose parts end with this test run, however that ends; kept when a test failed."""
    directory = Path(tempfile.mkdtemp(prefix="odradek-parts-")).resolve()
    # PostgreSQL runs as another user where the tests are root's.
    directory.chmod(0o711)
    command = [sys.executable, "-m", "deploy.local.watch", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True):
        yield directory
    if not request.session.testsfailed:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def started_parts() -> list[Part]:
    """The parts that tests asked for so far."""
    return []


@pytest.fixture(scope="session")
def broker(parts_directory: Path, started_parts: list[Part]) -> Iterator[KafkaCluster]:
    """A Kafka cluster of one broker."""
    ports = [BrokerPorts(*free_ports(2))]
    yield from _run(
        KafkaCluster(parts_directory / "kafka", ports, java_options=java.SHORT_LIVED), started_parts
    )


@pytest.fixture(scope="session")
def cassandra(parts_directory: Path, started_parts: list[Part]) -> Iterator[CassandraNode]:
    """A Cassandra node."""
    ports = CassandraPorts(*free_ports(2))
    yield from _run(CassandraNode(parts_directory / "cassandra", ports, java.SHORT_LIVED), started_parts)


@pytest.fixture(scope="session")
def postgres(parts_directory: Path, started_parts: list[Part]) -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    yield from _run(PostgresServer(parts_directory / "postgres", *free_ports(1)), started_parts)


def _run(part: P, started_parts: list[Part]) -> Iterator[P]:
    try:
        part.start()
        started_parts.append(part)
        yield part
    finally:
        # Nobody reads what it would write when it stops in good order.
        part.kill()


@pytest.fixture(autouse=True)
def _every_part_runs(started_parts: list[Part]) -> None:
    """Start again what an earlier test stopped and left so."""
    for part in started_parts:
        if not part.is_running:
            part.start()


@pytest.fixture(scope="session")
def broker_admin(broker: KafkaCluster) -> AdminClient:
    """An administrator of the broker."""
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})


@pytest.fixture
def topic_prefix(broker_admin: AdminClient) -> Iterator[str]:
    """What the names of this test's topics start with, and nobody else's; they go when the test ends."""
    prefix = _unique_name()
    yield prefix
    names = [name for name in broker_admin.list_topics(timeout=20).topics if name.startswith(prefix)]
    if names:
        for deleted in broker_admin.delete_topics(names).values():
            deleted.result()


@pytest.fixture(scope="session")
def cassandra_session(cassandra: CassandraNode) -> Iterator[Session]:
    """The driver's session, in no keyspace."""
    with Cluster(["127.0.0.1"], port=cassandra.port) as cluster:
        yield cluster.connect()


@pytest.fixture
def keyspace(cassandra_session: Session) -> Iterator[str]:
    """A keyspace of this test alone, of one replica; it goes when the test ends."""
    name = _unique_name()
    cassandra_session.execute(
        f"CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    )
    yield name
    cassandra_session.execute(f"DROP KEYSPACE {name}")


@pytest.fixture
def schema(postgres: PostgresServer) -> Iterator[str]:
    """A schema of this test alone; it goes when the test ends. `postgres.dsn_of_schema(schema)` connects to it."""
    name = _unique_name()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    yield name
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {name} CASCADE")


def _unique_name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"
