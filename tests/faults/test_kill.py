"""SIGKILL of the real server process under load of official SDK workers and clients.

ODRADEK_TEST_KILLS says how often; ODRADEK_TEST_SEED repeats a run as far as the moments of the kills go.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    ListWorkflowExecutionsRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    WorkflowServiceStub,
)
from temporalio.client import Client, WorkflowHistory, WorkflowUpdateFailedError
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from streams import avro
from streams.runtime.partition import DeadLetter
from tests.faults import workflows
from tests.faults.workflows import Child, Order, Progress
from tests.support.processes import ServerProcess

KILLS = int(os.environ.get("ODRADEK_TEST_KILLS", "8"))
SEED = int(os.environ.get("ODRADEK_TEST_SEED", "1"))
DRIVERS = 4
UP_S = (0.2, 3.5)
"""How long the server runs between kills, at least and at most."""
ROUND_TIMEOUT_S = 120
QUEUE = "kill"
AGAIN_S = 0.05
TIMER_GRAIN_MS = 2
"""Event times are cut to milliseconds, those of the start and of the end."""

Result = TypeVar("Result")


class Run:
    """What one workflow was asked and what its clients were told."""

    def __init__(self, workflow_id: str, continued: bool) -> None:
        self.workflow_id = workflow_id
        self.continued = continued
        self.first_run_ids: set[str] = set()
        self.taken: set[str] = set()
        """Signals that were accepted."""
        self.unclear: set[str] = set()
        """Signals sent once, without an answer."""
        self.updated: set[str] = set()
        self.rejected: set[str] = set()
        self.result: Progress | None = None


class Driver:
    """Starts workflows one after the other, sends them all sorts of things, and awaits their end."""

    def __init__(self, client: Client, service: WorkflowServiceStub, seed: str) -> None:
        self._client = client
        self._service = service
        self._chance = random.Random(seed)
        self._name = seed
        self.runs: list[Run] = []

    async def drive(self, stopping: asyncio.Event) -> None:
        """Go on until told to stop; the last workflow is seen to its end."""
        while not stopping.is_set():
            run = Run(f"order-{self._name}-{len(self.runs)}", continued=self._chance.random() < 0.3)
            self.runs.append(run)
            async with asyncio.timeout(ROUND_TIMEOUT_S):
                await self._one(run)

    async def _one(self, run: Run) -> None:
        await self._start(run)
        steps = [self._signal(run, f"signal-{number}") for number in range(self._chance.randint(2, 8))]
        if not run.continued:  # An update id counts for one run only, a request id as well.
            steps += [self._update(run, f"good-{number}") for number in range(self._chance.randint(1, 3))]
            steps += [self._update(run, f"bad-{number}") for number in range(self._chance.randint(0, 2))]
        self._chance.shuffle(steps)
        await asyncio.gather(*steps)
        handle = self._client.get_workflow_handle(run.workflow_id, result_type=Progress)
        await _until_answered(lambda: handle.signal(Order.finish))
        run.result = await _until_answered(handle.result)

    async def _start(self, run: Run) -> None:
        arguments = await DataConverter.default.encode([Progress(), 2 if run.continued else 0])
        request = StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id=run.workflow_id,
            workflow_type=WorkflowType(name="Order"),
            task_queue=TaskQueue(name=QUEUE),
            input=Payloads(payloads=arguments),
            request_id=f"start of {run.workflow_id}",
            workflow_task_timeout=Duration(seconds=2),
        )
        for _ in range(self._chance.choice((1, 1, 2))):
            answer = await _until_answered(lambda: self._service.StartWorkflowExecution(request, timeout=5))
            run.first_run_ids.add(answer.run_id)

    async def _signal(self, run: Run, name: str) -> None:
        request = SignalWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=WorkflowExecution(workflow_id=run.workflow_id),
            signal_name="note",
            input=Payloads(
                payloads=[Payload(metadata={"encoding": b"json/plain"}, data=f'"{name}"'.encode())]
            ),
            request_id=f"{run.workflow_id} {name}",
        )
        if run.continued:
            try:
                await self._service.SignalWorkflowExecution(request, timeout=5)
                run.taken.add(name)
            except grpc.aio.AioRpcError as error:
                _assert_away(error)
                run.unclear.add(name)
        else:
            await _until_answered(lambda: self._service.SignalWorkflowExecution(request, timeout=5))
            run.taken.add(name)

    async def _update(self, run: Run, name: str) -> None:
        handle = self._client.get_workflow_handle(run.workflow_id)
        try:
            await _until_answered(lambda: handle.execute_update(Order.add, name, id=f"id {name}"))
        except WorkflowUpdateFailedError:
            assert name.startswith("bad")
            run.rejected.add(name)
        else:
            run.updated.add(name)


async def _until_answered(call: Callable[[], Awaitable[Result]]) -> Result:
    """What a call answers, made as often as the server is away."""
    while True:
        try:
            return await call()
        except (RPCError, grpc.aio.AioRpcError) as error:
            _assert_away(error)
        await asyncio.sleep(AGAIN_S)


def _assert_away(error: Exception) -> None:
    """That an error is of a server that is gone, or of a call that it left unanswered."""
    if isinstance(error, grpc.aio.AioRpcError):
        away = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    else:
        assert isinstance(error, RPCError)
        codes = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
        # The SDK's own word for a connection that broke is UNKNOWN.
        away = error.status in codes or (
            error.status == RPCStatusCode.UNKNOWN and "transport error" in str(error).lower()
        )
    if not away:
        raise error


async def _kill_often(server: ServerProcess, chance: random.Random) -> None:
    """Kill the server at random moments, some of them while it starts, and start it again each time."""
    for _ in range(KILLS):
        if chance.random() < 0.2:
            server.kill()
            server.launch()
            await asyncio.sleep(chance.uniform(0, 0.9))
        else:
            await asyncio.sleep(chance.uniform(*UP_S))
        server.kill()
        await asyncio.to_thread(server.start)


@asynccontextmanager
async def _working(client: Client) -> AsyncIterator[None]:
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[Order, Child],
        activities=[workflows.work],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=20,  # few enough for replays
        graceful_shutdown_timeout=timedelta(seconds=5),
    )
    async with worker:
        yield


@pytest.mark.timeout(120 + 20 * KILLS)
async def test_nothing_accepted_is_lost_or_done_twice(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    server = ServerProcess(tmp_path / "odradek.db")
    server.start()
    workflows.executions.clear()
    try:
        client = await Client.connect(server.address)
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        async with grpc.aio.insecure_channel(server.address, options) as channel:
            service = WorkflowServiceStub(channel)
            drivers = [Driver(client, service, f"{SEED}-{number}") for number in range(DRIVERS)]
            stopping = asyncio.Event()
            async with _working(client):
                driving = [asyncio.create_task(driver.drive(stopping)) for driver in drivers]
                killing = asyncio.create_task(_kill_often(server, chance))
                done, _ = await asyncio.wait([*driving, killing], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                stopping.set()
                await asyncio.gather(*driving)
            runs = [run for driver in drivers for run in driver.runs]
            assert len(runs) >= KILLS
            for run in runs:
                await _check(client, service, run)
        doubled = {attempt: times for attempt, times in workflows.executions.items() if times > 1}
        assert not doubled, "attempts were executed more than once"
        assert server.stop() == 0, server.output()
    finally:
        server.kill()
    with closing(sqlite3.connect(server.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        letters = [
            avro.decode(DeadLetter, data) for (data,) in connection.execute("SELECT letter FROM dead_letters")
        ]
        assert not letters


async def _check(client: Client, service: WorkflowServiceStub, run: Run) -> None:
    """What the histories of a workflow's runs hold is what its clients were told."""
    assert len(run.first_run_ids) == 1, f"{run.workflow_id} was started again for the same request id"
    request = ListWorkflowExecutionsRequest(
        namespace="default", query=f"WorkflowId = '{run.workflow_id}' ORDER BY StartTime"
    )
    executions = (await service.ListWorkflowExecutions(request)).executions
    assert len(executions) == (3 if run.continued else 1)
    histories = []
    for execution in executions:
        handle = client.get_workflow_handle(run.workflow_id, run_id=execution.execution.run_id)
        histories.append(await handle.fetch_history())
    for history in histories:
        await _check_history(history)
    events = [event for history in histories for event in history.events]
    signals = Counter(
        event.workflow_execution_signaled_event_attributes.input.payloads[0].data.decode().strip('"')
        for event in events
        if event.workflow_execution_signaled_event_attributes.signal_name == "note"
    )
    assert run.taken <= signals.keys() <= run.taken | run.unclear
    assert set(signals.values()) <= {1}, f"signals of {run.workflow_id} count twice: {signals}"
    accepted = Counter(
        event.workflow_execution_update_accepted_event_attributes.protocol_instance_id
        for event in events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    )
    completed = Counter(
        event.workflow_execution_update_completed_event_attributes.meta.update_id
        for event in events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED
    )
    assert accepted == completed == Counter(f"id {name}" for name in run.updated)
    assert not any(name.encode() in event.SerializeToString() for name in run.rejected for event in events)
    result = run.result
    assert result is not None
    assert sorted(result.signals) == sorted(signals)
    assert sorted(result.updates) == sorted(run.updated)
    assert sorted(result.said) == [f"child-{number}" for number in range(len(histories))]


async def _check_history(history: WorkflowHistory) -> None:
    """It has no gap, ends once, can be replayed, and no timer fired early or twice."""
    events = list(history.events)
    assert [event.event_id for event in events] == list(range(1, len(events) + 1))
    timers = {
        event.timer_started_event_attributes.timer_id: event
        for event in events
        if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    }
    for event in events:
        if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED:
            started = timers.pop(event.timer_fired_event_attributes.timer_id)
            asked_ms = started.timer_started_event_attributes.start_to_fire_timeout.ToMilliseconds()
            assert _time_ms(event) - _time_ms(started) >= asked_ms - TIMER_GRAIN_MS
    replayer = Replayer(workflows=[Order, Child], workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(history)


def _time_ms(event: HistoryEvent) -> int:
    return event.event_time.ToMilliseconds()
