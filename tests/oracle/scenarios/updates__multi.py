"""Update-with-start, malformed protocol messages, updates on the official SDK."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.api.protocol.v1 import Message
from temporalio.client import WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from ..commands import complete, payloads, seconds
from ..protocol import accepted, completed, rejected
from ..registry import scenario
from ..world import Later, World
from .updates import answer, idle, update


def _multi(
    w: World, record_as: str, *, start: dict[str, Any] | None = None, change: dict[str, Any] | None = None
) -> Later:
    """ExecuteMultiOperation of a start and an update, with changed fields."""
    return w.later(record_as, "ExecuteMultiOperation", operations=_operations(w, start, change))


def _operations(
    w: World, start: dict[str, Any] | None, change: dict[str, Any] | None
) -> list[dict[str, Any]]:
    return [
        {
            "start_workflow": {
                "namespace": w.namespace,
                "workflow_id": w.id("wf"),
                "workflow_type": {"name": "Type"},
                "task_queue": w.queue(),
                "identity": "starter",
                "request_id": "request-1",
                **(start or {}),
            }
        },
        {
            "update_workflow": {
                "namespace": w.namespace,
                "workflow_execution": w.ex(),
                "wait_policy": {"lifecycle_stage": 3},
                "request": {
                    "meta": {"update_id": "u1", "identity": "updater"},
                    "input": {"name": "change", "args": payloads("arg")},
                },
                **(change or {}),
            }
        },
    ]


@scenario()
async def update_with_start_new(w: World) -> None:
    request = _multi(w, "answer", start={"input": payloads("in")})
    task = await w.task(record_as="first task")
    await answer(w, task, accepted(task.messages[0]), completed("u1", "out"))
    await request
    await w.history()


@scenario()
async def update_with_start_existing(w: World) -> None:
    await idle(w)
    existing = {"workflow_id_conflict_policy": 2, "request_id": "request-2"}
    request = _multi(w, "answer", start=existing)
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), completed("u1", "out"))
    await request
    await _multi(w, "again", start=existing)
    await w.signal()
    await w.step(complete())
    await _multi(w, "same update id after close", start=existing)
    await w.history()


@scenario()
async def update_with_start_rejected(w: World) -> None:
    """The workflow starts although its first update is rejected."""
    request = _multi(w, "answer")
    task = await w.task()
    await answer(w, task, rejected(task.messages[0]))
    await request
    await w.history()


@scenario()
async def update_with_start_terminate_existing(w: World) -> None:
    await idle(w)
    request = _multi(w, "answer", start={"workflow_id_conflict_policy": 3, "request_id": "request-2"})
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), completed("u1", "out"))
    await request
    await w.history()


@scenario()
async def update_with_start_errors(w: World) -> None:
    await w.start("running")
    running = {"workflow_id": w.id("running")}
    await _multi(
        w,
        "running, fail policy",
        start={**running, "workflow_id_conflict_policy": 1},
        change={"workflow_execution": w.ex("running")},
    )
    await _multi(w, "different ids", start={"workflow_id": w.id("other")})
    await _multi(w, "bad start", start={"workflow_type": None})
    await _multi(w, "bad update", change={"request": {"meta": {"update_id": "u1"}, "input": {}}})
    await _multi(w, "cron", start={"cron_schedule": "@every 1s"})
    await _multi(w, "delay", start={"workflow_start_delay": seconds(5)})
    await _multi(w, "eager", start={"request_eager_execution": True})
    await _multi(
        w, "run id", change={"workflow_execution": w.ex("wf", "11111111-2222-4333-8444-555555555555")}
    )
    await _multi(w, "first run id", change={"first_execution_run_id": "11111111-2222-4333-8444-555555555555"})
    start, change = _operations(w, None, None)
    shapes = {
        "none": [],
        "start only": [start],
        "update only": [change],
        "two starts": [start, start],
        "update first": [change, start],
        "three": [start, change, change],
        "empty ones": [{}, {}],
    }
    for name, operations in shapes.items():
        await w.try_call(name, "ExecuteMultiOperation", operations=operations)
    await _multi(w, "another namespace", start={"namespace": "elsewhere"})
    await w.try_call("nothing was started", "DescribeWorkflowExecution", execution=w.ex())


@scenario()
async def bad_messages(w: World) -> None:
    """Malformed answers of a worker, each to the update of a workflow of its own."""

    async def refused(name: str, make: Any) -> None:
        queue = name.replace(" ", "-")
        await w.start(queue, queue=queue)
        await w.step(queue=queue)
        request = update(w, f"{name}: update", workflow_execution=w.ex(queue))
        task = await w.task(queue)
        messages, commands = make(task.messages[0])
        await w.try_done(name, task, *commands, messages=messages)
        w.record(f"{name}: events", (await w.events(queue))[4:])
        request.cancel()

    def both(*placed: Any) -> tuple[list[Message], list[Any]]:
        return [one[0] for one in placed], [one[1] for one in placed]

    def without_body(message: Message) -> Any:
        made, place = accepted(message)
        made.ClearField("body")
        return [made], [place]

    def changed(message: Message, **fields: str) -> Any:
        made, place = accepted(message)
        for field, value in fields.items():
            setattr(made, field, value)
        return [made], [place]

    await refused("completed before accepted", lambda m: both(completed("u1", 1)))
    await refused("accepted twice", lambda m: both(accepted(m), accepted(m)))
    await refused("unknown update", lambda m: both(completed("nobody", 1)))
    await refused("no body", without_body)
    await refused("no instance id", lambda m: changed(m, protocol_instance_id=""))
    await refused("command without message", lambda m: ([], [accepted(m)[1]]))
    await refused("message without command", lambda m: ([accepted(m)[0]], []))
    await refused("rejected after accepted", lambda m: ([accepted(m)[0], rejected(m)], [accepted(m)[1]]))


@workflow.defn(name="Updated")
class Updated:
    def __init__(self) -> None:
        self.total = 0

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.total >= 10)
        return self.total

    @workflow.update
    async def add(self, amount: int) -> int:
        if amount == 13:
            raise ApplicationError("unlucky", type="Unlucky")
        await asyncio.sleep(0.1)
        self.total += amount
        return self.total

    @add.validator
    def check(self, amount: int) -> None:
        if amount < 0:
            raise ValueError("must not be negative")


async def _failed(w: World, name: str, call: Any) -> None:
    try:
        await call
    except WorkflowUpdateFailedError as error:
        w.record(name, [type(error.cause).__name__, str(error.cause)])


@scenario(sdk=True)
async def sdk_update(w: World) -> None:
    client = await w.client()
    async with w.worker([Updated]):
        handle = await client.start_workflow(Updated.run, id=w.id("wf"), task_queue=w.id("tq"))
        await w.wait_event("WORKFLOW_TASK_COMPLETED")
        w.record("first", await handle.execute_update(Updated.add, 4, id="u1"))
        await _failed(w, "rejected", handle.execute_update(Updated.add, -1, id="u2"))
        await _failed(w, "failed", handle.execute_update(Updated.add, 13, id="u3"))
        w.record("same id again", await handle.execute_update(Updated.add, 4, id="u1"))
        w.record("last", await handle.execute_update(Updated.add, 6, id="u4"))
        w.record("result", await handle.result())
    events = await w.events()
    w.record(
        "updates", [e for e in events if e.HasField("workflow_execution_update_accepted_event_attributes")]
    )


@scenario(sdk=True)
async def sdk_update_with_start(w: World) -> None:
    client = await w.client()
    async with w.worker([Updated]):
        for amount in (4, 6):
            start = WithStartWorkflowOperation(
                Updated.run,
                id=w.id("wf"),
                task_queue=w.id("tq"),
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
            result = await client.execute_update_with_start_workflow(
                Updated.add, amount, start_workflow_operation=start, id=f"u{amount}"
            )
            w.record(f"update {amount}", result)
        handle = await start.workflow_handle()
        w.record("result", await handle.result())
