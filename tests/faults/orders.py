"""A load of orders through official SDK clients, and a ledger of what they were told, while servers come and go."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import EventType, WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
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

from tests.faults import workflows
from tests.faults.workflows import Child, Order, Progress

DRIVERS = 4
ROUND_TIMEOUT_S = 180
AGAIN_S = 0.05
TIMER_GRAIN_MS = 2
"""Event times are cut to milliseconds, those of the start and of the end."""
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]

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

    def __init__(
        self, client: Client, service: WorkflowServiceStub, name: str, queue: str, ended: asyncio.Event
    ) -> None:
        """`ended` is set whenever a workflow has given its result."""
        self._client = client
        self._service = service
        self._chance = random.Random(name)
        self._name = name
        self._queue = queue
        self._ended = ended
        self.runs: list[Run] = []

    async def drive(self, stopping: asyncio.Event) -> None:
        """Go on until told to stop; the last workflow is seen to its end."""
        while not stopping.is_set():
            run = Run(f"order-{self._name}-{len(self.runs)}", continued=self._chance.random() < 0.3)
            self.runs.append(run)
            async with asyncio.timeout(ROUND_TIMEOUT_S):
                await self._one(run)
            self._ended.set()

    async def _one(self, run: Run) -> None:
        await self._start(run)
        steps = [self._signal(run, f"signal-{number}") for number in range(self._chance.randint(2, 8))]
        if not run.continued:  # An update id counts for one run only, a request id as well.
            steps += [self._update(run, f"good-{number}") for number in range(self._chance.randint(1, 3))]
            steps += [self._update(run, f"wrong-{number}") for number in range(self._chance.randint(0, 2))]
        self._chance.shuffle(steps)
        await asyncio.gather(*steps)
        handle = self._client.get_workflow_handle(run.workflow_id, result_type=Progress)
        await until_answered(lambda: handle.signal(Order.finish))
        run.result = await until_answered(handle.result)

    async def _start(self, run: Run) -> None:
        arguments = await DataConverter.default.encode([Progress(), 2 if run.continued else 0])
        request = StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id=run.workflow_id,
            workflow_type=WorkflowType(name="Order"),
            task_queue=TaskQueue(name=self._queue),
            input=Payloads(payloads=arguments),
            request_id=f"start of {run.workflow_id}",
            workflow_task_timeout=Duration(seconds=2),
        )
        for _ in range(self._chance.choice((1, 1, 2))):
            answer = await until_answered(lambda: self._service.StartWorkflowExecution(request, timeout=5))
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
                assert_away(error)
                run.unclear.add(name)
        else:
            await until_answered(lambda: self._service.SignalWorkflowExecution(request, timeout=5))
            run.taken.add(name)

    async def _update(self, run: Run, name: str) -> None:
        handle = self._client.get_workflow_handle(run.workflow_id)
        try:
            await until_answered(lambda: handle.execute_update(Order.add, name, id=f"id {name}"))
        except WorkflowUpdateFailedError:
            assert name.startswith("wrong")
            run.rejected.add(name)
        else:
            run.updated.add(name)


async def until_answered(call: Callable[[], Awaitable[Result]]) -> Result:
    """What a call answers, made as often as the server is away."""
    while True:
        try:
            return await call()
        except (RPCError, grpc.aio.AioRpcError) as error:
            assert_away(error)
        await asyncio.sleep(AGAIN_S)


def assert_away(error: Exception) -> None:
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


class Load:
    """Drivers at work. `finish` ends them and holds what they were told against what the server has."""

    def __init__(self, client: Client, service: WorkflowServiceStub, name: str, queue: str) -> None:
        self.client = client
        self.service = service
        self._moved = asyncio.Event()
        self._drivers = [
            Driver(client, service, f"{name}-{number}", queue, self._moved) for number in range(DRIVERS)
        ]
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.create_task(driver.drive(self._stopping)) for driver in self._drivers]

    @property
    def runs(self) -> list[Run]:
        """Every workflow begun."""
        return [run for driver in self._drivers for run in driver.runs]

    @property
    def ended(self) -> int:
        """How many workflows have given their result."""
        return sum(run.result is not None for run in self.runs)

    async def alongside(self, action: Awaitable[Result]) -> Result:
        """Do something meanwhile. Raises what a driver fails with, at once."""
        task = asyncio.ensure_future(action)
        await asyncio.wait([task, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            for driving in self._tasks:
                if driving.done():
                    driving.result()
        return task.result()

    async def until_ended(self, more: int) -> None:
        """Wait until so many more workflows have given their result."""
        wanted = self.ended + more

        async def wait() -> None:
            while self.ended < wanted:
                self._moved.clear()
                await self._moved.wait()

        await self.alongside(wait())

    async def finish(self) -> None:
        """See every workflow to its end, and check them all."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        for run in self.runs:
            await check_run(self.client, self.service, run)
        doubled = {attempt: times for attempt, times in workflows.executions.items() if times > 1}
        assert not doubled, "attempts were executed more than once"

    async def abandon(self) -> None:
        """End the drivers wherever they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def under_load(address: str, name: str) -> AsyncIterator[Load]:
    """Workflows under way inside, and all of them ended and checked afterwards."""
    workflows.executions.clear()
    queue = f"queue-{name}"
    client = await connected(address)
    async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel, working(address, queue):
        load = Load(client, WorkflowServiceStub(channel), name, queue)
        try:
            yield load
            await load.finish()
        finally:
            await load.abandon()


async def connected(address: str) -> Client:
    """An SDK client, as soon as somebody answers."""
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:  # the SDK's word for a server that does not answer
            await asyncio.sleep(AGAIN_S)


@asynccontextmanager
async def working(address: str, queue: str) -> AsyncIterator[None]:
    """A worker of orders, with a connection of its own."""
    worker = Worker(
        await connected(address),
        task_queue=queue,
        workflows=[Order, Child],
        activities=[workflows.work],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=20,  # few enough for replays
        graceful_shutdown_timeout=timedelta(seconds=5),
    )
    async with worker:
        yield


async def check_run(client: Client, service: WorkflowServiceStub, run: Run) -> None:
    """What the histories of a workflow's runs hold is what its clients were told."""
    assert len(run.first_run_ids) == 1, f"{run.workflow_id} was started again for the same request id"
    histories = []
    for execution in await _listed(service, run.workflow_id, 3 if run.continued else 1):
        handle = client.get_workflow_handle(run.workflow_id, run_id=execution.execution.run_id)
        histories.append(await until_answered(handle.fetch_history))
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


async def _listed(
    service: WorkflowServiceStub, workflow_id: str, count: int
) -> Sequence[WorkflowExecutionInfo]:
    """The runs of a workflow, all closed, once lists show them so: they may come after the answers to callers."""
    request = ListWorkflowExecutionsRequest(
        namespace="default", query=f"WorkflowId = '{workflow_id}' ORDER BY StartTime"
    )
    running = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING
    async with asyncio.timeout(ROUND_TIMEOUT_S):
        while True:
            answer: Any = await until_answered(lambda: service.ListWorkflowExecutions(request, timeout=5))
            executions: Sequence[WorkflowExecutionInfo] = answer.executions
            assert len(executions) <= count, f"{workflow_id} has {len(executions)} runs"
            if len(executions) == count and all(one.status != running for one in executions):
                return executions
            await asyncio.sleep(AGAIN_S)


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
