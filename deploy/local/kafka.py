"""One or three Kafka brokers of KRaft on this machine; each is a controller too."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.local import java
from deploy.local.errors import PartFailed
from deploy.local.ports import require_free
from deploy.local.process import PartProcess

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 90
HEAP_MB = 384
PORTS_PER_BROKER = 2
_CLUSTER_ID = "b2RyYWRlay1sb2NhbC0wMQ"
_LOGGING = Path(__file__).with_name("kafka-log4j2.properties")


@dataclass(frozen=True)
class BrokerPorts:
    """Where a broker listens: to clients and other brokers, and to the other controllers."""

    client: int
    controller: int


class Broker:
    """One broker of a cluster; see `KafkaCluster`.

    Args:
        node_id: From 1.
        directory: An absolute path, for this broker alone.
        cluster: The ports of every broker, in the order of node ids.
        properties: Properties of the broker that differ from ours.
        java_options: Options of Java beside ours.
    """

    def __init__(
        self,
        node_id: int,
        directory: Path,
        cluster: Sequence[BrokerPorts],
        properties: Mapping[str, str],
        java_options: Sequence[str],
    ) -> None:
        self.node_id = node_id
        self.process = PartProcess(f"Kafka broker {node_id}", directory)
        self._ports = cluster
        self._properties = properties
        self._java_options = java_options

    @property
    def address(self) -> str:
        """The host:port for clients."""
        return f"127.0.0.1:{self._ports[self.node_id - 1].client}"

    def launch(self) -> None:
        """Start the broker if it does not run, on the data of its last run; return at once.

        Raises:
            PartError: When somebody else has its ports.
            PartFailed: When its data directory cannot be formatted.
            PartMissing: When Java or its jars cannot be had.
        """
        if self.process.pid is not None:
            return
        own = self._ports[self.node_id - 1]
        require_free(own.client, own.controller)
        directory = self.process.directory
        directory.mkdir(parents=True, exist_ok=True)
        configuration = directory / "server.properties"
        configuration.write_text("".join(f"{name}={value}\n" for name, value in self._configured().items()))
        if not (directory / "data" / "meta.properties").is_file():
            self._format(configuration)
        options = ["-Xms64m", f"-Xmx{HEAP_MB}m", *self._java_options]
        archive = java.archive_options("kafka", directory)
        self.process.start(_java([*options, *archive], "kafka.Kafka", str(configuration)))

    def wait_until_ready(self) -> None:
        """Return once the broker answers clients. Raises PartFailed when it does not."""
        port = self._ports[self.node_id - 1].client
        self.process.wait_until(lambda: _listens(port), START_TIMEOUT_S)
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        self.process.wait_until(lambda: _is_in_service(client, self.node_id), START_TIMEOUT_S)

    def start(self) -> None:
        """`launch` and `wait_until_ready`."""
        self.launch()
        self.wait_until_ready()

    def stop(self) -> bool:
        """Stop the broker; whether it did so in good order."""
        in_order = self.process.stop(STOP_TIMEOUT_S)
        java.keep_archive("kafka", self.process.directory)
        return in_order

    def kill(self) -> None:
        """End the broker by SIGKILL. What it acknowledged is there after the next start."""
        self.process.kill()

    def _format(self, configuration: Path) -> None:
        arguments = [
            "kafka.tools.StorageTool",
            "format",
            "--cluster-id",
            _CLUSTER_ID,
            "--config",
            str(configuration),
        ]
        done = subprocess.run(
            _java(java.SHORT_LIVED, *arguments), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise PartFailed(
                f"{self.process.name} could not format its data directory:\n{done.stdout}{done.stderr}"
            )

    def _configured(self) -> dict[str, str]:
        own = self._ports[self.node_id - 1]
        voters = ",".join(f"{i}@127.0.0.1:{ports.controller}" for i, ports in enumerate(self._ports, 1))
        replicas = str(len(self._ports))
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{own.client},CONTROLLER://127.0.0.1:{own.controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{own.client}",
            "log.dirs": str(self.process.directory / "data"),
            "auto.create.topics.enable": "false",
            # Internal topics on every broker; a majority has to have what is acknowledged.
            "default.replication.factor": replicas,
            "min.insync.replicas": str(len(self._ports) // 2 + 1),
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": str(len(self._ports) // 2 + 1),
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": "1",
            # Groups: both protocols. A member that died is missed within seconds, so that takeovers can be watched.
            "group.coordinator.rebalance.protocols": "classic,consumer",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.session.timeout.ms": "6000",
            "group.consumer.min.heartbeat.interval.ms": "100",
            "group.consumer.heartbeat.interval.ms": "1000",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            # A broker that was killed may come back once its predecessor's session is over.
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "500",
            # Small: two cores, and a heap of a few hundred MB.
            "num.network.threads": "2",
            "num.io.threads": "4",
            "background.threads": "2",
            "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
            **self._properties,
        }


class KafkaCluster:
    """Brokers that form one cluster; each has a directory below `directory`.

    Args:
        directory: An absolute path.
        ports: One entry a broker: one or three, the same at every start on the same data.
        properties: Properties of every broker that differ from ours.
        java_options: Options of Java beside ours, such as `java.SHORT_LIVED`.
    """

    def __init__(
        self,
        directory: Path,
        ports: Sequence[BrokerPorts],
        properties: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.brokers = [
            Broker(node_id, directory / f"broker-{node_id}", ports, properties or {}, java_options)
            for node_id in range(1, len(ports) + 1)
        ]

    @property
    def bootstrap_servers(self) -> str:
        """What clients are configured with."""
        return ",".join(broker.address for broker in self.brokers)

    @property
    def is_running(self) -> bool:
        """Whether every broker's process is there."""
        return all(broker.process.pid is not None for broker in self.brokers)

    def launch(self) -> None:
        """Start the brokers that do not run; return at once. Raises PartError as a broker does."""
        for broker in self.brokers:
            broker.launch()

    def wait_until_ready(self) -> None:
        """Return once every broker answers clients. Raises PartFailed when one does not."""
        for broker in self.brokers:
            broker.wait_until_ready()

    def start(self) -> None:
        """`launch` and `wait_until_ready`."""
        self.launch()
        self.wait_until_ready()

    def stop(self) -> bool:
        """Stop every broker, all at once; whether each did so in good order."""
        for broker in self.brokers:
            broker.process.ask_to_stop()
        in_order = [broker.stop() for broker in self.brokers]
        return all(in_order)

    def kill(self) -> None:
        """End every broker by SIGKILL."""
        for broker in self.brokers:
            broker.kill()


def _java(options: Sequence[str], *arguments: str) -> list[str]:
    return java.command("kafka", {"log4j2.configurationFile": _LOGGING}, options, *arguments)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_in_service(client: AdminClient, node_id: int) -> bool:
    """Whether the cluster knows the broker as one that takes requests, as far as the broker itself knows."""
    try:
        return node_id in client.list_topics(timeout=1).brokers
    except KafkaException:
        return False
