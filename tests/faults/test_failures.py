"""What the server process does when the disk is full, and with a file that is damaged, in use or too new."""

from __future__ import annotations

import itertools
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    WorkflowServiceStub,
)

from streams.runtime.database import FORMAT
from tests.support.processes import ServerProcess

TIMEOUT_S = 20
STEP_BLOCKS = 512
"""The room that the file gets at a time, in blocks as `ulimit -f` counts them: 1024 bytes in bash."""
FILL_BYTES = 20_000
ENDED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def start(service: WorkflowServiceStub, workflow_id: str) -> str:
    """Start a workflow that no worker runs, and return its run id."""
    request = StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=workflow_id,
        workflow_type=WorkflowType(name="type"),
        task_queue=TaskQueue(name="queue"),
        request_id="once",
    )
    return str(service.StartWorkflowExecution(request, timeout=TIMEOUT_S, wait_for_ready=True).run_id)


def send(service: WorkflowServiceStub, workflow_id: str, name: str) -> None:
    """Signal a workflow, with a payload that takes some room."""
    request = SignalWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        signal_name=name,
        input=Payloads(payloads=[Payload(data=bytes(FILL_BYTES))]),
    )
    service.SignalWorkflowExecution(request, timeout=TIMEOUT_S)


def send_without_end(service: WorkflowServiceStub, numbers: Iterator[int], told: list[str]) -> None:
    """Send signals until one fails; `told` gets the names of those before."""
    for number in numbers:
        send(service, "w", f"s{number}")
        told.append(f"s{number}")


def signals(service: WorkflowServiceStub, workflow_id: str) -> list[str]:
    """The names of the signals in a workflow's history."""
    request = GetWorkflowExecutionHistoryRequest(
        namespace="default", execution=WorkflowExecution(workflow_id=workflow_id)
    )
    names: list[str] = []
    while True:
        answer = service.GetWorkflowExecutionHistory(request, timeout=TIMEOUT_S)
        names += [
            event.workflow_execution_signaled_event_attributes.signal_name
            for event in answer.history.events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
        ]
        request.next_page_token = answer.next_page_token
        if not request.next_page_token:
            return names


def test_a_full_disk_ends_the_process_and_loses_nothing(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "odradek.db")
    told: list[str] = []
    numbers = itertools.count()
    for room in (4, 8):
        server.start(("bash", "-c", f'ulimit -f {room * STEP_BLOCKS}; exec "$0" "$@"'))
        with grpc.insecure_channel(server.address) as channel:
            service = WorkflowServiceStub(channel)
            start(service, "w")
            assert signals(service, "w") == told
            with pytest.raises(grpc.RpcError) as ended:
                send_without_end(service, numbers, told)
            assert ended.value.code() in ENDED, ended.value  # type: ignore[attr-defined]
        assert server.wait(TIMEOUT_S) == 1
        assert "the engine stopped" in server.output()
        assert "disk" in server.output(), server.output()
    assert len(told) > 50
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        service = WorkflowServiceStub(channel)
        found = signals(service, "w")
        # The last one had no answer: it may be there or not.
        assert found[: len(told)] == told
        send(service, "w", "last")
        assert signals(service, "w")[-1] == "last"
    assert server.stop() == 0


@pytest.fixture
def used(tmp_path: Path) -> ServerProcess:
    """A server that was killed, with a tail of the log after its last checkpoint."""
    server = ServerProcess(tmp_path / "odradek.db")
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        service = WorkflowServiceStub(channel)
        start(service, "w")
        for number in range(20):
            send(service, "w", f"s{number}")
    server.kill()
    return server


def refused(server: ServerProcess) -> str:
    """The sentence that the server ends with instead of starting."""
    server.log.write_text("")
    process = server.launch()
    try:
        assert process.wait(TIMEOUT_S) not in (0, -signal.SIGKILL)
    finally:
        server.kill()
    output = server.output()
    assert "Traceback" not in output, output
    return output.strip().splitlines()[-1]


def _damage_newest_batch(connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE log SET records = substr(records, 1, length(records) / 2) WHERE first = (SELECT max(first) FROM log)"
    )


def _lose_a_batch_of_the_tail(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM positions")
    connection.execute(
        "DELETE FROM log WHERE first = (SELECT first FROM log ORDER BY first LIMIT 1 OFFSET 3)"
    )


def _lose_the_newest_batches(connection: sqlite3.Connection) -> None:
    (end,) = connection.execute("SELECT count(*) FROM log").fetchone()
    connection.execute(
        "DELETE FROM log WHERE first IN (SELECT first FROM log ORDER BY first DESC LIMIT ?)", (end - 1,)
    )


def _damage_positions(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE positions SET position = x'ffff'")


def _damage_a_namespace(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE registry SET config = x'00'")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_damage_newest_batch, "a batch of the log is damaged"),
        (_lose_a_batch_of_the_tail, "the log lacks its records from"),
        (_lose_the_newest_batches, "before the checkpoint"),
        (_damage_positions, "the checkpoint is damaged"),
        (_damage_a_namespace, "a namespace's configuration is damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_advice(
    used: ServerProcess, damage: Callable[[sqlite3.Connection], None], words: str
) -> None:
    with closing(sqlite3.connect(used.path, isolation_level=None)) as connection:
        damage(connection)
    sentence = refused(used)
    assert words in sentence
    assert "Put a copy of the file in its place" in sentence


def test_a_record_of_an_unknown_type_is_refused_and_not_set_aside(used: ServerProcess) -> None:
    with closing(sqlite3.connect(used.path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM positions")
        first, records = connection.execute(
            "SELECT first, records FROM log ORDER BY first DESC LIMIT 1"
        ).fetchone()
        assert b"Call" in records
        connection.execute(
            "UPDATE log SET records = ? WHERE first = ?", (records.replace(b"Call", b"Cole"), first)
        )
    assert "'Cole'. If a newer release wrote the file, start that one" in refused(used)
    with closing(sqlite3.connect(used.path)) as connection:
        assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)


def test_a_damaged_row_of_a_run_ends_the_process_when_it_is_touched(used: ServerProcess) -> None:
    """The row may be what a later record needs: nothing is judged, nothing is set aside."""
    used.start()
    assert used.stop() == 0
    with closing(sqlite3.connect(used.path, isolation_level=None)) as connection:
        assert connection.execute("UPDATE state SET value = x'ff' WHERE kind = 'core'").rowcount
    used.start()
    with grpc.insecure_channel(used.address) as channel:
        with pytest.raises(grpc.RpcError) as ended:
            send(WorkflowServiceStub(channel), "w", "s")
        assert ended.value.code() in ENDED, ended.value  # type: ignore[attr-defined]
    assert used.wait(TIMEOUT_S) == 1
    assert "is damaged" in used.output()
    with closing(sqlite3.connect(used.path)) as connection:
        assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)


def test_a_file_damaged_by_others_is_refused(used: ServerProcess) -> None:
    used.start()
    assert used.stop() == 0
    with used.path.open("r+b") as file:
        file.seek(0)
        file.write(b"not a database!!")
    assert "is not an Odradek database file" in refused(used)


def test_a_file_of_a_newer_format_is_refused_and_stays_as_it_is(used: ServerProcess) -> None:
    with closing(sqlite3.connect(used.path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version={FORMAT + 1}")
    assert "use a newer release" in refused(used)
    with closing(sqlite3.connect(used.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT + 1,)


def test_a_file_in_use_is_refused_and_its_user_goes_on(used: ServerProcess) -> None:
    used.start()
    try:
        other = ServerProcess(used.path)
        other.log = used.path.with_suffix(".other.log")
        assert "is in use by another process" in refused(other)
        with grpc.insecure_channel(used.address) as channel:
            assert len(signals(WorkflowServiceStub(channel), "w")) == 20
        assert used.stop() == 0
    finally:
        used.kill()
