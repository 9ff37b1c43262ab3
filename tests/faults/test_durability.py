"""What clients were told, reads included, survives a crash that loses everything no commit has covered.

SIGKILL keeps the page cache, so files are copied after each commit returns, which is what a disk has at least
once SQLite has synchronised it. A crash hits a commit before it takes place: the engine goes on answering for a
while, as it may; then it is started again from the last copy.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, UpdateWorkflowExecutionLifecycleStage
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Acceptance, Input, Meta, Outcome, Request, Response, WaitPolicy
from temporalio.api.workflowservice.v1 import (
    GetSystemInfoRequest,
    GetWorkflowExecutionHistoryRequest,
    ListNamespacesRequest,
    ListWorkflowExecutionsRequest,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RegisterNamespaceRequest,
    RespondWorkflowTaskCompletedRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
    WorkflowServiceStub,
)

import streams.embedded
from gateway.metrics import Registry
from gateway.server import Gateway
from gateway.service_metrics import ServiceMetrics
from server.preparation import prepare
from server.settings import DevSettings
from streams.embedded import EmbeddedEngine
from streams.limits import Limits
from streams.runtime.database import Commit, Database

CRASHES = int(os.environ.get("ODRADEK_TEST_CRASHES", "8"))
NAMESPACE = "default"
QUEUE = "queue"
ROUND_TRIPS = 40
"""Calls answered in order on the clients' connection, between the crash and the end of what clients hear."""
COMPLETED_STAGE = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED


class CrashingDatabase(Database):
    """Copies its files after each commit, and crashes at the one that `commits_left` counts down to."""

    commits_left = 0
    copies: Path

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.crashed = threading.Event()
        self.released = threading.Event()
        self.on_crash: Callable[[], None] = lambda: None

    def commit(self, commit: Commit) -> None:
        """Commit and copy, or crash."""
        if self.commits_left <= 0:
            self.crashed.set()
            self.on_crash()
            self.released.wait()
            raise OSError("the machine crashed")
        self.commits_left -= 1
        super().commit(commit)
        copy(self.path, self.copies)


def copy(path: Path, to: Path) -> None:
    """Copy a database whose writer is at rest."""
    shutil.copyfile(path, to)
    log = path.with_name(path.name + "-wal")
    copied = to.with_name(to.name + "-wal")
    if log.exists():
        shutil.copyfile(log, copied)
    else:
        copied.unlink(missing_ok=True)


class Told:
    """What clients were told in all rounds."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        """Runs by workflow id, as start answered."""
        self.signals: set[tuple[str, str]] = set()
        """Workflow id and name of signals taken."""
        self.updates: set[tuple[str, str]] = set()
        """Workflow id and id of updates completed."""
        self.tasks: set[tuple[str, int]] = set()
        """Workflow id and started event of workflow tasks whose completion was taken."""
        self.histories: dict[str, list[bytes]] = {}
        """The longest history read, by workflow id."""
        self.listed: set[str] = set()
        self.namespaces: set[str] = set()


class Load:
    """Clients and a worker that note what they are told."""

    def __init__(self, service: WorkflowServiceStub, told: Told, chance: random.Random, number: int) -> None:
        self._service = service
        self._told = told
        self._chance = chance
        self._number = number

    def tasks(self) -> list[asyncio.Task[None]]:
        """Everything that makes calls, under way."""
        loops = [self._starts, self._signals, self._signals, self._reads, self._reads, *[self._updates] * 4]
        loops += [self._namespaces, self._lists, self._works, self._works]
        return [asyncio.create_task(_until_gone(loop)) for loop in loops]

    async def _starts(self) -> None:
        workflow_id = f"w-{self._number}-{len(self._told.runs)}"
        if len(self._told.runs) > 5 * (self._number + 1):
            await self._signals()
            return
        request = start_request(workflow_id)
        self._told.runs[workflow_id] = (await self._service.StartWorkflowExecution(request)).run_id

    async def _signals(self) -> None:
        workflow_id = await self._some_workflow()
        name = f"s-{self._number}-{self._chance.getrandbits(60)}"
        request = SignalWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            signal_name=name,
        )
        await self._service.SignalWorkflowExecution(request)
        self._told.signals.add((workflow_id, name))

    async def _updates(self) -> None:
        workflow_id = await self._some_workflow()
        update_id = f"u-{self._number}-{self._chance.getrandbits(60)}"
        request = UpdateWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            wait_policy=WaitPolicy(lifecycle_stage=COMPLETED_STAGE),
            request=Request(meta=Meta(update_id=update_id), input=Input(name="update")),
        )
        answer = await self._service.UpdateWorkflowExecution(request)
        if answer.HasField("outcome"):
            self._told.updates.add((workflow_id, update_id))

    async def _reads(self) -> None:
        workflow_id = await self._some_workflow()
        events = await read_history(self._service, workflow_id)
        if len(events) > len(self._told.histories.get(workflow_id, [])):
            self._told.histories[workflow_id] = [encoded(event) for event in events]

    async def _namespaces(self) -> None:
        name = f"n-{self._number}-{self._chance.getrandbits(60)}"
        if len(self._told.namespaces) < 40 * (self._number + 1):
            request = RegisterNamespaceRequest(
                namespace=name, workflow_execution_retention_period=Duration(seconds=86_400)
            )
            registering = asyncio.ensure_future(self._service.RegisterNamespace(request))
            self._told.namespaces.update(await namespaces(self._service))
            await registering
        self._told.namespaces.update(await namespaces(self._service))

    async def _lists(self) -> None:
        self._told.listed.update(await listed(self._service))

    async def _works(self) -> None:
        poll = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name=QUEUE))
        task = await self._service.PollWorkflowTaskQueue(poll, timeout=30)
        if not task.task_token:
            return
        await self._service.RespondWorkflowTaskCompleted(answered(task, self._chance))
        self._told.tasks.add((task.workflow_execution.workflow_id, task.started_event_id))

    async def _some_workflow(self) -> str:
        while not self._told.runs:
            await self._service.GetSystemInfo(GetSystemInfoRequest())
        return self._chance.choice(list(self._told.runs))


async def _until_gone(call: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            return


def start_request(workflow_id: str) -> StartWorkflowExecutionRequest:
    """A request to start a workflow, the same each time."""
    return StartWorkflowExecutionRequest(
        namespace=NAMESPACE,
        workflow_id=workflow_id,
        workflow_type=WorkflowType(name="type"),
        task_queue=TaskQueue(name=QUEUE),
        request_id=f"request of {workflow_id}",
        workflow_task_timeout=Duration(seconds=1),
    )


def answered(
    task: PollWorkflowTaskQueueResponse, chance: random.Random
) -> RespondWorkflowTaskCompletedRequest:
    """A worker's answer: it accepts and completes all updates, and starts a timer at times."""
    answer = RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token)
    for message in task.messages:
        request = Request()
        message.body.Unpack(request)
        acceptance = Acceptance(
            accepted_request_message_id=message.id,
            accepted_request_sequencing_event_id=message.event_id,
            accepted_request=request,
        )
        for id, body in (
            (f"{message.id}/accept", acceptance),
            (f"{message.id}/done", Response(meta=request.meta, outcome=Outcome(success={}))),
        ):
            answer.messages.add(id=id, protocol_instance_id=message.protocol_instance_id).body.Pack(body)
            command = answer.commands.add(command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
            command.protocol_message_command_attributes.message_id = id
    if chance.random() < 0.2:
        command = Command(command_type=CommandType.COMMAND_TYPE_START_TIMER)
        command.start_timer_command_attributes.timer_id = f"t{task.started_event_id}"
        command.start_timer_command_attributes.start_to_fire_timeout.seconds = 1
        answer.commands.append(command)
    return answer


async def read_history(service: WorkflowServiceStub, workflow_id: str) -> list[HistoryEvent]:
    """All events of a workflow's only run."""
    request = GetWorkflowExecutionHistoryRequest(
        namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id)
    )
    events: list[HistoryEvent] = []
    while True:
        answer = await service.GetWorkflowExecutionHistory(request)
        events += answer.history.events
        request.next_page_token = answer.next_page_token
        if not request.next_page_token:
            return events


async def listed(service: WorkflowServiceStub) -> set[str]:
    """The ids of all workflows that lists show."""
    request = ListWorkflowExecutionsRequest(namespace=NAMESPACE, page_size=1000)
    answer = await service.ListWorkflowExecutions(request)
    return {execution.execution.workflow_id for execution in answer.executions}


async def namespaces(service: WorkflowServiceStub) -> set[str]:
    """The names of all namespaces."""
    answer = await service.ListNamespaces(ListNamespacesRequest(page_size=1000))
    return {one.namespace_info.name for one in answer.namespaces}


def encoded(event: HistoryEvent) -> bytes:
    """An event to compare."""
    return event.SerializeToString(deterministic=True)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[tuple[EmbeddedEngine, WorkflowServiceStub]]:
    """An engine over the file with a gateway and a client. It may crash."""
    failures: list[BaseException] = []
    engine = EmbeddedEngine(path, on_failure=failures.append)
    await engine.start()
    gateway = Gateway(engine, engine.visibility_store, Limits(), ServiceMetrics(Registry(), "0"))
    port = await gateway.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield engine, WorkflowServiceStub(channel)
    finally:
        database = engine._database
        if isinstance(database, CrashingDatabase):
            database.released.set()
        await gateway.stop()
        await engine.stop()


async def check(service: WorkflowServiceStub, told: Told) -> None:
    """All that was told is so."""
    assert told.namespaces <= await namespaces(service)
    assert told.listed <= await listed(service)
    for workflow_id, run_id in told.runs.items():
        again = await service.StartWorkflowExecution(start_request(workflow_id))
        assert again.run_id == run_id, f"{workflow_id} was started again for the same request id"
    for workflow_id in told.runs:
        events = await read_history(service, workflow_id)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        seen = told.histories.get(workflow_id, [])
        assert [encoded(event) for event in events[: len(seen)]] == seen, f"{workflow_id} changed"
        signals = [
            event.workflow_execution_signaled_event_attributes.signal_name
            for event in events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
        ]
        assert len(signals) == len(set(signals)), f"a signal of {workflow_id} counts twice"
        updates = [
            event.workflow_execution_update_completed_event_attributes.meta.update_id
            for event in events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED
        ]
        assert len(updates) == len(set(updates)), f"an update of {workflow_id} counts twice"
        assert {name for id, name in told.updates if id == workflow_id} <= set(updates)
        tasks = {
            event.workflow_task_completed_event_attributes.started_event_id
            for event in events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
        }
        assert {started for id, started in told.tasks if id == workflow_id} <= tasks


async def check_signals(service: WorkflowServiceStub, told: Told) -> None:
    """All signals come into the histories, those included that wait for the end of a task of a lost worker."""
    for workflow_id in told.runs:
        names = {name for id, name in told.signals if id == workflow_id}
        request = GetWorkflowExecutionHistoryRequest(
            namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id), wait_new_event=True
        )
        while names:
            answer = await service.GetWorkflowExecutionHistory(request, timeout=10)
            assert answer.history.events, f"{workflow_id} lost {names}"
            for event in answer.history.events:
                names.discard(event.workflow_execution_signaled_event_attributes.signal_name)
            request.next_page_token = answer.next_page_token


async def crash_once(path: Path, copies: Path, told: Told, chance: random.Random, number: int) -> None:
    """Check what the last crash left in `path`, then put load on the engine until the next one."""
    copy(path, copies)
    CrashingDatabase.copies = copies
    CrashingDatabase.commits_left = 1_000_000
    async with served(path) as (engine, service):
        await check(service, told)
        loop, crashed = asyncio.get_running_loop(), asyncio.Event()
        database = engine._database
        assert isinstance(database, CrashingDatabase)
        database.on_crash = lambda: loop.call_soon_threadsafe(crashed.set) and None
        tasks = Load(service, told, chance, number).tasks()
        database.commits_left = chance.randint(5, 80)
        await crashed.wait()
        for _ in range(ROUND_TRIPS):
            await service.GetSystemInfo(GetSystemInfoRequest())
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def crash_often(folder: Path, crashes: int, seed: int) -> Told:
    """Crash again and again, each time on the files that the last crash left. Returns what was told."""
    told, chance = Told(), random.Random(seed)
    path, copies = folder / "0.db", folder / "1.db"
    engine = EmbeddedEngine(path, on_failure=lambda error: pytest.fail(str(error)))
    await engine.start()
    await prepare(engine, DevSettings(), Limits(), "gateway-0")
    await engine.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.embedded, "Database", CrashingDatabase)
        for number in range(crashes):
            await crash_once(path, copies, told, chance, number)
            for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                file.unlink(missing_ok=True)
            path, copies = copies, folder / f"{number + 2}.db"
    async with served(path) as (_, service):
        await check(service, told)
        await check_signals(service, told)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)
    return told


@pytest.mark.timeout(0 if CRASHES > 8 else 300)
async def test_what_clients_were_told_outlives_crashes(tmp_path: Path) -> None:
    told = await crash_often(tmp_path, CRASHES, seed=3)
    for found in (told.runs, told.signals, told.updates, told.tasks, told.histories, told.listed):
        assert len(found) >= CRASHES // 2, "the load was too thin to say anything"
    assert len(told.namespaces) > 1


async def test_answers_before_their_commit_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above sees an engine that does not wait for the commit."""
    fold = EmbeddedEngine._fold

    def answer_at_once(self: EmbeddedEngine, *args: object) -> None:
        fold(self, *args)  # type: ignore[arg-type]
        replies, self._replies = self._replies, []
        self._send(replies)

    monkeypatch.setattr(EmbeddedEngine, "_fold", answer_at_once)
    with pytest.raises((AssertionError, grpc.aio.AioRpcError)):
        await crash_often(tmp_path, CRASHES, seed=3)


def test_the_file_is_synchronised_on_every_commit(tmp_path: Path) -> None:
    database = Database(tmp_path / "odradek.db")
    try:
        (synchronous,) = database._writer.execute("PRAGMA synchronous").fetchone()
        (journal_mode,) = database._writer.execute("PRAGMA journal_mode").fetchone()
        assert (synchronous, journal_mode) == (2, "wal")  # 2 is FULL
    finally:
        database.close()
