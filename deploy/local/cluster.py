"""Kafka, Cassandra and PostgreSQL together, in one directory that anybody finds them by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.local.cassandra import CassandraNode, CassandraPorts
from deploy.local.errors import PartError
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import free_ports
from deploy.local.postgres import PostgresServer
from deploy.local.process import PartProcess

DESCRIPTION = "cluster.json"


@dataclass(frozen=True)
class ClusterPorts:
    """Every port the parts listen at; the number of brokers is that of their ports."""

    brokers: tuple[BrokerPorts, ...]
    cassandra: CassandraPorts
    postgres: int

    @classmethod
    def chosen(cls, brokers: int, first: int | None = None) -> ClusterPorts:
        """Ports for so many brokers: from `first` upwards, or free ones where it is None."""
        count = 2 * brokers + 3
        ports = free_ports(count) if first is None else list(range(first, first + count))
        pairs = tuple(BrokerPorts(ports[2 * i], ports[2 * i + 1]) for i in range(brokers))
        return cls(pairs, CassandraPorts(ports[-3], ports[-2]), ports[-1])

    @classmethod
    def recorded(cls, directory: Path) -> ClusterPorts | None:
        """The ports of the cluster that was started in `directory`, None when there was none."""
        try:
            ports = json.loads((directory / DESCRIPTION).read_text())["ports"]
        except FileNotFoundError:
            return None
        brokers = tuple(BrokerPorts(**broker) for broker in ports["brokers"])
        return cls(brokers, CassandraPorts(**ports["cassandra"]), ports["postgres"])


class LocalCluster:
    """The three parts, below one directory.

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

    @property
    def processes(self) -> list[PartProcess]:
        """The process of every part."""
        brokers = [broker.process for broker in self.kafka.brokers]
        return [*brokers, self.cassandra.process, self.postgres.process]

    def start(self) -> None:
        """Start the parts that do not run and return once each answers; when one does not, none of those stays.

        Raises:
            PartError: When a part cannot start: PartFailed with the last lines of its log, PartMissing with what to
                install.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        down = [process for process in self.processes if process.pid is None]
        try:
            self.kafka.launch()
            self.cassandra.launch()
            self.postgres.launch()
            self._describe()
            self.kafka.wait_until_ready()
            self.postgres.wait_until_ready()
            self.cassandra.wait_until_ready()
        except BaseException:
            for process in down:
                process.kill()
            raise

    def stop(self) -> bool:
        """Stop all parts; whether each did so in good order."""
        for process in self.processes:
            process.ask_to_stop()
        in_order = [self.kafka.stop(), self.cassandra.stop(), self.postgres.stop()]
        return all(in_order)

    def kill(self) -> None:
        """End all parts by SIGKILL."""
        for process in self.processes:
            process.kill()

    def _describe(self) -> None:
        """Write `cluster.json`: where to find the parts, for people and programs."""
        description = {
            "kafka": {"bootstrap_servers": self.kafka.bootstrap_servers},
            "cassandra": {"host": "127.0.0.1", "port": self.cassandra.port},
            "postgres": {"dsn": self.postgres.dsn},
            "pids": {process.name: process.pid for process in self.processes},
            "ports": asdict(self.ports),
        }
        (self.directory / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def existing(directory: Path) -> LocalCluster:
    """The cluster that was started in `directory`, whether it runs or not.

    Raises:
        PartError: When none ever was.
    """
    ports = ClusterPorts.recorded(directory)
    if ports is None:
        raise PartError(f"no cluster was started in {directory}")
    return LocalCluster(directory, ports)
