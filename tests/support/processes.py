"""The embedded server as a process of its own, which tests may kill and start again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, WorkflowServiceStub

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 100)]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """`odradek dev` over the file at `path`, always at the same port; its output goes to a file beside."""

    def __init__(self, path: Path, *, flags: tuple[str, ...] = (), port: int = 0) -> None:
        self.path = path
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = path.with_suffix(".log")
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start the process, as an argument of the command `prefix`, and return at once."""
        command = [
            *prefix,
            str(Path(sys.executable).with_name("odradek")),
            *("dev", "--ip", "127.0.0.1", "--port", str(self.port), "--db-filename", str(self.path)),
            *self._flags,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        return self._process

    def start(self, prefix: tuple[str, ...] = ()) -> None:
        """Start the process and return once it takes calls. Raises RuntimeError when it does not."""
        process = self.launch(prefix)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        with grpc.insecure_channel(self.address, _OPTIONS) as channel:
            service = WorkflowServiceStub(channel)
            request = DescribeNamespaceRequest(namespace="default")
            while True:
                try:
                    service.DescribeNamespace(request, timeout=0.5, wait_for_ready=True)
                    return
                except grpc.RpcError as error:
                    if process.poll() is not None:
                        raise RuntimeError(f"it exited {process.returncode}:\n{self.output()}") from error
                    if time.monotonic() > deadline_s:
                        raise RuntimeError(f"no answer in {START_TIMEOUT_S} s:\n{self.output()}") from error

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone; nothing happens if it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> int:
        """Ask it to end and return the exit code; it is killed when that takes too long."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def output(self) -> str:
        """The end of what it printed and logged, over all its starts."""
        return self.log.read_text(errors="replace")[-6000:]
