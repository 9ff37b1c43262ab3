"""A server on real Kafka, its stores in a file or in Cassandra and PostgreSQL, for suites that need an address."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from deploy.local.ports import free_ports
from tests.support import cluster_server


@contextmanager
def server_on_kafka(request: pytest.FixtureRequest, folder: Path, *, cluster_stores: bool) -> Iterator[str]:
    """The host:port of a server with all roles in one process; log and settings are in `folder`.

    Its parts are those of the test run; topics, keyspace and schema are its own.
    """
    stores = cluster_server.sqlite_stores(folder)
    name = f"footing{uuid.uuid4().hex[:8]}"
    if cluster_stores:
        cassandra, postgres = (request.getfixturevalue(part) for part in ("cassandra", "postgres"))
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        stores = cluster_server.cluster_stores(cassandra.port, name, postgres.dsn_of_schema(name))
    port, metrics_port = free_ports(2)
    config = cluster_server.write_settings(
        folder / "settings.yaml",
        brokers=request.getfixturevalue("broker").bootstrap_servers,
        prefix=name,
        port=port,
        metrics_port=metrics_port,
        stores=stores,
    )
    cluster_server.prepare_cluster(config, migrate=cluster_stores)
    with cluster_server.serving(config, folder / "server.log", metrics_ports=(metrics_port,)):
        yield f"127.0.0.1:{port}"
