"""A server on real Kafka, its stores in a file or in Cassandra and PostgreSQL, for suites that need an address."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.local import java
from deploy.local.cassandra import CassandraNode, CassandraPorts
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import free_ports
from deploy.local.postgres import PostgresServer
from tests.support import cluster_server

ROOT = Path(__file__).parents[2]


@contextmanager
def server_on_kafka(folder: Path, *, cluster_stores: bool) -> Iterator[str]:
    """The host:port of a server with all roles in one process; log and settings are in `folder`."""
    with ExitStack() as stack:
        parts = stack.enter_context(_parts_directory())
        broker = KafkaCluster(parts / "kafka", [BrokerPorts(*free_ports(2))], java_options=java.SHORT_LIVED)
        stack.callback(broker.kill)
        broker.start()
        stores = cluster_server.sqlite_stores(folder)
        if cluster_stores:
            cassandra = CassandraNode(
                parts / "cassandra", CassandraPorts(*free_ports(2)), java_options=java.SHORT_LIVED
            )
            stack.callback(cassandra.kill)
            cassandra.start()
            postgres = PostgresServer(parts / "postgres", *free_ports(1))
            stack.callback(postgres.kill)
            postgres.start()
            stores = cluster_server.cluster_stores(cassandra.port, "odradek", postgres.dsn)
        port, metrics_port = free_ports(2)
        config = cluster_server.write_settings(
            folder / "settings.yaml",
            brokers=broker.bootstrap_servers,
            prefix="odradek",
            port=port,
            metrics_port=metrics_port,
            stores=stores,
        )
        cluster_server.prepare_cluster(config, migrate=cluster_stores)
        stack.enter_context(
            cluster_server.serving(config, folder / "server.log", metrics_ports=(metrics_port,))
        )
        yield f"127.0.0.1:{port}"


@contextmanager
def _parts_directory() -> Iterator[Path]:
    """A directory whose parts end with this process, however that ends."""
    directory = Path(tempfile.mkdtemp(prefix="odradek-parts-")).resolve()
    directory.chmod(0o711)  # PostgreSQL runs as another user where the tests are root's
    command = [sys.executable, "-m", "deploy.local.watch", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True):
        yield directory
    shutil.rmtree(directory, ignore_errors=True)
