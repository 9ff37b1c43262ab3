"""Fixtures shared by every suite that talks to a server."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, WorkflowServiceStub

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the server under test stands on."""
    parser.addoption(
        "--footing",
        choices=("embedded", "kafka", "cluster"),
        default="embedded",
        help="The server stands on an SQLite file, on Kafka with its stores in one, or on Kafka and databases.",
    )


@pytest.fixture(scope="session")
def server_address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host:port of a server with the namespace "default".

    The server at ODRADEK_TEST_ADDRESS where that is set, else one started for this test run, on what `--footing`
    says: a fresh database file, or fresh topics and stores.
    """
    if given := os.environ.get("ODRADEK_TEST_ADDRESS"):
        _wait_until_ready(given, None)
        yield given
        return
    folder = tmp_path_factory.mktemp("server")
    if (footing := request.config.getoption("--footing")) != "embedded":
        from tests.support.cluster_footing import server_on_kafka

        with server_on_kafka(folder, cluster_stores=footing == "cluster") as address:
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
