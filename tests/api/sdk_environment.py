"""What the tests on the official Python SDK share: one client, one task queue, and ways to wait."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

WAIT_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True)
class SdkEnvironment:
    """A client and a task queue that no other test uses."""

    client: Client
    task_queue: str

    def worker(
        self,
        workflows: Sequence[type] = (),
        activities: Sequence[Callable[..., Any]] = (),
        **options: Any,
    ) -> Worker:
        """A worker of the test's task queue, to be used as an async context manager.

        Workflows run outside the sandbox, whose imports fail at random on CPython 3.11. Heartbeats reach the
        server at most 100 ms after the activity made them.
        """
        options.setdefault("task_queue", self.task_queue)
        return Worker(
            self.client,
            workflows=workflows,
            activities=activities,
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_heartbeat_throttle_interval=timedelta(milliseconds=100),
            **options,
        )

    async def start(self, workflow: Any, *args: Any, **options: Any) -> WorkflowHandle[Any, Any]:
        """Start a workflow on the test's task queue, under a new id unless `options` has one."""
        options.setdefault("id", self.new_id())
        return await self.client.start_workflow(workflow, args=args, task_queue=self.task_queue, **options)

    async def execute(self, workflow: Any, *args: Any, **options: Any) -> Any:
        """Start a workflow as `start` does and return its result."""
        return await (await self.start(workflow, *args, **options)).result()

    def new_id(self) -> str:
        return f"{self.task_queue}-{uuid.uuid4()}"


async def events_of(handle: WorkflowHandle[Any, Any]) -> list[HistoryEvent]:
    """All events of the handle's run."""
    return [event async for event in handle.fetch_history_events()]


async def event_types_of(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The types of all events of the handle's run, without their common prefix."""
    return [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in await events_of(handle)]


async def wait_for_event(
    handle: WorkflowHandle[Any, Any], event_type: "EventType.ValueType", nth: int = 1
) -> HistoryEvent:
    """The nth event of the given type, as soon as the run has it."""
    seen = 0
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        async for event in handle.fetch_history_events(wait_new_event=True):
            seen += event.event_type == event_type
            if seen == nth:
                return event
    raise AssertionError(f"{handle.id} closed with {seen} {EventType.Name(event_type)}, not {nth}")


async def eventually(
    probe: Callable[[], Awaitable[Any]], expected: Any, timeout_s: float = WAIT_TIMEOUT_S
) -> None:
    """Return once `probe` gives `expected`; fail with what it gave last after `timeout_s`.

    For what has no call that waits: visibility, which trails the workflow, and the description of a run.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while (last := await probe()) != expected:
        assert loop.time() < deadline_s, f"still {last!r} after {timeout_s} s, expected {expected!r}"
        await asyncio.sleep(POLL_INTERVAL_S)
