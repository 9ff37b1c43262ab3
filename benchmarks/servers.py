"""A server under measurement: started by `benchmarks.peer`, timed to its first accepted call."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    GetSystemInfoRequest,
    StartWorkflowExecutionRequest,
    WorkflowServiceStub,
)

from benchmarks import proc
from benchmarks.peer.peer import SERVERS, RunningServer

WORK = Path(__file__).resolve().parents[1] / ".cache" / "benchmarks"
RETRY_S = 0.005
FIRST_CALL_LIMIT_S = 120.0


@dataclass(frozen=True)
class Server:
    """A server that has accepted a call."""

    name: str
    version: str
    address: str
    pid: int
    database: Path
    first_call_s: float
    running: RunningServer

    def usage(self) -> proc.Usage:
        """What its process tree has used. Raises RuntimeError when it has ended."""
        try:
            return proc.usage(self.pid)
        except ProcessLookupError:
            raise RuntimeError(f"{self.name} ended while measured: see {self.log}") from None

    @property
    def log(self) -> Path:
        """Where its output goes, from the repository's root."""
        return self.running.log.relative_to(WORK.parents[1])

    def database_mib(self) -> float:
        """Bytes on disk of the database with its write-ahead log, in MiB."""
        files = self.database.parent.glob(self.database.name + "*")
        return sum(file.stat().st_size for file in files) / 2**20

    async def kill(self) -> None:
        """End the process as a crash does: SIGKILL, nothing flushed."""
        self.running.process.send_signal(signal.SIGKILL)
        await self.running.process.wait()


def fresh_database(label: str) -> Path:
    """A path for a new database on a real disk, in a directory of its own.

    Raises RuntimeError when the place is a file system in memory, where an fsync costs nothing.
    """
    directory = WORK / "data" / label
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    kind = proc.file_system(directory)
    if kind in proc.MEMORY_FILE_SYSTEMS:
        raise RuntimeError(f"{directory} is on {kind}: benchmarks need a real disk")
    return directory / "server.db"


def discard(database: Path) -> None:
    """Remove what `fresh_database` made."""
    shutil.rmtree(database.parent, ignore_errors=True)


@contextlib.asynccontextmanager
async def serve(name: str, port: int, database: Path) -> AsyncIterator[Server]:
    """Run the server `name` ("temporal" or "odradek") on `database` until the block ends.

    Its time to the first accepted call runs from just before the process is created until a
    StartWorkflowExecution in the default namespace has been answered OK.
    """
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise RuntimeError(f"port {port} is taken: choose another with --port")
    log = WORK / "logs" / f"{database.parent.name}.log"
    began = time.monotonic()
    first_call = asyncio.create_task(first_accepted_call(port))
    try:
        async with SERVERS[name](port, database, log=log) as running:
            accepted_s, version = await first_call
            yield Server(name, version, running.address, running.pid, database, accepted_s - began, running)
    finally:
        first_call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first_call


async def first_accepted_call(port: int) -> tuple[float, str]:
    """When the first start of a workflow was accepted (monotonic seconds), and the server's version.

    Raises what the last try raised once FIRST_CALL_LIMIT_S is over.
    """
    limit_s = time.monotonic() + FIRST_CALL_LIMIT_S
    while True:
        # A gRPC channel backs off for a second after a refused connection, so wait for the port without one.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > limit_s:
                raise
            await asyncio.sleep(RETRY_S)
        else:
            writer.close()
            break
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = WorkflowServiceStub(channel)
        while True:
            try:
                await stub.StartWorkflowExecution(_probe(), timeout=10)
            except grpc.aio.AioRpcError:
                if time.monotonic() > limit_s:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                break
        accepted_s = time.monotonic()
        info = await stub.GetSystemInfo(GetSystemInfoRequest(), timeout=10)
    return accepted_s, info.server_version


def _probe() -> StartWorkflowExecutionRequest:
    """A workflow nobody works on, which is gone a second later."""
    return StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=f"first-call-{uuid.uuid4()}",
        workflow_type=WorkflowType(name="first-call"),
        task_queue=TaskQueue(name="first-call"),
        request_id=str(uuid.uuid4()),
        workflow_execution_timeout=Duration(seconds=1),
    )
