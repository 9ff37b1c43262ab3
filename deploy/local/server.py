"""`odradek serve` over the parts on this machine: a member of each role, in two processes each."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from deploy.local.errors import PartError, PartFailed
from deploy.local.ports import require_free
from deploy.local.process import PartProcess, kill_naming

ROLES = ("history", "matching", "timer", "materializer", "gateway")
PROCESSES = 2
METRICS_PORTS = len(ROLES) * PROCESSES
PARTITIONS = 4
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 75
"""More than a member's own limit for an orderly end."""
_COMMAND_TIMEOUT_S = 120
_ODRADEK = Path(sys.executable).with_name("odradek")


class LocalServer:
    """The server's processes, below one directory; its settings are the file `settings`.

    Args:
        directory: An absolute path.
        metrics_port: The first of METRICS_PORTS ports side by side, for the metrics and probes of each process.
    """

    def __init__(self, directory: Path, metrics_port: int) -> None:
        self.directory = directory
        self.settings = directory / "odradek.toml"
        self._metrics_port = metrics_port
        self._members = {role: PartProcess(f"odradek {role}", directory / role) for role in ROLES}

    @property
    def processes(self) -> list[PartProcess]:
        """One a role, which keeps that role's processes running."""
        return list(self._members.values())

    @property
    def is_serving(self) -> bool:
        """Whether gateways run."""
        return self._members["gateway"].pid is not None

    @property
    def metrics(self) -> dict[str, list[str]]:
        """Where the processes of each role show their metrics."""
        return {role: [f"http://{at}/metrics" for at in self._metrics_of(role)] for role in ROLES}

    def configure(self, sections: Mapping[str, Mapping[str, object]]) -> None:
        """Write the settings: sections of names with texts, numbers, lists or tables."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = ["# Written at every start; deploy/odradek.example.toml explains what there is."]
        for name, values in sections.items():
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        self.settings.write_text("\n".join(lines) + "\n")

    def prepare(self) -> None:
        """Have the topics and the schemas of the stores. Raises PartFailed."""
        for command in (["topics", "apply"], ["stores", "migrate"]):
            done = subprocess.run(
                [_ODRADEK, *command, "--config", self.settings],
                capture_output=True,
                text=True,
                timeout=_COMMAND_TIMEOUT_S,
                check=False,
            )
            if done.returncode != 0:
                raise PartFailed(f"odradek {' '.join(command)} failed:\n{done.stdout}{done.stderr}")

    def require_ports(self, port: int) -> None:
        """Raises PartError when the server could not have its ports."""
        self._end_strays()
        if not self.is_serving:
            try:
                require_free(port)
            except PartError:
                raise PartError(
                    f"the server cannot have 127.0.0.1:{port}, where another process listens: end that process, or "
                    "choose another port with CLUSTER_PORT=… (--port)"
                ) from None
        for role, process in self._members.items():
            if process.pid is None:
                first = self._first_metrics_port(role)
                require_free(*range(first, first + PROCESSES))

    def launch(self) -> None:
        """Start the roles that do not run; return at once."""
        for role, process in self._members.items():
            if process.pid is None:
                process.directory.mkdir(parents=True, exist_ok=True)
                process.start(self._command(role))

    def wait_until_ready(self) -> None:
        """Return once every process has what it is assigned, and calls are answered. Raises PartFailed."""
        for role, process in self._members.items():
            for at in self._metrics_of(role):
                process.wait_until(lambda at=at: _is_ready(at), START_TIMEOUT_S)  # type: ignore[misc]

    def stop(self) -> bool:
        """Stop the gateways, then the rest; whether all did so in good order."""
        in_order = self._members["gateway"].stop(STOP_TIMEOUT_S)
        for process in self.processes:
            process.ask_to_stop()
        stopped = [process.stop(STOP_TIMEOUT_S) for process in self.processes]
        self._end_strays()
        return in_order and all(stopped)

    def kill(self) -> None:
        """End all processes by SIGKILL."""
        for process in self.processes:
            process.kill()
        self._end_strays()

    def _end_strays(self) -> None:
        """End processes of roles whose first process is gone: one that was killed leaves its children."""
        for process in self.processes:
            if process.pid is None:
                kill_naming(f"serve --config {process.directory}/")

    def _command(self, role: str) -> list[str]:
        # By a path of the role's own, which tells whose process it is.
        settings = self._members[role].directory / self.settings.name
        settings.unlink(missing_ok=True)
        settings.symlink_to(Path("..", self.settings.name))
        return [
            *(str(_ODRADEK), "serve", "--config", str(settings), "--roles", role),
            *("--processes", str(PROCESSES), "--metrics-port", str(self._first_metrics_port(role))),
        ]

    def _first_metrics_port(self, role: str) -> int:
        return self._metrics_port + PROCESSES * ROLES.index(role)

    def _metrics_of(self, role: str) -> list[str]:
        first = self._first_metrics_port(role)
        return [f"127.0.0.1:{port}" for port in range(first, first + PROCESSES)]


def _toml(value: object) -> str:
    """A value of TOML; texts, numbers and lists are written as in JSON."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def _is_ready(at: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{at}/ready", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
