"""A cluster of real parts and of one `odradek serve` process for each role, or more, for tests that hurt them.

Each process is started, killed, paused and stopped by itself, and has a state directory of its own, as on a machine
of its own. Gateways share a port, so that whoever connects finds one that is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from deploy.local import java
from deploy.local.cassandra import CassandraNode
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import free_ports
from deploy.local.postgres import PostgresServer
from server.settings import Settings, load_settings
from streams.kafka.names import Names
from streams.topology import HISTORY, VISIBILITY
from tests.support import cluster_server

SESSION_TIMEOUT_MS = 3_000
PARTITIONS = 4
ROLES = ("gateway", "history", "matching", "timer", "materializer")
FOLDING = ("history", "matching", "timer")
WAIT_S = 120.0
LOOK_S = 0.1

_OWNED = "odradek_partition_owned"


@dataclass(frozen=True)
class Parts:
    """What a cluster stands on."""

    kafka: KafkaCluster
    cassandra: CassandraNode
    postgres: PostgresServer

    def start(self) -> None:
        """Start what does not run."""
        self.kafka.launch()
        self.cassandra.launch()
        self.postgres.launch()
        self.kafka.wait_until_ready()
        self.postgres.wait_until_ready()
        self.cassandra.wait_until_ready()


def watchful_brokers(folder: Path, count: int) -> KafkaCluster:
    """A Kafka cluster whose groups soon miss a member."""
    ports = free_ports(2 * count)
    return KafkaCluster(
        folder,
        [BrokerPorts(*ports[2 * n : 2 * n + 2]) for n in range(count)],
        {
            "group.consumer.session.timeout.ms": str(SESSION_TIMEOUT_MS),
            "group.consumer.heartbeat.interval.ms": str(SESSION_TIMEOUT_MS // 12),
        },
        java.SHORT_LIVED,
    )


class RoleProcess:
    """One process of a member, which may be started and ended again and again.

    Args:
        config: The settings.
        roles: As `--roles` takes them.
        index: The number of the process among those of its roles.
        metrics_port: Its port of metrics and probes.
        folder: Where its log and its state are.
    """

    def __init__(self, config: Path, roles: str, index: int, metrics_port: int, folder: Path) -> None:
        self.roles = roles
        self.index = index
        self.name = f"{roles.replace(',', '-')}-{index}"
        self.state = folder / f"state-{self.name}"
        self.log_path = folder / f"{self.name}.log"
        self.ended_at_will = True
        """Whether it does not run because nobody started it, or a test ended it."""
        self._config = config
        self._metrics_port = metrics_port
        self._paused = False
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.name}>"

    # Life

    @property
    def is_running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; returns at once."""
        assert not self.is_running, f"{self.name} runs"
        command = [
            *(cluster_server.ODRADEK, "serve", "--config", self._config, "--roles", self.roles),
            # The port of metrics is counted on from that of the first process.
            *("--process", str(self.index), "--metrics-port", str(self._metrics_port - self.index)),
        ]
        environment = {**os.environ, "ODRADEK_KAFKA__STATE_DIRECTORY": str(self.state)}
        self._paused = self.ended_at_will = False
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self.ended_at_will = True

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT; nothing happens if it is not paused."""
        if self._paused:
            self._signal(signal.SIGCONT)
            self._paused = False

    def ask_to_stop(self) -> None:
        """SIGTERM; returns at once."""
        self.resume()
        self._signal(signal.SIGTERM)
        self.ended_at_will = True

    def wait(self) -> int:
        """The exit code, once it is gone. It is killed when that takes too long."""
        assert self._process is not None
        try:
            return self._process.wait(cluster_server.STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None and self._process.poll() is None, f"{self.name} does not run"
        os.kill(self._process.pid, number)

    # What it says

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self.log_path.read_text(errors="replace")[-6000:]

    @property
    def why_not_ready(self) -> str | None:
        """What its probe says, None when it is ready."""
        return cluster_server.probe(self._metrics_port, "/ready")

    @property
    def metrics(self) -> Mapping[str, float]:
        """What it measures, by name and labels; empty while it does not answer."""
        try:
            return cluster_server.metrics(self._metrics_port)
        except OSError:
            return {}

    def assigned(self) -> dict[tuple[str, int], bool]:
        """The partitions it is assigned, by processor and number, and whether each is restored by now."""
        found = {}
        for name, value in self.metrics.items():
            if name.startswith(_OWNED):
                _, processor, _, number, _ = name.split('"')
                found[processor, int(number)] = bool(value)
        return found

    def owned(self) -> set[tuple[str, int]]:
        """The partitions it owns, by processor and number."""
        return {place for place, restored in self.assigned().items() if restored}


class Cluster:
    """Processes on parts that run. `start` prepares topics and schemas.

    Args:
        parts: They have to run by the time of `start`.
        folder: Where settings, logs and states are.
        name: Of the topics, the keyspace and the schema: letters and digits.
        roles: What each kind of process does, as `--roles` takes it.
        processes: How many there are of each kind.
        kafka: Settings that differ, of Kafka.
    """

    def __init__(
        self,
        parts: Parts,
        folder: Path,
        name: str,
        *,
        roles: Sequence[str] = ROLES,
        processes: int = 2,
        kafka: Mapping[str, Any] | None = None,
    ) -> None:
        self.parts = parts
        self._folder = folder
        self._name = name
        port, *metrics_ports = free_ports(1 + len(roles) * processes)
        self.address = f"127.0.0.1:{port}"
        self.config = cluster_server.write_settings(
            folder / "settings.yaml",
            brokers=parts.kafka.bootstrap_servers,
            prefix=name,
            port=port,
            metrics_port=0,
            partitions=PARTITIONS,
            stores=cluster_server.cluster_stores(
                parts.cassandra.port, name, parts.postgres.dsn_of_schema(name)
            ),
            serve={"processes": processes},
            # Whatever is folded can be folded again, from the first record on.
            kafka={"session_timeout_ms": SESSION_TIMEOUT_MS, "delete_records": False, **(kafka or {})},
        )
        self._ports = iter(metrics_ports)
        self.processes = [self._process(kind, index) for kind in roles for index in range(processes)]

    def _process(self, roles: str, index: int) -> RoleProcess:
        return RoleProcess(self.config, roles, index, next(self._ports), self._folder)

    @property
    def settings(self) -> Settings:
        """The settings of its processes, but for their state directories."""
        return load_settings({}, self.config)

    def of(self, role: str) -> list[RoleProcess]:
        """The processes that have a role."""
        return [process for process in self.processes if role in process.roles.split(",")]

    def spare(self, roles: str) -> RoleProcess:
        """One process more, not started, which is nobody's to look after."""
        (port,) = free_ports(1)
        index = sum(process.roles == roles for process in self.processes)
        return RoleProcess(self.config, roles, index, port, self._folder)

    # Life

    def start(self) -> None:
        """Have topics and schemas, and every process at work."""
        with psycopg.connect(self.parts.postgres.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._name}")
        cluster_server.prepare_cluster(self.config, migrate=True)
        self.heal()

    def heal(self) -> None:
        """Start what does not run, and return once everybody is at work."""
        self.parts.start()
        for process in self.processes:
            process.resume()
            if not process.is_running:
                process.start()
        self.wait(lambda: all(process.why_not_ready is None for process in self.processes))
        for role in FOLDING:
            self.wait(lambda role=role: self.is_shared(role))  # type: ignore[misc]

    def is_shared(self, role: str) -> bool:
        """Whether each process of a role owns something, and all of them together everything once."""
        owned = [self.owned_of(process, role) for process in self.of(role)]
        return all(owned) and sorted(number for numbers in owned for number in numbers) == list(
            range(PARTITIONS)
        )

    def owned_of(self, process: RoleProcess, role: str) -> set[int]:
        """The partitions of a role that a process owns."""
        return {number for processor, number in process.owned() if processor == role}

    def wait(self, true: Callable[[], bool], seconds: float = WAIT_S) -> None:
        """Return once a condition holds. Raises AssertionError when a process ends by itself, or it takes too long."""
        deadline_s = time.monotonic() + seconds
        while not true():
            self.check_all_run()
            if time.monotonic() > deadline_s:
                states = {process.name: process.why_not_ready for process in self.processes}
                raise AssertionError(f"not within {seconds:.0f} s; not ready: {states}")
            threading.Event().wait(LOOK_S)

    def check_all_run(self) -> None:
        """Raises AssertionError when a process ended that nobody asked to."""
        for process in self.processes:
            assert process.is_running or process.ended_at_will, f"{process.name} ended:\n{process.log}"

    def stop(self) -> None:
        """Stop every process in good order; materializers last, once the stores hold everything."""
        last = [process for process in self.processes if "materializer" in process.roles.split(",")]
        self._stop([process for process in self.processes if process not in last])
        self.wait(self.is_materialised)
        self._stop(last)

    def _stop(self, processes: Sequence[RoleProcess]) -> None:
        running = [process for process in processes if process.is_running]
        for process in running:
            process.ask_to_stop()
        for process in running:
            code = process.wait()
            assert code == 0, f"{process.name} exited {code}:\n{process.log}"

    def kill(self) -> None:
        """End every process by SIGKILL."""
        for process in self.processes:
            if process.is_running:
                process.kill()

    def is_checkpointed(self) -> bool:
        """Whether checkpoints hold all that was folded of workflows."""
        for process in self.of("history"):
            metrics = process.metrics
            for number in self.owned_of(process, "history"):
                labels = f'{{processor="history",partition="{number}"}}'
                folded = metrics.get(f"odradek_partition_position{labels}")
                if metrics.get(f"odradek_checkpoint_offset{labels}") != folded:
                    return False
        return True

    def is_materialised(self) -> bool:
        """Whether the stores hold all that the topics do."""
        written: dict[tuple[str, int], float] = {}
        for process in self.of("materializer"):
            for name, value in process.metrics.items():
                if name.startswith("odradek_materializer_position{"):
                    _, topic, _, number, _ = name.split('"')
                    written[topic, int(number)] = value
        return all(written.get(place, -1) + 1 >= end for place, end in self._ends().items())

    def _ends(self) -> dict[tuple[str, int], int]:
        """Where the topics end that stores are written from."""
        kafka = self.settings.kafka
        names = Names(kafka.prefix)
        client = AdminClient({**kafka.client(), "log_level": 0})
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        places = {
            TopicPartition(names.topic(topic), number): latest
            for topic in (HISTORY, VISIBILITY)
            for number in range(kafka.partitions_of(topic))
        }
        return {
            (names.name(place.topic), place.partition): future.result().offset
            for place, future in client.list_offsets(places).items()
        }
