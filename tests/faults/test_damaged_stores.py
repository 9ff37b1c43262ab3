"""Bytes flipped in the file's stores of events and of rows for lists: reads that need them are told, and nothing ends.

Damage to the log or to the tables of processors ends the process instead, and so does a damaged page that has to be
written: see test_failures.py.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    ListWorkflowExecutionsRequest,
    PollWorkflowTaskQueueRequest,
    RegisterNamespaceRequest,
    ResetWorkflowExecutionRequest,
    RespondWorkflowTaskCompletedRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    WorkflowServiceStub,
)

from gateway.metrics import Registry
from gateway.server import Gateway
from gateway.service_metrics import ServiceMetrics
from streams.embedded import EmbeddedEngine
from streams.limits import Limits
from tests.api.sdk_environment import eventually

NAMESPACE = "default"
RUNS = 12
SIGNALS = 8
COMPLETED_EVENT_ID = SIGNALS + 4
PAGE_BYTES = 4096
STORES = (
    "history",
    "sqlite_autoindex_history_1",
    "visibility",
    "sqlite_autoindex_visibility_1",
    "visibility_by_close",
)
TOLD = (grpc.StatusCode.OK, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[WorkflowServiceStub]:
    """A gateway over the file. Fails if the engine did."""
    failures: list[BaseException] = []
    engine = EmbeddedEngine(path, on_failure=failures.append)
    await engine.start()
    try:
        gateway = Gateway(engine, engine.visibility_store, Limits(), ServiceMetrics(Registry(), "0"))
        port = await gateway.start("127.0.0.1:0")
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield WorkflowServiceStub(channel)
                await gateway.drain()
        finally:
            await gateway.stop()
    finally:
        await engine.stop()
    assert not failures


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose stores hold what is asked for: nothing of it is in memory after a start."""
    path = tmp_path_factory.mktemp("damage") / "odradek.db"
    asyncio.run(fill(path))
    return path


async def fill(path: Path) -> None:
    async with serving(path) as service:
        register = RegisterNamespaceRequest(namespace=NAMESPACE)
        register.workflow_execution_retention_period.seconds = 86_400
        await service.RegisterNamespace(register)
        for number in range(RUNS):
            start = StartWorkflowExecutionRequest(namespace=NAMESPACE, workflow_id=f"w{number}")
            start.workflow_type.name, start.task_queue.name = "type", f"q{number}"
            start.memo.fields["note"].data = b'"remember"'
            attribute = start.search_attributes.indexed_fields["BatcherUser"]
            attribute.metadata["encoding"], attribute.data = b"json/plain", b'"user"'
            await service.StartWorkflowExecution(start)
            for _ in range(SIGNALS):
                signal = SignalWorkflowExecutionRequest(namespace=NAMESPACE, signal_name="signal")
                signal.workflow_execution.workflow_id = f"w{number}"
                signal.input.payloads.add(data=b"x" * 100)
                await service.SignalWorkflowExecution(signal)
            poll = PollWorkflowTaskQueueRequest(namespace=NAMESPACE)
            poll.task_queue.name = f"q{number}"
            task = await service.PollWorkflowTaskQueue(poll, timeout=10)
            await service.RespondWorkflowTaskCompleted(
                RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token)
            )
            if number % 2:
                await service.TerminateWorkflowExecution(
                    TerminateWorkflowExecutionRequest(
                        namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id=f"w{number}")
                    )
                )
        await eventually(lambda: stored(service, path), True)


async def stored(service: WorkflowServiceStub, path: Path) -> bool:
    """Whether the stores were told of every event: those of an open run come a moment after they happened."""
    lengths = []
    for number in range(RUNS):
        execution = WorkflowExecution(workflow_id=f"w{number}")
        run = await service.DescribeWorkflowExecution(
            DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=execution)
        )
        lengths.append(run.workflow_execution_info.history_length)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT max(last_event_id) FROM history GROUP BY run_id").fetchall()
    return sorted(last for (last,) in rows) == sorted(lengths)


def pages(connection: sqlite3.Connection, tree: str) -> Iterator[int]:
    """The numbers of a tree's pages, but for overflow pages (SQLite's file format, section 1.6)."""
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (tree,)).fetchone()
    (path,) = [row[2] for row in connection.execute("PRAGMA database_list")]
    data = Path(path).read_bytes()
    waiting = [root]
    while waiting:
        number = waiting.pop()
        yield number
        page = data[(number - 1) * PAGE_BYTES : number * PAGE_BYTES]
        if page[0] in (2, 5):  # an interior page
            cells = int.from_bytes(page[3:5], "big")
            waiting.append(int.from_bytes(page[8:12], "big"))
            for cell in range(cells):
                at = int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big")
                waiting.append(int.from_bytes(page[at : at + 4], "big"))


def flip(path: Path, seed: int, trees: tuple[str, ...], bytes_flipped: int) -> None:
    """Flip bytes of the pages of `trees`."""
    chance = random.Random(seed)
    with closing(sqlite3.connect(path)) as connection:
        numbers = sorted({number for tree in trees for number in pages(connection, tree)})
    with path.open("r+b") as file:
        for _ in range(bytes_flipped):
            file.seek((chance.choice(numbers) - 1) * PAGE_BYTES + chance.randrange(PAGE_BYTES))
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes((byte ^ 1 << chance.randrange(8),)))


def calls(service: WorkflowServiceStub) -> Iterator[tuple[Callable[..., Any], Any]]:
    """Everything that reads the stores."""
    for query in ("", "WorkflowType = 'type'", "StartTime > '2020-01-01T00:00:00Z' ORDER BY StartTime"):
        yield service.ListWorkflowExecutions, ListWorkflowExecutionsRequest(namespace=NAMESPACE, query=query)
    yield service.CountWorkflowExecutions, CountWorkflowExecutionsRequest(namespace=NAMESPACE)
    for number in range(RUNS):
        execution = WorkflowExecution(workflow_id=f"w{number}")
        yield (
            service.GetWorkflowExecutionHistory,
            GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution),
        )
        yield (
            service.GetWorkflowExecutionHistoryReverse,
            GetWorkflowExecutionHistoryReverseRequest(namespace=NAMESPACE, execution=execution),
        )


async def told(call: Callable[..., Any], request: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await call(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def copied(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "odradek.db"))


async def test_flipped_bytes_of_the_stores_are_data_loss_and_never_the_end(
    filled: Path, tmp_path: Path
) -> None:
    answers = []
    for seed in range(12):
        path = copied(filled, tmp_path)
        flip(path, seed, STORES, bytes_flipped=40)
        async with serving(path) as service:
            for call, request in calls(service):
                code, sentence = await told(call, request)
                assert code in TOLD, (seed, type(request).__name__, code, sentence)
                assert (code is grpc.StatusCode.OK) == (not sentence)
                answers.append(code)
    assert answers.count(grpc.StatusCode.DATA_LOSS) > 12


async def test_damaged_events_harm_no_other_workflow(filled: Path, tmp_path: Path) -> None:
    path = copied(filled, tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (run_id,) = connection.execute("SELECT run_id FROM visibility WHERE workflow_id = 'w1'").fetchone()
        connection.execute(
            "UPDATE history SET events = substr(events, 1, length(events) - 1) WHERE run_id = ?", (run_id,)
        )
    async with serving(path) as service:
        for number, code in ((1, grpc.StatusCode.DATA_LOSS), (2, grpc.StatusCode.OK)):
            execution = WorkflowExecution(workflow_id=f"w{number}")
            read = GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution)
            reset = ResetWorkflowExecutionRequest(
                namespace=NAMESPACE,
                workflow_execution=execution,
                workflow_task_finish_event_id=COMPLETED_EVENT_ID,
                request_id="reset",
            )
            for call, request in (
                (service.GetWorkflowExecutionHistory, read),
                (service.ResetWorkflowExecution, reset),
            ):
                found, sentence = await told(call, request)
                assert found is code, sentence
                assert (run_id in sentence) == (number == 1)


async def test_damaged_row_is_told_by_its_run(filled: Path, tmp_path: Path) -> None:
    path = copied(filled, tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (run_id,) = connection.execute("SELECT run_id FROM visibility WHERE workflow_id = 'w1'").fetchone()
        connection.execute("UPDATE visibility SET memo = x'ff' WHERE run_id = ?", (run_id,))
    async with serving(path) as service:
        everything = ListWorkflowExecutionsRequest(namespace=NAMESPACE)
        code, sentence = await told(service.ListWorkflowExecutions, everything)
        assert code is grpc.StatusCode.DATA_LOSS
        assert run_id in sentence
        others = ListWorkflowExecutionsRequest(namespace=NAMESPACE, query="WorkflowId != 'w1'")
        assert (await told(service.ListWorkflowExecutions, others))[0] is grpc.StatusCode.OK


async def test_worker_is_told_of_damage_once_and_its_task_is_tried_later(
    filled: Path, tmp_path: Path
) -> None:
    """A task given back at once would come at once again, for ever."""
    path = copied(filled, tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE history SET events = x'ff' WHERE first_event_id = 1")
    async with serving(path) as service:
        signal = SignalWorkflowExecutionRequest(namespace=NAMESPACE, signal_name="signal")
        signal.workflow_execution.workflow_id = "w0"
        await service.SignalWorkflowExecution(signal)
        poll = PollWorkflowTaskQueueRequest(namespace=NAMESPACE)
        poll.task_queue.name = "q0"
        assert (await told(service.PollWorkflowTaskQueue, poll))[0] is grpc.StatusCode.DATA_LOSS
        assert await service.PollWorkflowTaskQueue(poll, timeout=3)
