"""A server for suites that need an address: one that is there, or one started on what they ask for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, WorkflowServiceStub

from tests.support.cluster_footing import server_on_kafka

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 20
ADDRESS_VARIABLE = "ODRADEK_TEST_ADDRESS"
FOOTINGS = ("embedded", "kafka", "cluster")
"""An SQLite file; Kafka with its stores in one; Kafka, Cassandra and PostgreSQL."""


@contextmanager
def server_on(footing: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The host:port of a server with the namespace "default" on a footing, started for this, in `folder`.

    The server at ODRADEK_TEST_ADDRESS where that is set.
    """
    if given := os.environ.get(ADDRESS_VARIABLE):
        _wait_until_ready(given, None)
        yield given
        return
    if footing != "embedded":
        with server_on_kafka(request, folder, cluster_stores=footing == "cluster") as address:
            yield address
        return
    port = _free_port()
    command = [
        Path(sys.executable).with_name("odradek"),
        *("dev", "--ip", "127.0.0.1", "--port", str(port)),
        *("--db-filename", folder / "odradek.db"),
    ]
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"127.0.0.1:{port}"
        try:
            _wait_until_ready(address, process)
        except RuntimeError as error:
            pytest.fail(f"{error}; its output:\n{log_path.read_text(errors='replace')[-4000:]}")
        yield address
    finally:
        exit_code = _stop(process)
    assert exit_code == 0, f"the server exited {exit_code}:\n{log_path.read_text(errors='replace')[-4000:]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(address: str, process: subprocess.Popen[bytes] | None) -> None:
    """Return once the namespace "default" can be described at `address`.

    Raises RuntimeError when the process ends first or when that takes longer than START_TIMEOUT_S.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    with grpc.insecure_channel(address, options) as channel:
        service = WorkflowServiceStub(channel)
        while True:
            try:
                request = DescribeNamespaceRequest(namespace="default")
                service.DescribeNamespace(request, timeout=1, wait_for_ready=True)
            except grpc.RpcError as error:
                if process is not None and process.poll() is not None:
                    raise RuntimeError(f"the server exited {process.returncode} while starting") from error
                if time.monotonic() > deadline_s:
                    raise RuntimeError(
                        f"no server at {address} after {START_TIMEOUT_S} s: {error}"
                    ) from error
            else:
                return


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the server to stop and return its exit code; kill it when it takes longer than STOP_TIMEOUT_S."""
    process.terminate()
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
