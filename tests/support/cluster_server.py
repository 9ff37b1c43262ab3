"""`odradek serve` for tests: its settings file, its topics and schemas, its processes."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40
PROBE_PERIOD_S = 0.1

ODRADEK = Path(sys.executable).with_name("odradek")


def write_settings(
    path: Path,
    *,
    brokers: str,
    prefix: str,
    port: int,
    metrics_port: int,
    stores: Mapping[str, Any],
    partitions: int = 2,
    serve: Mapping[str, Any] | None = None,
    kafka: Mapping[str, Any] | None = None,
) -> Path:
    """Write a settings file; `stores` are whole sections, or `serve` with a file of both stores."""
    settings: dict[str, Any] = {
        "serve": {"port": port, "metrics_port": metrics_port, **(serve or {})},
        "kafka": {
            "brokers": brokers,
            "prefix": prefix,
            "partitions": partitions,
            "replication": 1,
            "state_directory": str(path.parent / "state"),
            **(kafka or {}),
        },
        "log": {"level": "info"},
    }
    for section, values in stores.items():
        settings[section] = {**settings.get(section, {}), **values}
    path.write_text(json.dumps(settings, indent=1))  # which YAML is a superset of
    return path


def sqlite_stores(folder: Path) -> dict[str, Any]:
    """Both stores in a file."""
    return {"serve": {"sqlite_stores": str(folder / "stores.db")}}


def cluster_stores(cassandra_port: int, keyspace: str, postgres_url: str) -> dict[str, Any]:
    """Cassandra and PostgreSQL."""
    return {
        "cassandra": {"port": cassandra_port, "keyspace": keyspace, "replication": {"datacenter1": 1}},
        "postgres": {"url": postgres_url},
    }


def prepare_cluster(config: Path, *, migrate: bool) -> None:
    """Create the topics, and the schemas of the stores where `migrate` says so."""
    commands = [["topics", "apply"], *([["stores", "migrate"]] if migrate else [])]
    for command in commands:
        done = subprocess.run(
            [ODRADEK, *command, "--config", config], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


class ServerProcess:
    """A member of a cluster, as a process with its log."""

    def __init__(self, config: Path, log_path: Path, *flags: str) -> None:
        self._log_path = log_path
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [ODRADEK, "serve", "--config", config, *flags], stdout=log, stderr=subprocess.STDOUT
            )
        atexit.register(self.process.kill)  # for tests that fail before they stop it

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log_path.read_text(errors="replace")[-6000:]

    def wait_until_ready(self, *metrics_ports: int) -> None:
        """Return once every process says that it is ready. Raises RuntimeError when that takes too long."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        for port in metrics_ports:
            while (reason := probe(port, "/ready")) is not None:
                if self.process.poll() is not None:
                    raise RuntimeError(f"it exited {self.process.returncode} while starting:\n{self.log}")
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"not ready after {READY_TIMEOUT_S} s ({reason}):\n{self.log}")
                time.sleep(PROBE_PERIOD_S)

    def stop(self) -> int:
        """Ask it to stop and return its exit code; kill it when that takes too long."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def serving(
    config: Path, log_path: Path, *flags: str, metrics_ports: tuple[int, ...]
) -> Iterator[ServerProcess]:
    """A member that is ready inside, and stops in good order afterwards."""
    server = ServerProcess(config, log_path, *flags)
    try:
        server.wait_until_ready(*metrics_ports)
        yield server
    finally:
        code = server.stop()
    assert code == 0, f"the member exited {code}:\n{server.log}"


def wait_until(true: Callable[[], bool], timeout_s: float = READY_TIMEOUT_S) -> None:
    """Return once a condition holds. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline_s:
            raise TimeoutError
        time.sleep(PROBE_PERIOD_S)


def probe(port: int, path: str) -> str | None:
    """Why the answer is no, None for yes."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode().strip()
    except OSError as error:
        return str(error)


def metrics(port: int) -> dict[str, float]:
    """What the process measures, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")
    }
