"""One Cassandra node on this machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local import java
from deploy.local.ports import require_free
from deploy.local.process import PartProcess

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 90
HEAP_MB = 512
PORTS = 2
# The node answers this frame of the native protocol, version 4, with what it supports: opcode 5, no body.
_OPTIONS = bytes([4, 0, 0, 0, 5, 0, 0, 0, 0])
_SUPPORTED_OPCODE = 6
_MAIN = "org.apache.cassandra.service.CassandraDaemon"
_LOGGING = Path(__file__).with_name("cassandra-logback.xml")
# What Cassandra needs of Java 17's closed modules: the list of its own conf/jvm17-server.options.
_EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
)
_OPENS = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.math",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.management/com.sun.management.internal",
)


@dataclass(frozen=True)
class CassandraPorts:
    """Where a node listens: to clients, and to other nodes."""

    client: int
    storage: int


class CassandraNode:
    """A cluster of one node. A write it acknowledged is on disk.

    Args:
        directory: An absolute path.
        ports: The same or others at every start on the same data.
        java_options: Options of Java beside ours, such as `java.SHORT_LIVED`.
        configuration: What cassandra.yaml has otherwise than ours.
    """

    def __init__(
        self,
        directory: Path,
        ports: CassandraPorts,
        java_options: Sequence[str] = (),
        configuration: Mapping[str, object] | None = None,
    ) -> None:
        self.process = PartProcess("Cassandra", directory)
        self._java_options = java_options
        self._configuration = configuration or {}
        self.ports = ports

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 for clients."""
        return self.ports.client

    @property
    def is_running(self) -> bool:
        """Whether the node's process is there."""
        return self.process.pid is not None

    def launch(self) -> None:
        """Start the node if it does not run, on the data of its last run; return at once.

        Raises:
            PartError: When somebody else has its ports.
            PartMissing: When Java or its jars cannot be had.
        """
        if self.process.pid is not None:
            return
        require_free(self.ports.client, self.ports.storage)
        directory = self.process.directory
        temporary = directory / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        configuration = directory / "cassandra.yaml"
        # JSON is YAML.
        configuration.write_text(json.dumps(self._configured(), indent=2) + "\n")
        settings = {
            "cassandra-foreground": "yes",
            "cassandra.config": configuration.as_uri(),
            "cassandra.storagedir": directory,
            "cassandra.skip_wait_for_gossip_to_settle": 0,
            "cassandra.ring_delay_ms": 100,
            "cassandra.shutdown_announce_in_ms": 0,
            "cassandra.superuser_setup_delay_ms": 0,
            "io.netty.transport.estimateSizeOnSubmit": "false",
            "java.io.tmpdir": temporary,
            "jdk.attach.allowAttachSelf": "true",
            "jna.tmpdir": temporary,
            "logback.configurationFile": _LOGGING,
        }
        options = [
            *("-Xms128m", f"-Xmx{HEAP_MB}m", "-Xss512k", "-XX:MaxDirectMemorySize=128m"),
            *(f"--add-exports={package}=ALL-UNNAMED" for package in _EXPORTS),
            *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENS),
            *self._java_options,
            *java.archive_options("cassandra", directory),
        ]
        self.process.start(java.command("cassandra", settings, options, _MAIN))

    def wait_until_ready(self) -> None:
        """Return once the node answers clients. Raises PartFailed when it does not."""
        self.process.wait_until(lambda: _answers(self.port), START_TIMEOUT_S)

    def start(self) -> None:
        """`launch` and `wait_until_ready`."""
        self.launch()
        self.wait_until_ready()

    def stop(self) -> bool:
        """Stop the node; whether it did so in good order."""
        in_order = self.process.stop(STOP_TIMEOUT_S)
        java.keep_archive("cassandra", self.process.directory)
        return in_order

    def kill(self) -> None:
        """End the node by SIGKILL. What it acknowledged is there after the next start."""
        self.process.kill()

    def _configured(self) -> dict[str, object]:
        directory = self.process.directory
        seeds = [{"seeds": f"127.0.0.1:{self.ports.storage}"}]
        return {
            "cluster_name": "odradek",
            "num_tokens": 1,
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "seed_provider": [
                {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider", "parameters": seeds}
            ],
            "listen_address": "127.0.0.1",
            "rpc_address": "127.0.0.1",
            "native_transport_port": self.ports.client,
            "storage_port": self.ports.storage,
            "data_file_directories": [str(directory / "data")],
            "commitlog_directory": str(directory / "commitlog"),
            "hints_directory": str(directory / "hints"),
            "saved_caches_directory": str(directory / "saved_caches"),
            "cdc_raw_directory": str(directory / "cdc_raw"),
            # With the usual "periodic" a kill may lose the last tenths of a second of what was acknowledged.
            "commitlog_sync": "batch",
            "commitlog_total_space": "256MiB",
            "hinted_handoff_enabled": False,
            "auto_snapshot": False,
            "storage_compatibility_mode": "NONE",
            # Small: two cores, and a heap of half a GB.
            "concurrent_reads": 8,
            "concurrent_writes": 8,
            "concurrent_counter_writes": 2,
            "concurrent_compactors": 1,
            "native_transport_max_threads": 16,
            "memtable_heap_space": "96MiB",
            "memtable_offheap_space": "64MiB",
            "file_cache_size": "32MiB",
            "key_cache_size": "8MiB",
            **self._configuration,
        }


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.settimeout(5)
            connection.sendall(_OPTIONS)
            head = connection.recv(len(_OPTIONS))
    except OSError:
        return False
    return len(head) > 4 and head[4] == _SUPPORTED_OPCODE
