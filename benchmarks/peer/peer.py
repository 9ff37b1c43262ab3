"""Start and stop the servers that are compared: the real Temporal dev server, and our own.

    python -m benchmarks.peer.peer install
    python -m benchmarks.peer.peer run --server temporal --port 17233 --db-filename /tmp/peer.db
    python -m benchmarks.peer.peer run --server odradek --port 17234 --db-filename /tmp/ours.db

As a module, `temporal_server` and `odradek_server` are async context managers of one shape.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, WorkflowServiceStub

CLI_MODULE = "github.com/temporalio/cli/cmd/temporal"
CLI_VERSION = "v1.5.1"
SERVER_VERSION = "1.29.1"
REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "peer"
WORKFLOW_SERVICE = "temporal.api.workflowservice.v1.WorkflowService"


class PeerError(RuntimeError):
    """The server could not be installed, or did not become healthy."""


@dataclass(frozen=True)
class RunningServer:
    """A server that answers: what to dial, and the process to measure."""

    name: str
    address: str
    process: asyncio.subprocess.Process
    log: Path
    startup_s: float

    @property
    def pid(self) -> int:
        return self.process.pid


def installed_binary() -> Path:
    """Where `install` puts the pinned CLI; one directory a version, so that a new pin installs anew."""
    return CACHE / CLI_VERSION / "temporal"


def install() -> Path:
    """Build the pinned CLI, which carries the dev server, unless it is there already.

    Returns its path. Raises PeerError when there is no Go toolchain or the build fails.
    """
    binary = installed_binary()
    module = f"{CLI_MODULE}@{CLI_VERSION}"
    return build(binary, module, ["go", "install", module], {"GOBIN": str(binary.parent)})


def build(
    binary: Path,
    what: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Path:
    """Have Go make `binary`, unless it is there, by `command` in `folder`; returns its path. Raises PeerError."""
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        raise PeerError("Go is needed to build the real server: install it, or put `go` on PATH")
    binary.parent.mkdir(parents=True, exist_ok=True)
    print(f"building {what} (minutes, the first time)", file=sys.stderr)
    variables = {**os.environ, **(environment or {})}
    built = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise PeerError(f"{' '.join(command[:2])} failed:\n{built.stderr[-2000:]}")
    return binary


@contextlib.asynccontextmanager
async def temporal_server(
    port: int,
    db_filename: Path | None,
    *,
    namespaces: Sequence[str] = (),
    dynamic_config: Mapping[str, object] | None = None,
    log: Path | None = None,
) -> AsyncIterator[RunningServer]:
    """Run the real server on loopback until the block ends.

    `db_filename` is a fresh SQLite file; None keeps everything in memory.
    Raises PeerError when it does not start.
    """
    command = [str(install()), "server", "start-dev", "--headless", "--log-level", "error"]
    async with _serve("temporal", command, port, db_filename, namespaces, dynamic_config, log) as running:
        yield running


@contextlib.asynccontextmanager
async def odradek_server(
    port: int,
    db_filename: Path | None,
    *,
    namespaces: Sequence[str] = (),
    dynamic_config: Mapping[str, object] | None = None,
    log: Path | None = None,
) -> AsyncIterator[RunningServer]:
    """Run our own embedded server on loopback until the block ends; arguments as `temporal_server`."""
    binary = Path(sys.executable).parent / "odradek"
    if not binary.exists():
        raise PeerError(f"{binary} is missing: run `make setup`")
    async with _serve(
        "odradek", [str(binary), "dev"], port, db_filename, namespaces, dynamic_config, log
    ) as running:
        yield running


SERVERS = {"temporal": temporal_server, "odradek": odradek_server}


@contextlib.asynccontextmanager
async def _serve(
    name: str,
    command: list[str],
    port: int,
    db_filename: Path | None,
    namespaces: Sequence[str],
    dynamic_config: Mapping[str, object] | None,
    log: Path | None,
) -> AsyncIterator[RunningServer]:
    command += ["--ip", "127.0.0.1", "--port", str(port)]
    if db_filename is not None:
        command += ["--db-filename", str(db_filename)]
    for namespace in namespaces:
        command += ["--namespace", namespace]
    for key, value in (dynamic_config or {}).items():
        command += ["--dynamic-config-value", f"{key}={json.dumps(value)}"]
    log = log or CACHE / f"{name}-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    _claim(port)
    began = time.monotonic()
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(*command, stdout=sink, stderr=subprocess.STDOUT)
    address = f"127.0.0.1:{port}"
    try:
        await _wait_until_healthy(process, address, log, limit_s=60)
        yield RunningServer(name, address, process, log, time.monotonic() - began)
    finally:
        await _stop(process, log)


def _claim(port: int) -> None:
    """Raise PeerError when something listens there: it would answer in place of the server started here."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PeerError(f"port {port} is taken") from error


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


async def _wait_until_healthy(
    process: asyncio.subprocess.Process, address: str, log: Path, *, limit_s: float
) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        if process.returncode is not None:
            raise PeerError(f"the server ended with {process.returncode}:\n{_tail(log)}")
        try:
            await _ask_health(address)
        except grpc.aio.AioRpcError as error:
            if time.monotonic() > deadline:
                raise PeerError(
                    f"not healthy after {limit_s:g} s: {error.code()} {error.details()}"
                ) from error
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.05)
        else:
            return


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def _ask_health(address: str) -> None:
    """One round of questions: the health service, then the namespace that SDKs use first."""
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest(service=WORKFLOW_SERVICE), timeout=2)
        await WorkflowServiceStub(channel).DescribeNamespace(
            DescribeNamespaceRequest(namespace="default"), timeout=2
        )


async def _stop(process: asyncio.subprocess.Process, log: Path) -> None:
    if process.returncode is not None:
        print(f"the server ended by itself with {process.returncode}:\n{_tail(log)}", file=sys.stderr)
        return
    process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(process.wait(), 15)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _run(arguments: argparse.Namespace) -> None:
    config = {
        key: json.loads(value)
        for key, value in (pair.split("=", 1) for pair in arguments.dynamic_config_value)
    }
    server = SERVERS[arguments.server]
    async with server(arguments.port, arguments.db_filename, dynamic_config=config) as running:
        print(
            f"{running.name} pid {running.pid} on {running.address}, "
            f"up in {running.startup_s:.2f} s, log {running.log}"
        )
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait(
            [stopped, asyncio.create_task(running.process.wait())], return_when=asyncio.FIRST_COMPLETED
        )


def main() -> None:
    """The command line: `install`, or `run` until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="build the pinned real server unless it is there")
    run = commands.add_parser("run", help="run a server until interrupted")
    run.add_argument("--server", choices=sorted(SERVERS), default="temporal")
    run.add_argument("--port", type=int, default=7233)
    run.add_argument("--db-filename", type=Path)
    run.add_argument("--dynamic-config-value", action="append", default=[], metavar="KEY=JSON")
    arguments = parser.parse_args()
    try:
        if arguments.command == "install":
            print(install())
        else:
            asyncio.run(_run(arguments))
    except PeerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
