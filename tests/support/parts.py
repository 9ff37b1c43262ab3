"""Real Kafka, Cassandra and PostgreSQL for the suites that ask for them: one of each in a test run, ended with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from deploy.local import java
from deploy.local.cassandra import CassandraNode, CassandraPorts
from deploy.local.errors import PartError
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
        try:
            part.start()
        except PartError as error:
            pytest.fail(str(error), pytrace=False)
        started_parts.append(part)
        yield part
    finally:
        # Nobody reads what it would write when it stops in good order.
        part.kill()
