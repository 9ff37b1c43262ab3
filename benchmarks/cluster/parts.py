"""The parts that both servers stand on, and what one server makes in them for one run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from cassandra.cluster import Cluster
from confluent_kafka.admin import AdminClient

from benchmarks import proc
from benchmarks.servers import WORK
from deploy.local.cassandra import CassandraNode, CassandraPorts
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.postgres import USER, PostgresServer

PORTS = 5
"""How many ports the parts take."""

REQUEST_S = 60
QUIET_SHARE = 0.3
QUIET_S = 2.0
_QUIET_LIMIT_S = 120.0


class Parts:
    """One broker, one Cassandra node and one PostgreSQL server of deploy/local, on new data.

    Cassandra's commit log is written out as Cassandra does it unless told otherwise, every ten seconds: the real
    server waits for each of its writes, so it is the one that gains.
    """

    def __init__(self, first_port: int) -> None:
        self.directory = WORK / "cluster"
        port = first_port
        self.kafka = KafkaCluster(self.directory / "kafka", [BrokerPorts(port, port + 1)])
        self.cassandra = CassandraNode(
            self.directory / "cassandra",
            CassandraPorts(port + 2, port + 3),
            configuration={"commitlog_sync": "periodic", "commitlog_sync_period": "10000ms"},
        )
        self.postgres = PostgresServer(self.directory / "postgres", port + 4)

    def start(self) -> None:
        """Start all on new data. Raises PartError, and RuntimeError where the data would not be on a disk."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        kind = proc.file_system(self.directory)
        if kind in proc.MEMORY_FILE_SYSTEMS:
            raise RuntimeError(f"{self.directory} is on {kind}: benchmarks need a real disk")
        self.kafka.launch()
        self.cassandra.launch()
        self.postgres.launch()
        self.kafka.wait_until_ready()
        self.postgres.wait_until_ready()
        self.cassandra.wait_until_ready()

    def stop(self) -> None:
        """Stop all; the data stays until the next start."""
        self.kafka.stop()
        self.cassandra.stop()
        self.postgres.stop()

    def wait_until_quiet(self) -> None:
        """Return once the parts use less than QUIET_SHARE of a core, which compaction does not; blocks."""
        deadline_s = time.monotonic() + _QUIET_LIMIT_S
        before = proc.usage_of(self.pids("kafka", "cassandra", "postgres"))
        while time.monotonic() < deadline_s:
            time.sleep(QUIET_S)
            after = proc.usage_of(self.pids("kafka", "cassandra", "postgres"))
            if after.tree_cpu_s - before.tree_cpu_s < QUIET_SHARE * (after.at_s - before.at_s):
                return
            before = after
        print(f"the parts were not quiet within {_QUIET_LIMIT_S:.0f} s", flush=True)

    def pids(self, *names: str) -> dict[str, tuple[int, ...]]:
        """The processes of these parts. Raises RuntimeError when one has ended."""
        found: dict[str, tuple[int, ...]] = {}
        processes = {
            "kafka": [broker.process for broker in self.kafka.brokers],
            "cassandra": [self.cassandra.process],
            "postgres": [self.postgres.process],
        }
        for name in names:
            pids = [process.pid for process in processes[name]]
            if None in pids:
                raise RuntimeError(f"{name} has ended: see {processes[name][0].log_path}")
            found[name] = tuple(pid for pid in pids if pid is not None)
        return found


@dataclass(frozen=True)
class Site:
    """What one server of one run has for itself: `name` is that of its topics, keyspace and database."""

    name: str
    parts: Parts

    @property
    def directory(self) -> Path:
        """Where its own files are."""
        return WORK / "sites" / self.name

    @property
    def database_url(self) -> str:
        """Its database."""
        return f"postgresql://{USER}@127.0.0.1:{self.parts.postgres.port}/{self.name}"

    def make(self) -> None:
        """Make the directory and an empty database; what else there is to be, the server's own tools make."""
        self.remove()
        self.directory.mkdir(parents=True)
        with psycopg.connect(self.parts.postgres.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self.name}")

    def remove(self) -> None:
        """Remove all of it."""
        with psycopg.connect(self.parts.postgres.dsn, autocommit=True) as connection:
            for database in (self.name, f"{self.name}_visibility"):
                connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        with Cluster(["127.0.0.1"], port=self.parts.cassandra.port) as cluster:
            cluster.connect().execute(f"DROP KEYSPACE IF EXISTS {self.name}", timeout=REQUEST_S)
        self._remove_topics()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _remove_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.parts.kafka.bootstrap_servers, "log_level": 0})
        names = [
            topic
            for topic in admin.list_topics(timeout=REQUEST_S).topics
            if topic.startswith(f"{self.name}.")
        ]
        if names:
            for deleted in admin.delete_topics(names, operation_timeout=REQUEST_S).values():
                deleted.result()


def settings(
    site: Site, *, partitions: int, serve: Mapping[str, object], kafka: Mapping[str, object]
) -> dict[str, object]:
    """The settings file of an `odradek serve` process."""
    parts = site.parts
    return {
        "serve": dict(serve),
        "kafka": {
            "brokers": parts.kafka.bootstrap_servers,
            "prefix": site.name,
            "partitions": partitions,
            "replication": 1,
            "state_directory": str(site.directory / "state"),
            **kafka,
        },
        "cassandra": {
            "port": parts.cassandra.port,
            "keyspace": site.name,
            "replication": {"datacenter1": 1},
        },
        "postgres": {"url": site.database_url},
    }
