"""Reset to an earlier workflow task."""

from __future__ import annotations

import uuid
from typing import Any

from ..commands import activity, command, complete, payloads, seconds, timer
from ..protocol import accepted, completed, protocol_request
from ..registry import scenario
from ..world import World
from .updates import answer, update


async def reset(
    w: World, record_as: str, event_id: int, workflow_id: str = "wf", run_id: str = "", **fields: Any
) -> Any:
    """Reset, recorded. Returns the response, None after an error."""
    fields.setdefault("request_id", str(uuid.uuid4()))
    return await w.try_call(
        record_as,
        "ResetWorkflowExecution",
        workflow_execution=w.ex(workflow_id, run_id),
        reason="because",
        workflow_task_finish_event_id=event_id,
        **fields,
    )


@scenario()
async def to_first_task(w: World) -> None:
    old = await w.start(input=payloads("in"))
    await w.step(timer("t1", 600))
    await w.signal()
    await w.step()
    await reset(w, "answer", 4, reset_reapply_type=2)
    await w.history(run_id=old.run_id, record_as="old run")
    await w.history(record_as="new run")
    task = await w.task(record_as="task")
    await w.done(task, complete())
    await w.history(record_as="new run at the end")
    await w.describe(run_id=old.run_id, record_as="old run described")
    await w.describe(record_as="new run described")


@scenario()
async def to_started_event(w: World) -> None:
    """The event id may be that of the started event, too."""
    await w.start()
    await w.step()
    await w.signal()
    await w.step()
    await reset(w, "started event", 3)
    await w.history()


@scenario()
async def to_middle(w: World) -> None:
    """What the copied part started is alive again: a timer fires, an activity is dispatched."""
    await w.start()
    await w.step(timer("t1", 5), activity("a1", queue=w.id("act"), timeout_s=60))
    await w.signal()
    await w.step(command("RECORD_MARKER", marker_name="undone"))
    events = await w.events()
    point = [e.event_id for e in events if e.event_type == 7][1]
    await reset(w, "answer", point, reset_reapply_type=2)
    await w.describe(record_as="new run")
    task = await w.task()
    await w.done(task)
    running = await w.activity("act", record_as="activity of the new run")
    await w.call("RespondActivityTaskCompleted", task_token=running.task_token)
    await w.step()
    await w.wait_event("TIMER_FIRED")
    events = await w.events()
    w.record(
        "up to the activity's end", events[: 1 + next(i for i, e in enumerate(events) if e.event_type == 12)]
    )


@scenario()
async def closed_run(w: World) -> None:
    old = await w.start()
    await w.step(complete("first"))
    await reset(w, "answer", 4, run_id=old.run_id)
    await w.history(run_id=old.run_id, record_as="old run")
    await w.step(complete("second"))
    await w.history(record_as="new run")


@scenario()
async def closed_run_not_latest(w: World) -> None:
    """Another run of the workflow id runs: it is the one that the reset terminates."""
    old = await w.start()
    await w.step(complete("first"))
    later = await w.start()
    await reset(w, "answer", 4, run_id=old.run_id)
    await w.history(run_id=later.run_id, record_as="the run between")
    await w.history(record_as="new run")


@scenario()
async def reapply_signals(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal("one", input=payloads(1))
    await w.step()
    await w.signal("two", input=payloads(2), request_id="request-2")
    await reset(w, "answer", 4)
    await w.history()
    await w.signal("two", request_id="request-2")
    w.record("events after the same request id", len(await w.events()))
    await w.task(record_as="task")


@scenario()
async def reapply_none(w: World) -> None:
    for name, fields in {
        "type none": {"reset_reapply_type": 2},
        "exclude signals": {"reset_reapply_exclude_types": [1]},
        "type signal": {"reset_reapply_type": 1},
    }.items():
        queue = name.replace(" ", "-")
        await w.start(queue, queue=queue)
        await w.step(queue=queue)
        await w.signal("one", queue)
        await reset(w, f"{name}: answer", 4, queue, **fields)
        w.record(f"{name}: events", (await w.events(queue))[3:])


@scenario()
async def reapply_cancel_and_terminate(w: World) -> None:
    """A cancel request after the point is not repeated."""
    old = await w.start()
    await w.step()
    await w.cancel()
    await w.terminate()
    await reset(w, "answer", 4, run_id=old.run_id)
    await w.history(record_as="new run")


@scenario()
async def reapply_updates(w: World) -> None:
    await w.start()
    await w.step()
    request = update(w, "update")
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), completed("u1", "old"))
    await request
    await reset(w, "answer", 4)
    await w.history(record_as="new run")
    # The update is not a message of this task: it stands in the history, as an admitted event.
    task = await w.task(record_as="task")
    (admitted,) = (e for e in task.history.events if e.event_type == 47)
    request = admitted.workflow_execution_update_admitted_event_attributes.request
    message = protocol_request(request, admitted.event_id)
    await answer(w, task, accepted(message), completed("u1", "new"))
    await update(w, "same update id")
    await w.history(record_as="new run at the end")


@scenario()
async def request_id_dedup(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal()
    await w.step()
    first = await reset(w, "first", 4, request_id="request-1")
    again = await reset(w, "again", 4, request_id="request-1")
    w.record("same run", first.run_id == again.run_id if again else None)
    other = await reset(w, "other", 4, request_id="request-2")
    w.record("another run", first.run_id != other.run_id)


@scenario()
async def pending_activity_at_point(w: World) -> None:
    """An activity that was started and retried before the point, and one that completes after it."""
    await w.start()
    await w.step(activity("a1", queue=w.id("act"), timeout_s=60))
    running = await w.activity("act")
    await w.signal()
    await w.step()
    point = [e.event_id for e in await w.events() if e.event_type == 7][1]
    await w.call("RespondActivityTaskCompleted", task_token=running.task_token, result=payloads("old"))
    await w.step()
    await reset(w, "answer", point, reset_reapply_type=2)
    await w.describe(record_as="new run")
    await w.history(record_as="new run's history")
    await w.try_call("old token", "RespondActivityTaskCompleted", task_token=running.task_token)
    again = await w.activity("act", record_as="activity again")
    await w.call("RespondActivityTaskCompleted", task_token=again.task_token, result=payloads("new"))


@scenario()
async def while_task_runs(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal()
    task = await w.task()
    await reset(w, "answer", 4, reset_reapply_type=2)
    await w.try_done("completion of the old task", task)
    await w.history(run_id=task.workflow_execution.run_id, record_as="old run")
    await w.step(complete())


@scenario()
async def failed_task_as_point(w: World) -> None:
    """The point may be a task that failed or timed out."""
    old = await w.start()
    task = await w.task()
    await w.call("RespondWorkflowTaskFailed", task_token=task.task_token, cause=1)
    await w.step(complete())
    await reset(w, "failed event", 4, run_id=old.run_id)
    await w.history(record_as="new run")


@scenario()
async def pending_child(w: World) -> None:
    await w.start()
    child = {"workflow_id": w.id("child"), "workflow_type": {"name": "Child"}, "task_queue": w.queue("child")}
    await w.step(command("START_CHILD_WORKFLOW_EXECUTION", **child))
    await w.step()
    await w.signal()
    await w.step()
    events = await w.events()
    tasks = [e.event_id for e in events if e.event_type == 7]
    await reset(w, "after the child's start", tasks[2])
    await w.describe(record_as="new run")
    await w.history(record_as="new run's history")


@scenario()
async def timeouts_of_new_run(w: World) -> None:
    """The new run's timeouts count from the reset."""
    await w.start(workflow_run_timeout=seconds(2))
    await w.step()
    await w.wait_closed()
    old = (await w.events())[0].workflow_execution_started_event_attributes.original_execution_run_id
    await reset(w, "answer", 4, run_id=old)
    await w.step()
    w.record("close", await w.wait_closed())


@scenario()
async def errors(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal()
    for name, event_id in {
        "no event id": 0,
        "first event": 1,
        "scheduled event": 2,
        "a signal": 5,
        "beyond the end": 99,
        "negative": -1,
    }.items():
        await reset(w, name, event_id)
    await reset(w, "unknown workflow", 4, "nobody")
    await reset(w, "wrong run", 4, run_id="11111111-2222-4333-8444-555555555555")
    await reset(w, "bad run", 4, run_id="not-a-uuid")
    await w.try_call("no execution", "ResetWorkflowExecution", workflow_task_finish_event_id=4)
    await reset(w, "no request id", 4, request_id="")
    await w.start("fresh", queue="fresh")
    await reset(w, "no completed task", 3, "fresh")
