"""``odradek dev`` as a user meets it: a process with flags, a banner, signals and sentences."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest, OperatorServiceStub
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    PollWorkflowTaskQueueRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    WorkflowServiceStub,
)

ODRADEK = str(Path(sys.executable).with_name("odradek"))
TIMEOUT_S = 30


class Dev:
    """A running ``odradek dev``."""

    def __init__(self, process: subprocess.Popen[str], banner: list[str]) -> None:
        self.process = process
        self.banner = banner
        self.address = self._banner("Server:")
        self.metrics = self._banner("Metrics:")

    def _banner(self, name: str) -> str:
        return next(line.split()[1] for line in self.banner if line.startswith(name))

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def output(self) -> str:
        assert self.process.stdout
        return self.process.stdout.read()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ODRADEK_")}


@contextmanager
def running(*flags: str, **variables: str) -> Iterator[Dev]:
    command = [ODRADEK, "dev", "--port", "0", *flags]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), **variables},
    ) as process:
        try:
            assert process.stdout
            banner = []
            for line in process.stdout:
                banner.append(line)
                if line.startswith("Database:"):
                    yield Dev(process, banner)
                    break
            else:
                pytest.fail(f"no banner: {banner}")
        finally:
            process.kill()


def refused(*flags: str, **variables: str) -> str:
    """Returns the error of a command that has to fail with one line and no traceback."""
    result = subprocess.run(
        [ODRADEK, "dev", "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**environment(), **variables},
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_zero(tmp_path: Path, number: int) -> None:
    with running("-f", str(tmp_path / "o.db")) as dev:
        assert dev.stop(number) == 0
        assert "Stopping server..." in dev.output()


def test_a_signal_ends_waiting_polls_with_empty_answers() -> None:
    with running() as dev, grpc.insecure_channel(dev.address) as channel:
        service = WorkflowServiceStub(channel)
        service.DescribeNamespace(DescribeNamespaceRequest(namespace="default"), wait_for_ready=True)
        poll = service.PollWorkflowTaskQueue.future(
            PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="q")), timeout=60
        )
        pending = "service_pending_requests{.*PollWorkflowTaskQueue.*} 1"
        deadline_s = time.monotonic() + TIMEOUT_S
        while not re.search(pending, scraped(dev)):
            assert time.monotonic() < deadline_s
        dev.process.send_signal(signal.SIGINT)
        assert poll.result(TIMEOUT_S).task_token == b""
        assert dev.process.wait(TIMEOUT_S) == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with running() as dev, grpc.insecure_channel(dev.address) as channel:
        # A call that never ends holds the first signal's goodbye up.
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(watch)
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.stdout
        for line in dev.process.stdout:
            if line.startswith("Stopping server..."):
                break
        began_s = time.monotonic()
        assert dev.stop() == 128 + signal.SIGINT
        assert time.monotonic() - began_s < 2
        watch.cancel()


def test_it_is_up_in_time(tmp_path: Path) -> None:
    took_s = []
    for number in range(3):
        began_s = time.monotonic()
        with (
            running("-f", str(tmp_path / f"{number}.db")) as dev,
            grpc.insecure_channel(dev.address) as channel,
        ):
            request = DescribeNamespaceRequest(namespace="default")
            WorkflowServiceStub(channel).DescribeNamespace(request, wait_for_ready=True)
            took_s.append(time.monotonic() - began_s)
            dev.stop()
    assert min(took_s) < 1.5


def test_a_temporary_file_is_gone_afterwards() -> None:
    with running() as dev:
        line = next(line for line in dev.banner if line.startswith("Database:"))
        path = Path(line.split()[1])
        assert path.exists()
        assert "temporary" in line
        assert dev.stop() == 0
        assert not path.parent.exists()


def test_namespaces_and_search_attributes_are_there_after_a_restart_too(tmp_path: Path) -> None:
    flags = ("-f", str(tmp_path / "o.db"), "-n", "one", "-n", "two", "--search-attribute", "City=keyword")
    for _ in range(2):
        with running(*flags) as dev, grpc.insecure_channel(dev.address) as channel:
            for namespace in ("default", "one", "two"):
                request = DescribeNamespaceRequest(namespace=namespace)
                response = WorkflowServiceStub(channel).DescribeNamespace(request, wait_for_ready=True)
                assert response.config.workflow_execution_retention_ttl.seconds == 24 * 3600
                attributes = OperatorServiceStub(channel).ListSearchAttributes(
                    ListSearchAttributesRequest(namespace=namespace)
                )
                keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
                assert attributes.custom_attributes["City"] == keyword
            assert dev.stop() == 0
    assert refused(*flags, "--search-attribute", "City=Int") == (
        "Error: the search attribute City of namespace default exists with another type"
    )


def test_a_search_attribute_of_the_server_itself_is_refused() -> None:
    assert refused("--search-attribute", "WorkflowId=Keyword") == (
        "Error: the search attribute WorkflowId is one of the server's own"
    )


def scraped(dev: Dev) -> str:
    with urllib.request.urlopen(dev.metrics) as response:
        return str(response.read().decode())


def test_metrics_are_served_where_the_banner_says() -> None:
    with running() as dev, grpc.insecure_channel(dev.address) as channel:
        request = DescribeNamespaceRequest(namespace="default")
        WorkflowServiceStub(channel).DescribeNamespace(request, wait_for_ready=True)
        labels = 'service_name="frontend",operation="DescribeNamespace",namespace="default"'
        assert f"service_requests{{{labels}}} 1\n" in scraped(dev)


def start_workflow(service: WorkflowServiceStub) -> WorkflowExecution:
    request = StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id="w",
        workflow_type=WorkflowType(name="Order"),
        task_queue=TaskQueue(name="orders"),
        request_id="r",
    )
    service.StartWorkflowExecution(request, wait_for_ready=True)
    return WorkflowExecution(workflow_id="w")


def test_a_limit_that_a_flag_sets_binds_workflows() -> None:
    flag = "history.maximumSignalsPerExecution=1"
    with running("--dynamic-config-value", flag) as dev, grpc.insecure_channel(dev.address) as channel:
        service = WorkflowServiceStub(channel)
        request = SignalWorkflowExecutionRequest(
            namespace="default", workflow_execution=start_workflow(service), signal_name="approve"
        )
        service.SignalWorkflowExecution(request)
        with pytest.raises(grpc.RpcError) as caught:
            service.SignalWorkflowExecution(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_closed_runs_are_counted() -> None:
    with running() as dev, grpc.insecure_channel(dev.address) as channel:
        service = WorkflowServiceStub(channel)
        workflow = start_workflow(service)
        service.TerminateWorkflowExecution(
            TerminateWorkflowExecutionRequest(namespace="default", workflow_execution=workflow)
        )
        labels = (
            'service_name="history",operation="CompletionStats",namespace="default",'
            'taskqueue="orders",workflowType="Order"'
        )
        text = scraped(dev)
        assert f"workflow_terminate{{{labels}}} 1\n" in text
        assert f"workflow_duration_count{{{labels}}} 1\n" in text


def test_settings_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    config = tmp_path / "o.yaml"
    config.write_text(f"dev: {{db_filename: {tmp_path / 'from-file.db'}}}\n")
    with running(ODRADEK_CONFIG=str(config), ODRADEK_DEV__NAMESPACES='["one"]') as dev:
        assert (tmp_path / "from-file.db").exists()
        with grpc.insecure_channel(dev.address) as channel:
            request = DescribeNamespaceRequest(namespace="one")
            WorkflowServiceStub(channel).DescribeNamespace(request, wait_for_ready=True)


def test_an_unknown_dynamic_config_key_is_a_warning() -> None:
    with running("--dynamic-config-value", "frontend.rps=5", "--log-format", "json") as dev:
        assert dev.stop() == 0
        assert "unknown dynamic config key frontend.rps is ignored" in "".join(dev.banner)


def test_a_port_that_is_taken(taken_port: int) -> None:
    sentence = refused("--port", str(taken_port))
    assert sentence == f"Error: cannot listen on port 127.0.0.1:{taken_port}: Address already in use"


def test_a_metrics_port_that_is_taken(taken_port: int) -> None:
    sentence = refused("--metrics-port", str(taken_port))
    assert sentence == f"Error: cannot listen on metrics port 127.0.0.1:{taken_port}: Address already in use"


def test_a_file_in_use(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running("-f", str(path)):
        assert refused("-f", str(path)) == f"Error: {path} is in use by another process"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_text("hello")
    assert refused("-f", str(path)) == f"Error: {path} is not an Odradek database file"
    assert path.read_text() == "hello"


def test_a_file_of_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running("-f", str(path)) as dev:
        assert dev.stop() == 0
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    assert refused("-f", str(path)).startswith(f"Error: {path} has format 99;")


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "no" / "o.db"
    assert refused("-f", str(path)) == f"Error: {path}: the directory {path.parent} does not exist"


def test_a_file_that_cannot_be_written() -> None:
    # A place where even root makes no files.
    assert refused("-f", "/proc/odradek.db").startswith("Error: /proc/odradek.db cannot be written: ")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--prot", "1"), "Error: No such option '--prot'."),
        (("--port", "70000"), "Error: dev.port is not valid (70000): input should be less than or equal"),
        (("--search-attribute", "City"), "'City' is not of the form NAME=TYPE"),
        (("--search-attribute", "City=Word"), "'Word' is not one of Text, Keyword, Int"),
        (("--dynamic-config-value", "limit.maxIDLength=x"), "'x', given for limit.maxIDLength, is not JSON"),
        (
            ("--dynamic-config-value", 'limit.maxIDLength="x"'),
            "limit.maxIDLength must be an integer, not 'x'",
        ),
        (("--namespace", "a/b"), "dev.namespaces.0 is not valid ('a/b')"),
        (("--config", "odradek.ini"), "cannot read the configuration file odradek.ini"),
    ],
)
def test_a_bad_flag_is_told_in_a_sentence(flags: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(*flags)


def test_the_version_is_printed() -> None:
    result = subprocess.run([ODRADEK, "version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"odradek \d+\.\d+\.\d+\n", result.stdout)
