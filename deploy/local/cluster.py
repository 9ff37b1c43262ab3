"""Kafka, Cassandra and PostgreSQL together, and the server on them, in one directory that anybody finds them by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.local import jars, packages
from deploy.local.cassandra import CassandraNode, CassandraPorts
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import first_of_free_ports, free_ports
from deploy.local.postgres import PostgresServer
from deploy.local.process import PartProcess
from deploy.local.server import METRICS_PORTS, PARTITIONS, LocalServer

DESCRIPTION = "cluster.json"


@dataclass(frozen=True)
class ClusterPorts:
    """Every port the parts listen at, one entry a broker, and the first of those for the server's metrics."""

    brokers: tuple[BrokerPorts, ...]
    cassandra: CassandraPorts
    postgres: int
    metrics: int

    @classmethod
    def chosen(cls, brokers: int, first: int | None = None) -> ClusterPorts:
        """Ports for so many brokers: from `first` upwards, or free ones where it is None."""
        count = 2 * brokers + 3
        ports = free_ports(count) if first is None else list(range(first, first + count))
        pairs = tuple(BrokerPorts(ports[2 * i], ports[2 * i + 1]) for i in range(brokers))
        metrics = first_of_free_ports(METRICS_PORTS) if first is None else first + count
        return cls(pairs, CassandraPorts(ports[-3], ports[-2]), ports[-1], metrics)

    @classmethod
    def recorded(cls, directory: Path) -> ClusterPorts | None:
        """The ports of the cluster that was started in `directory`, None when there was none."""
        ports = _described(directory).get("ports")
        if ports is None:
            return None
        brokers = tuple(BrokerPorts(**broker) for broker in ports["brokers"])
        metrics = ports.get("metrics") or first_of_free_ports(METRICS_PORTS)
        return cls(brokers, CassandraPorts(**ports["cassandra"]), ports["postgres"], metrics)


class LocalCluster:
    """The three parts and the server, below one directory.

    Args:
        directory: An absolute path.
        ports: The same at every start on the same data.
    """

    def __init__(self, directory: Path, ports: ClusterPorts) -> None:
        self.directory = directory
        self.ports = ports
        self.kafka = KafkaCluster(directory / "kafka", ports.brokers)
        self.cassandra = CassandraNode(directory / "cassandra", ports.cassandra)
        self.postgres = PostgresServer(directory / "postgres", ports.postgres)
        self.server = LocalServer(directory / "odradek", ports.metrics)

    @property
    def processes(self) -> list[PartProcess]:
        """The process of every part; the server's are `server.processes`."""
        brokers = [broker.process for broker in self.kafka.brokers]
        return [*brokers, self.cassandra.process, self.postgres.process]

    @property
    def address(self) -> str | None:
        """The host:port of the server's gateways, None while they do not run."""
        described = _described(self.directory).get("server")
        return described["address"] if described is not None and self.server.is_serving else None

    def start(self) -> None:
        """Start the parts that do not run and return once each answers; when one does not, none of those stays.

        Raises:
            PartError: When a part cannot start: PartFailed with the last lines of its log, PartMissing with what to
                install.
        """
        packages.require_all(with_maven=not jars.all_fetched())
        self.directory.mkdir(parents=True, exist_ok=True)
        self._describe(self.address)  # beforehand too, so that what is cut short here can be stopped
        down = [process for process in self.processes if process.pid is None]
        try:
            self.kafka.launch()
            self.cassandra.launch()
            self.postgres.launch()
            self.kafka.wait_until_ready()
            self.postgres.wait_until_ready()
            self.cassandra.wait_until_ready()
        except BaseException:
            for process in down:
                process.kill()
            raise
        self._describe(self.address)

    def serve(self, port: int | None) -> str:
        """Start the server on the parts, which run, and return its address once it answers.

        Args:
            port: Of 127.0.0.1; None for where it runs already, or a free one.

        Raises:
            PartError: When its port is taken, or it cannot start; with the last lines of its log.
        """
        address = self.address
        if address is not None and port is not None and address != f"127.0.0.1:{port}":
            self.server.stop()
        elif address is not None:
            port = int(address.rpartition(":")[2])
        if port is None:
            (port,) = free_ports(1)
        self.server.require_ports(port)
        self.server.configure(self._settings(port))
        self._describe(f"127.0.0.1:{port}")
        try:
            self.server.prepare()
            self.server.launch()
            self.server.wait_until_ready()
        except BaseException:
            self.server.kill()
            raise
        self._describe(f"127.0.0.1:{port}")
        return f"127.0.0.1:{port}"

    def stop(self) -> bool:
        """Stop the server, then all parts; whether each did so in good order."""
        in_order = self.server.stop()
        for process in self.processes:
            process.ask_to_stop()
        stopped = [self.kafka.stop(), self.cassandra.stop(), self.postgres.stop()]
        self._describe(None)
        return in_order and all(stopped)

    def kill(self) -> None:
        """End all by SIGKILL."""
        self.server.kill()
        for process in self.processes:
            process.kill()

    def _settings(self, port: int) -> dict[str, dict[str, object]]:
        return {
            "serve": {"port": port, "gateway_id": "local"},
            "kafka": {
                "brokers": self.kafka.bootstrap_servers,
                "partitions": PARTITIONS,
                "replication": len(self.ports.brokers),
                "state_directory": str(self.server.directory / "state"),
            },
            "cassandra": {"port": self.cassandra.port, "replication": {"datacenter1": 1}},
            "postgres": {"url": self.postgres.dsn},
            "log": {"level": "info"},
        }

    def _describe(self, address: str | None) -> None:
        """Write `cluster.json`: where to find the parts, for people and programs."""
        description: dict[str, object] = {
            "kafka": {"bootstrap_servers": self.kafka.bootstrap_servers},
            "cassandra": {"host": "127.0.0.1", "port": self.cassandra.port},
            "postgres": {"dsn": self.postgres.dsn},
            "pids": {process.name: process.pid for process in (*self.processes, *self.server.processes)},
            "ports": asdict(self.ports),
        }
        if address is not None:
            settings = str(self.server.settings)
            description["server"] = {"address": address, "settings": settings, "metrics": self.server.metrics}
        part_way = self.directory / f"{DESCRIPTION}.part"
        part_way.write_text(json.dumps(description, indent=2) + "\n")
        part_way.replace(self.directory / DESCRIPTION)


def existing(directory: Path) -> LocalCluster | None:
    """The cluster that was started in `directory`, whether it runs or not; None when none ever was."""
    ports = ClusterPorts.recorded(directory)
    return None if ports is None else LocalCluster(directory, ports)


def _described(directory: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((directory / DESCRIPTION).read_text())
    except FileNotFoundError:
        return {}
    return description
