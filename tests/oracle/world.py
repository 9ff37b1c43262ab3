"""What a scenario script has at hand: a server, names of its own, a hand-played worker and a recorder."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import status_pb2
from temporalio.api import errordetails  # noqa: F401  (registers the types of error details)
from temporalio.api.enums.v1 import EventType
from temporalio.api.errordetails.v1 import message_pb2  # noqa: F401
from temporalio.api.operatorservice.v1 import OperatorServiceStub
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_messages
from temporalio.api.workflowservice.v1 import WorkflowServiceStub
from temporalio.api.workflowservice.v1 import request_response_pb2 as workflow_messages
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from .normalise import Normaliser, unpack
from .registry import Scenario

IDENTITY = "oracle"
CALL_LIMIT_S = 30.0
POLL_LIMIT_S = 20.0


class Unexpected(AssertionError):
    """The server did something after which the script cannot go on."""


class World:
    """One run of one scenario. Ids made by `id` are unique to it and come out without their prefix."""

    def __init__(self, scenario: Scenario, channel: grpc.aio.Channel, address: str, namespace: str) -> None:
        self.prefix = f"{scenario.group}.{scenario.name}.{uuid.uuid4().hex[:10]}."
        self.address = address
        self.namespace = namespace
        self.channel = channel
        self._workflow_service = WorkflowServiceStub(channel)
        self._operator_service = OperatorServiceStub(channel)
        self._normaliser = Normaliser(self.prefix, sdk=scenario.sdk)
        self._recordings: list[tuple[str, Any]] = []
        self._client: Client | None = None

    # --- names

    def id(self, name: str) -> str:
        """A workflow id, queue or namespace of this run of the scenario, recorded as just `name`."""
        return self.prefix + name

    def ex(self, workflow: str = "wf", run_id: str = "") -> dict[str, str]:
        """A WorkflowExecution."""
        return {"workflow_id": self.id(workflow), "run_id": run_id}

    def queue(self, name: str = "tq") -> dict[str, str]:
        """A TaskQueue."""
        return {"name": self.id(name)}

    # --- calls

    async def call(self, method: str, **fields: Any) -> Any:
        """Call a method of either service by name; namespace and identity are filled in."""
        messages, service = self._find(method)
        request_type = getattr(messages, f"{method}Request")
        known = request_type.DESCRIPTOR.fields_by_name
        if "namespace" in known:
            fields.setdefault("namespace", self.namespace)
        if "identity" in known:
            fields.setdefault("identity", IDENTITY)
        limit_s = fields.pop("limit_s", CALL_LIMIT_S)
        return await getattr(service, method)(request_type(**fields), timeout=limit_s)

    def _find(self, method: str) -> tuple[Any, Any]:
        if hasattr(workflow_messages, f"{method}Request"):
            return workflow_messages, self._workflow_service
        return operator_messages, self._operator_service

    async def try_call(self, record_as: str, method: str, **fields: Any) -> Any:
        """Call and record what comes, response or error. Returns the response, None after an error."""
        return await self.attempt(record_as, self.call(method, **fields))

    async def attempt(self, record_as: str, call: Awaitable[Any]) -> Any:
        """Await and record a response or a gRPC error. Returns the response, None after an error."""
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            self.record(record_as, describe_error(error))
            return None
        self.record(record_as, response)
        return response

    def later(self, record_as: str, method: str, **fields: Any) -> Later:
        """Call without waiting. What comes is recorded when the result is awaited."""
        return Later(self, record_as, asyncio.create_task(self.call(method, **fields)))

    async def attempt_quietly(self, method: str, **fields: Any) -> Any:
        """Call without recording. Returns the response, or the described error as a dict."""
        try:
            return await self.call(method, **fields)
        except grpc.aio.AioRpcError as error:
            return describe_error(error)

    # --- recording

    def record(self, name: str, value: object) -> None:
        """Keep a message, or plain data with messages inside, under a name."""
        self._recordings.append((name, self._normaliser.plain(value)))

    def recording(self) -> Any:
        return self._normaliser.finish(self._recordings)

    async def history(
        self, workflow: str = "wf", run_id: str = "", *, record_as: str | None = None
    ) -> Message:
        """Record all events of a run (the latest by default), in the order of the history."""
        events = await self.events(workflow, run_id)
        name = record_as or f"history of {workflow}"
        self.record(name, events)
        return events

    async def events(self, workflow: str = "wf", run_id: str = "") -> Any:
        """All events of a run, not recorded."""
        events: list[Any] = []
        token = b""
        while True:
            page = await self.call(
                "GetWorkflowExecutionHistory", execution=self.ex(workflow, run_id), next_page_token=token
            )
            events += page.history.events
            token = page.next_page_token
            if not token:
                return events

    async def describe(self, workflow: str = "wf", run_id: str = "", *, record_as: str | None = None) -> Any:
        """Record the describe answer of a run."""
        answer = await self.call("DescribeWorkflowExecution", execution=self.ex(workflow, run_id))
        self.record(record_as or f"describe of {workflow}", answer)
        return answer

    # --- waiting

    async def wait_event(self, kind: str, workflow: str = "wf", run_id: str = "", *, count: int = 1) -> Any:
        """Long-poll a run's history until it has `count` events of a type. Returns the last of them."""
        wanted = EventType.Value(f"EVENT_TYPE_{kind}")
        return await self.until(
            lambda: self.events(workflow, run_id),
            lambda events: next((e for i, e in enumerate(_of(events, wanted), 1) if i == count), None),
            f"{count} × {kind} in {workflow}",
        )

    async def wait_closed(self, workflow: str = "wf", run_id: str = "") -> Any:
        """Wait for the close event of a run. Returns it."""
        page = await self.call(
            "GetWorkflowExecutionHistory",
            execution=self.ex(workflow, run_id),
            wait_new_event=True,
            history_event_filter_type=2,
        )
        if not page.history.events:
            raise Unexpected(f"{workflow} did not close")
        return page.history.events[-1]

    async def until(
        self,
        ask: Callable[[], Awaitable[Any]],
        accept: Callable[[Any], Any],
        what: str,
        *,
        limit_s: float = POLL_LIMIT_S,
    ) -> Any:
        """Ask again until `accept` returns something true, which is returned.

        For effects that no API call lets a client wait for: visibility, pollers, the server's own queues.
        """
        deadline = time.monotonic() + limit_s
        answer = None
        while time.monotonic() < deadline:
            try:
                answer = await ask()
                accepted = accept(answer)
            except grpc.aio.AioRpcError as error:
                answer, accepted = describe_error(error), None
            if accepted:
                return accepted
            await asyncio.sleep(0.1)
        raise Unexpected(f"waited in vain for {what}; last answer: {str(answer)[:500]}")

    # --- the hand-played worker

    async def start(self, workflow: str = "wf", *, queue: str = "tq", **fields: Any) -> Any:
        """Start a workflow of type "Type" with a request id of its own. Returns the response."""
        fields.setdefault("workflow_type", {"name": "Type"})
        fields.setdefault("request_id", str(uuid.uuid4()))
        return await self.call(
            "StartWorkflowExecution", workflow_id=self.id(workflow), task_queue=self.queue(queue), **fields
        )

    async def task(self, queue: str = "tq", *, record_as: str | None = None, **fields: Any) -> Any:
        """Poll until a workflow task comes."""
        task = await self._poll("PollWorkflowTaskQueue", {"task_queue": self.queue(queue), **fields})
        if record_as:
            self.record(record_as, task)
        return task

    async def activity(self, queue: str = "tq", *, record_as: str | None = None, **fields: Any) -> Any:
        """Poll until an activity task comes."""
        task = await self._poll("PollActivityTaskQueue", {"task_queue": self.queue(queue), **fields})
        if record_as:
            self.record(record_as, task)
        return task

    async def _poll(self, method: str, fields: dict[str, Any]) -> Any:
        try:
            task = await self.call(method, **fields, limit_s=POLL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        else:
            if task.task_token:
                return task
        raise Unexpected(f"{method}: no task within {POLL_LIMIT_S:g} s")

    async def no_task(
        self, queue: str = "tq", *, method: str = "PollWorkflowTaskQueue", limit_s: float = 3
    ) -> None:
        """Record that a short poll comes back empty. Under two seconds the real server refuses it."""
        try:
            task = await self.call(method, task_queue=self.queue(queue), limit_s=limit_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            task = None
        self.record(f"no task on {queue}", "empty" if task is None or not task.task_token else task)

    async def done(self, task: Any, *commands: Message, **fields: Any) -> Any:
        """Complete a workflow task with commands. Returns the response."""
        return await self.call(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=list(commands), **fields
        )

    async def try_done(self, record_as: str, task: Any, *commands: Message, **fields: Any) -> Any:
        """Complete a workflow task with commands and record the answer, response or error."""
        return await self.attempt(record_as, self.done(task, *commands, **fields))

    async def step(self, *commands: Message, queue: str = "tq", **fields: Any) -> Any:
        """Poll a workflow task and complete it with commands. Returns the task."""
        task = await self.task(queue)
        await self.done(task, *commands, **fields)
        return task

    async def act(self, result: Any = None, *, queue: str = "tq") -> Any:
        """Poll an activity task and complete it. Returns the task."""
        task = await self.activity(queue)
        await self.call("RespondActivityTaskCompleted", task_token=task.task_token, result=result)
        return task

    async def signal(self, name: str = "signal", workflow: str = "wf", **fields: Any) -> Any:
        """Signal a workflow."""
        fields.setdefault("request_id", str(uuid.uuid4()))
        fields.setdefault("workflow_execution", self.ex(workflow))
        return await self.call("SignalWorkflowExecution", signal_name=name, **fields)

    async def terminate(self, workflow: str = "wf", run_id: str = "", **fields: Any) -> Any:
        """Terminate a workflow."""
        return await self.call(
            "TerminateWorkflowExecution", workflow_execution=self.ex(workflow, run_id), **fields
        )

    async def cancel(self, workflow: str = "wf", run_id: str = "", **fields: Any) -> Any:
        """Request cancellation of a workflow."""
        fields.setdefault("request_id", str(uuid.uuid4()))
        return await self.call(
            "RequestCancelWorkflowExecution", workflow_execution=self.ex(workflow, run_id), **fields
        )

    # --- sticky queues

    def sticky_queue(self) -> dict[str, Any]:
        """The TaskQueue of the scenario's sticky queue, whose normal queue is "tq"."""
        return {"name": self.id("sticky"), "kind": 2, "normal_name": self.id("tq")}

    def sticky(self, timeout_s: float = 20) -> dict[str, Any]:
        """Sticky attributes for completing a workflow task."""
        return {
            "worker_task_queue": self.sticky_queue(),
            "schedule_to_start_timeout": timedelta(seconds=timeout_s),
        }

    async def sticky_poll(self) -> asyncio.Task[Any]:
        """Start waiting on the sticky queue: without a poller the real server does not send tasks there."""
        queue = self.sticky_queue()
        poll = asyncio.create_task(self.call("PollWorkflowTaskQueue", task_queue=queue, limit_s=POLL_LIMIT_S))
        await self.until(
            lambda: self.call("DescribeTaskQueue", task_queue=queue, task_queue_type=1),
            lambda answer: answer.pollers,
            "the sticky poller",
        )
        return poll

    # --- the official SDK

    async def client(self) -> Client:
        """An SDK client of the scenario's namespace."""
        if self._client is None:
            self._client = await Client.connect(self.address, namespace=self.namespace, identity="oracle-sdk")
        return self._client

    @contextlib.asynccontextmanager
    async def worker(
        self,
        workflows: Sequence[type] = (),
        activities: Sequence[Callable[..., Any]] = (),
        *,
        queue: str = "tq",
        **more: Any,
    ) -> AsyncIterator[Worker]:
        """An SDK worker on the scenario's queue, without the workflow sandbox."""
        worker = Worker(
            await self.client(),
            task_queue=self.id(queue),
            workflows=workflows,
            activities=activities,
            workflow_runner=UnsandboxedWorkflowRunner(),
            **more,
        )
        async with worker:
            yield worker


class Later:
    """A call under way; awaiting it records its response or error, and gives the response or None."""

    def __init__(self, world: World, record_as: str, call: asyncio.Task[Any]) -> None:
        self._world = world
        self._record_as = record_as
        self._call = call

    def __await__(self) -> Generator[Any, None, Any]:
        return self._world.attempt(self._record_as, self._call).__await__()

    def cancel(self) -> None:
        """Give the call up, unrecorded."""
        self._call.cancel()


def describe_error(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Code, message and decoded details of a gRPC error."""
    details: list[Any] = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status()
            status.ParseFromString(value if isinstance(value, bytes) else value.encode("latin-1"))
            details = [unpack(detail) or detail for detail in status.details]
    code, message = error.code(), error.details()
    if code is grpc.StatusCode.CANCELLED and "RST_STREAM" in (message or ""):
        code = grpc.StatusCode.DEADLINE_EXCEEDED  # how it looks when the server's deadline comes first
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = "<whoever noticed first, client or server>"
    described = [{"@type": d.DESCRIPTOR.full_name, "value": d} for d in details]
    return {"error": code.name, "message": message, "details": described}


def _of(events: Sequence[Any], kind: int) -> list[Any]:
    return [event for event in events if event.event_type == kind]
