"""One cluster of real parts, with two processes a role, which every test finds whole and at work.

Ports are out of ODRADEK_TEST_PORTS. What the processes wrote stays when a test fails.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cassandra import CassandraNode
from deploy.local.postgres import PostgresServer
from tests.support.cluster import Cluster, Parts, watchful_brokers


@pytest.fixture(scope="package")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where settings, logs and states of processes are; kept when a test failed."""
    path = Path(tempfile.mkdtemp(prefix="odradek-cluster-"))
    yield path
    if not request.session.testsfailed:
        shutil.rmtree(path)


@pytest.fixture(scope="package")
def parts(parts_directory: Path, cassandra: CassandraNode, postgres: PostgresServer) -> Iterator[Parts]:
    """One broker, and the stores of the test run."""
    kafka = watchful_brokers(parts_directory / "kafka-of-faults", 1)
    try:
        kafka.start()
        yield Parts(kafka, cassandra, postgres)
    finally:
        kafka.kill()


@pytest.fixture(scope="package")
def started_cluster(parts: Parts, folder: Path) -> Iterator[Cluster]:
    """The cluster, in whatever state the last test left it."""
    (folder / "cluster").mkdir()
    cluster = Cluster(parts, folder / "cluster", "faults")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def cluster(started_cluster: Cluster) -> Cluster:
    """The cluster, whole and at work."""
    started_cluster.heal()
    return started_cluster
