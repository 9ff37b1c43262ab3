"""Fixtures of tests on real parts; what starts these is in tests/support/parts.py."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from cassandra.cluster import Cluster, Session
from confluent_kafka.admin import AdminClient

from deploy.local.cassandra import CassandraNode
from deploy.local.kafka import KafkaCluster
from deploy.local.postgres import PostgresServer
from tests.support.parts import Part


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
