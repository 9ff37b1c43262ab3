"""Both servers on the parts: each with stores of its own, all its processes and parts measured together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest, WorkflowServiceStub

from benchmarks import proc
from benchmarks.cluster import metrics
from benchmarks.cluster.parts import Parts, Site, settings
from benchmarks.peer import cassandra as peer
from benchmarks.scenarios import OTHER, OURS, PEER
from benchmarks.servers import WORK, first_accepted_call
from deploy.local.postgres import USER

SERVER_PORTS = 10
"""How many ports a server takes at most."""

STOP_S = 40.0
READY_S = 120.0
_RETRY_S = 0.05
_ODRADEK = Path(sys.executable).with_name("odradek")

Layout = Sequence[str]
"""The roles of each process of ours, such as ["gateway", "history,matching,timer,materializer"]."""


@dataclass
class ClusterServer:
    """A server that has accepted a call. `processes` are its own, `parts` those it stands on."""

    name: str
    version: str
    address: str
    first_call_s: float
    log: Path
    site: Site
    processes: list[asyncio.subprocess.Process]
    parts: Sequence[str]
    metrics_ports: Sequence[int] = ()

    def usage(self) -> proc.Usage:
        """What its processes and its parts have used. Raises RuntimeError when one has ended."""
        own = {"server": tuple(process.pid for process in self.processes)}
        try:
            return proc.usage_of({**own, **self.site.parts.pids(*self.parts)})
        except ProcessLookupError:
            raise RuntimeError(f"{self.name} ended while measured: see {self.log}") from None


@dataclass(frozen=True)
class Choices:
    """How ours is laid out."""

    layout: Layout
    partitions: int
    other: Path | None = None

    def described(self) -> dict[str, object]:
        """For the result files."""
        return {"layout": " + ".join(self.layout), "partitions": self.partitions}


@contextlib.asynccontextmanager
async def serve(
    name: str, parts: Parts, port: int, label: str, choices: Choices
) -> AsyncIterator[ClusterServer]:
    """Run the server `name` with stores of its own until the block ends.

    "temporal" is the real server, "odradek" ours, and "other" ours of the working tree `choices.other`. It takes
    SERVER_PORTS ports from `port` on at most.
    """
    site = Site(f"{name}_{label}".replace("-", "_"), parts)
    await asyncio.to_thread(site.make)
    try:
        serving = {PEER: _serve_peer, OURS: serve_ours, OTHER: _serve_other}[name]
        async with serving(site, port, choices) as server:
            yield server
    finally:
        await asyncio.to_thread(site.remove)


@contextlib.asynccontextmanager
async def _serve_peer(site: Site, port: int, choices: Choices) -> AsyncIterator[ClusterServer]:
    stores = {
        "keyspace": site.name,
        "cassandra_port": site.parts.cassandra.port,
        "database": site.name,
        "postgres_port": site.parts.postgres.port,
        "user": USER,
    }
    await asyncio.to_thread(lambda: peer.make_schemas(**stores))
    config = site.directory / "config.yaml"
    peer.write_config(config, port=port, first_port=port + 1, **stores)
    command = [str(peer.install()), "start", str(config)]
    async with _running(PEER, site, [command], signal.SIGINT) as (processes, log, began_s):
        await _until_registered(port)
        accepted_s, version = await first_accepted_call(port)
        yield ClusterServer(
            PEER,
            version,
            f"127.0.0.1:{port}",
            accepted_s - began_s,
            log,
            site,
            processes,
            ("cassandra", "postgres"),
        )


@contextlib.asynccontextmanager
async def _serve_other(site: Site, port: int, choices: Choices) -> AsyncIterator[ClusterServer]:
    async with serve_ours(site, port, choices, tree=choices.other) as server:
        yield dataclasses.replace(server, name=OTHER)


@contextlib.asynccontextmanager
async def serve_ours(
    site: Site,
    port: int,
    choices: Choices,
    *,
    kafka: Mapping[str, object] | None = None,
    gateway: bool = True,
    tree: Path | None = None,
) -> AsyncIterator[ClusterServer]:
    """Run ours on a site that is there, perhaps with topics and stores of an earlier run.

    `kafka` are settings of that section beside the harness's own; without `gateway` no process has that role;
    `tree` is another working tree of ours, whose code it is to run.
    """
    configs = []
    for index, roles in enumerate(choices.layout):
        own = {"roles": roles.split(","), "port": port, "metrics_port": port + 1 + index}
        path = site.directory / f"odradek-{index}.yaml"
        state = {"state_directory": str(site.directory / f"state-{index}")}
        found = settings(site, partitions=choices.partitions, serve=own, kafka={**state, **(kafka or {})})
        path.write_text(json.dumps(found, indent=1))  # JSON is YAML
        configs.append(path)
    for tool in (("topics", "apply"), ("stores", "migrate")):
        await asyncio.to_thread(_tool, [str(_ODRADEK), *tool, "--config", str(configs[0])])
    commands = [[str(_ODRADEK), "serve", "--config", str(config)] for config in configs]
    async with _running(OURS, site, commands, signal.SIGTERM, tree) as (processes, log, began_s):
        ports = [port + 1 + index for index in range(len(configs))]
        await asyncio.to_thread(wait_until_ready, ports, lambda: _ended(processes), log)
        accepted_s, version = await first_accepted_call(port) if gateway else (time.monotonic(), "")
        yield ClusterServer(
            OURS,
            version,
            f"127.0.0.1:{port}",
            accepted_s - began_s,
            log,
            site,
            processes,
            ("kafka", "cassandra", "postgres"),
            ports,
        )


@contextlib.asynccontextmanager
async def _running(
    name: str,
    site: Site,
    commands: Sequence[Sequence[str]],
    stop_signal: signal.Signals,
    tree: Path | None = None,
) -> AsyncIterator[tuple[list[asyncio.subprocess.Process], Path, float]]:
    """The processes of these commands, their log, and when the first was created (monotonic seconds)."""
    log = WORK / "logs" / f"{site.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    processes: list[asyncio.subprocess.Process] = []
    began_s = time.monotonic()
    with log.open("wb") as sink:
        try:
            for command in commands:
                await _start(command, sink, processes, {"PYTHONPATH": str(tree)} if tree else {})
            yield processes, log.relative_to(WORK.parents[1]), began_s
        finally:
            for process in processes:
                if process.returncode is None:
                    process.send_signal(stop_signal)
                else:
                    print(f"{name} ended by itself with {process.returncode}: see {log}", file=sys.stderr)
            await asyncio.gather(*map(_gone, processes))


async def _start(
    command: Sequence[str],
    sink: IO[bytes],
    processes: list[asyncio.subprocess.Process],
    environment: Mapping[str, str],
) -> None:
    processes.append(
        await asyncio.create_subprocess_exec(
            *command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    )


async def _gone(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _until_registered(port: int) -> None:
    """Register the default namespace as soon as the server lets us."""
    request = RegisterNamespaceRequest(
        namespace="default", workflow_execution_retention_period=Duration(seconds=24 * 3600)
    )
    deadline_s = time.monotonic() + READY_S
    while True:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                await WorkflowServiceStub(channel).RegisterNamespace(request, timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    return
                if time.monotonic() > deadline_s:
                    raise
            else:
                return
        await asyncio.sleep(_RETRY_S)


def _tool(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _ended(processes: Sequence[asyncio.subprocess.Process]) -> bool:
    return any(process.returncode is not None for process in processes)


def wait_until_ready(ports: Sequence[int], ended: Callable[[], bool], log: Path) -> None:
    """Return once the processes with these metrics ports say that they are ready. Blocks. Raises RuntimeError."""
    deadline_s = time.monotonic() + READY_S
    for port in ports:
        while (reason := metrics.probe(port, "/ready")) is not None:
            if ended():
                raise RuntimeError(f"a process ended while starting: see {log}")
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"not ready after {READY_S:g} s ({reason}): see {log}")
            time.sleep(_RETRY_S)
