"""``odradek inspect`` on files that a real server has made, while it runs and afterwards."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    WorkflowServiceStub,
)

from server.cli import main
from server.inspect_json import plain
from streams import avro
from streams.bodies import Call, ResetPrepared, StatePart
from streams.embedded import EmbeddedEngine
from streams.history import state
from streams.runtime.database import FORMAT
from streams.topology import COMMANDS
from tests.support.processes import ServerProcess


def inspected(path: Path, *arguments: str) -> str:
    """What a subcommand prints."""
    result = CliRunner().invoke(main, ["inspect", str(path), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def lines(path: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a subcommand prints as JSON lines."""
    return [json.loads(line) for line in inspected(path, *arguments, "--json").splitlines()]


def refused(path: Path, *arguments: str) -> str:
    """The sentence that a subcommand fails with."""
    result = CliRunner().invoke(main, ["inspect", str(path), *arguments])
    assert result.exit_code == 1
    return result.output.strip()


def start(service: WorkflowServiceStub, workflow_id: str) -> str:
    request = StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=workflow_id,
        workflow_type=WorkflowType(name="Order"),
        task_queue=TaskQueue(name="orders"),
        request_id=f"start-{workflow_id}",
        input=Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=b'{"item": "thread"}')]),
    )
    return service.StartWorkflowExecution(request, wait_for_ready=True).run_id


def signal(service: WorkflowServiceStub, workflow_id: str, name: str) -> None:
    request = SignalWorkflowExecutionRequest(
        namespace="default", workflow_execution=WorkflowExecution(workflow_id=workflow_id), signal_name=name
    )
    service.SignalWorkflowExecution(request)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A running server with the workflow order/1, whose first task a worker has."""
    process = ServerProcess(tmp_path_factory.mktemp("inspect") / "odradek.db")
    process.start()
    with grpc.insecure_channel(process.address) as channel:
        service = WorkflowServiceStub(channel)
        start(service, "order/1")
        poll = PollWorkflowTaskQueueRequest(namespace="default", task_queue=TaskQueue(name="orders"))
        assert service.PollWorkflowTaskQueue(poll, timeout=30).task_token
        signal(service, "order/1", "hurry")
    yield process
    process.kill()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[ServerProcess]:
    """A running server of the test's own."""
    process = ServerProcess(tmp_path / "odradek.db")
    process.start()
    yield process
    process.kill()


def types(shown: list[dict[str, Any]]) -> list[str]:
    return [line["event"]["event_type"].removeprefix("EVENT_TYPE_") for line in shown if "event" in line]


def test_the_log_of_a_running_server(server: ServerProcess) -> None:
    records = lines(server.path, "log")
    assert [record["offset"] for record in records] == list(range(len(records)))
    started = next(record for record in records if record["body"].get("method") == "StartWorkflowExecution")
    assert (started["topic"], started["key"], started["type"]) == ("commands", "default/order/1", "Call")
    assert started["origin"]["source"] == "external"
    assert started["correlation"]["gateway"]
    assert started["time"].endswith("Z")
    request = started["body"]["request"]
    assert request["workflow_type"] == {"name": "Order"}
    (payload,) = request["input"]["payloads"]
    assert payload == {"metadata": {"encoding": "json/plain"}, "data": {"item": "thread"}}
    matched = next(record for record in records if record["type"] == "StartTask")
    assert matched["body"]["poll"]["request"]["task_queue"] == {"name": "orders"}


def test_a_stretch_of_the_log_as_text(server: ServerProcess) -> None:
    offset = next(r["offset"] for r in lines(server.path, "log") if r["type"] == "StartTask")
    text = inspected(server.path, "log", "--after", str(offset - 1), "--limit", "1")
    title, _, body = text.partition("\n")
    assert title.startswith(f"{offset} 2")
    assert "commands/0 default/order/1 StartTask from tasks/0:" in title
    assert json.loads(body)["task_kind"] == "workflow"


def test_a_workflow_as_of_the_last_record(server: ServerProcess) -> None:
    shown = lines(server.path, "workflow", "default", "order/1")
    parts = {line["kind"]: line["value"] for line in shown if "kind" in line}
    assert parts["core"]["workflow_type"] == "Order"
    assert parts["start"]["data"]["task_queue"]["name"] == "orders"
    assert parts["wft"]["started_event_id"] == 3
    signaled = parts["buffered"]["event"]["workflow_execution_signaled_event_attributes"]
    assert signaled["signal_name"] == "hurry"
    assert types(shown) == [
        "WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
    ]
    run_id = parts["core"]["run_id"]
    assert lines(server.path, "workflow", "default", "order/1", "--run", run_id) == shown
    text = inspected(server.path, "workflow", "default", "order/1")
    assert text.startswith("state buffered")
    assert "\nevent 3" in text


def test_a_workflow_or_run_that_is_not_there(server: ServerProcess) -> None:
    assert refused(server.path, "workflow", "default", "order/2") == (
        "Error: there is no workflow order/2 in namespace default"
    )
    assert refused(server.path, "workflow", "default", "order/1", "--run", "another") == (
        "Error: workflow order/1 of namespace default has no run another"
    )


def test_what_a_restart_would_fold_again_is_shown(fresh: ServerProcess) -> None:
    with grpc.insecure_channel(fresh.address) as channel:
        service = WorkflowServiceStub(channel)
        start(service, "w")
        for number in range(50):
            signal(service, "w", f"s{number}")
    fresh.kill()
    for _ in range(2):
        shown = lines(fresh.path, "workflow", "default", "w")
        assert types(shown).count("WORKFLOW_EXECUTION_SIGNALED") == 50
    positions = {line["partition"]: line for line in lines(fresh.path, "positions")[1:]}
    assert set(positions) == {"commands/0", "tasks/0", "timers/0"}


def test_tables_by_name_and_key(fresh: ServerProcess, tmp_path: Path) -> None:
    with grpc.insecure_channel(fresh.address) as channel:
        service = WorkflowServiceStub(channel)
        run_id = start(service, "w")
        start(service, "x")
    assert fresh.stop() == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    rows = lines(fresh.path, "tables", "--table", "current", "--key", "default/w")
    assert [(row["table"], row["key"], row["kind"], row["value"]["run_id"]) for row in rows] == [
        ("current", "default/w", "current", run_id)
    ]
    everything = lines(fresh.path, "tables")
    assert {row["table"] for row in everything} >= {"current", "executions", "queues", "registry", "due"}
    assert f"executions default/w/{run_id} core\n" in inspected(fresh.path, "tables")
    assert refused(fresh.path, "tables", "--table", "executoins").startswith(
        "Error: there is no table executoins; there are current, "
    )
    assert lines(fresh.path, "positions")[0]["log"]["last"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_dead_letters_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "odradek.db"

    async def run() -> None:
        engine = EmbeddedEngine(path, on_failure=lambda error: None)
        await engine.start()
        engine.append(COMMANDS, "ns/w", Call("SignalWorkflowExecution", "ns", "w", "", b"\xff"))
        await engine.flush()
        await engine.stop()

    asyncio.run(run())
    (letter,) = lines(path, "dead-letters")
    assert (letter["source"], letter["key"], letter["type"]) == ("commands/0", "ns/w", "Call")
    assert "DecodeError" in letter["reason"]
    assert letter["body"]["method"] == "SignalWorkflowExecution"
    assert letter["body"]["request"] == {"undecodable": "/w=="}
    assert inspected(path, "dead-letters").startswith(f"{letter['offset']} commands/0 ns/w Call\n")


def test_parts_inside_records_are_decoded() -> None:
    blob = avro.encode(state.Blob(b""))
    body = ResetPrepared("ns", "w", "r1", "r2", 0, 1, parts=(StatePart(state.MEMO, "", blob),))
    assert plain(body)["parts"] == [{"kind": "memo", "id": "", "data": {"data": {}}}]


def make(path: Path, *, application_id: int = 0, version: int = 0) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (c)")
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    missing, text, other, newer = (tmp_path / name for name in ("missing", "text", "other", "newer"))
    text.write_text("Dear diary, this is no database at all, however long it gets.\n" * 20)
    make(other)
    make(newer, application_id=0x0D7ADE17, version=FORMAT + 1)
    assert refused(missing, "log") == f"Error: {missing} does not exist"
    assert refused(tmp_path, "log") == f"Error: {tmp_path} is not a file"
    assert refused(text, "log").startswith(f"Error: {text} is not an Odradek database file")
    assert refused(other, "positions") == f"Error: {other} is not an Odradek database file"
    assert refused(newer, "tables") == (
        f"Error: {newer} has format {FORMAT + 1}; this version reads up to {FORMAT}: use a newer release"
    )
