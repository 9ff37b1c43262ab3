"""Activities: cancellation, completion by id, answers that come too late."""

from __future__ import annotations

from ..commands import activity, application_failure, command, complete, payloads, retry, seconds
from ..registry import scenario
from ..world import World
from .activities import fail_activity


def _cancel(scheduled_event_id: int) -> object:
    return command("REQUEST_CANCEL_ACTIVITY_TASK", scheduled_event_id=scheduled_event_id)


async def _started(w: World, **fields: object) -> object:
    """A workflow with one running activity, scheduled by event 5. Returns its task."""
    await w.start()
    await w.step(activity(queue=w.id("act"), **fields))
    return await w.activity("act")


async def _cancel_requested(w: World, **fields: object) -> object:
    """As `_started`, with a cancel request written."""
    task = await _started(w, **fields)
    await w.signal()
    await w.step(_cancel(5))
    return task


@scenario()
async def heartbeat_answer(w: World) -> None:
    task = await _started(w, heartbeat_timeout=seconds(20))
    await w.try_call("before", "RecordActivityTaskHeartbeat", task_token=task.task_token)
    await w.signal()
    await w.step(_cancel(5))
    await w.try_call("after", "RecordActivityTaskHeartbeat", task_token=task.task_token)
    await w.try_call(
        "by id",
        "RecordActivityTaskHeartbeatById",
        workflow_id=w.id("wf"),
        activity_id="a1",
        details=payloads(1),
    )
    await w.describe()
    await w.history()


@scenario()
async def cancel_before_start(w: World) -> None:
    await w.start("same", queue="same")
    await w.try_done("same task", await w.task("same"), activity(queue=w.id("nobody")), _cancel(5))
    await w.history("same")
    await w.start("later", queue="later")
    await w.step(activity(queue=w.id("nobody")), queue="later")
    await w.signal(workflow="later")
    await w.step(_cancel(5), queue="later")
    await w.history("later")
    await w.no_task("nobody", method="PollActivityTaskQueue")


@scenario()
async def cancel_running_canceled(w: World) -> None:
    task = await _cancel_requested(w)
    await w.describe(record_as="cancel requested")
    await w.try_call(
        "answer", "RespondActivityTaskCanceled", task_token=task.task_token, details=payloads("cleaned up")
    )
    await w.history()


@scenario()
async def cancel_running_completes(w: World) -> None:
    task = await _cancel_requested(w)
    await w.call("RespondActivityTaskCompleted", task_token=task.task_token, result=payloads("anyway"))
    await w.history()


@scenario()
async def cancel_running_fails(w: World) -> None:
    task = await _cancel_requested(w, retry_policy=retry(5))
    await fail_activity(w, task)
    await w.history()


@scenario()
async def cancel_running_times_out(w: World) -> None:
    await _cancel_requested(w, timeout_s=4, retry_policy=retry(5))
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await w.history()


@scenario()
async def cancel_twice(w: World) -> None:
    await _cancel_requested(w)
    await w.signal()
    await w.try_done("again", await w.task(), _cancel(5))
    await w.history()


@scenario()
async def cancel_unrequested(w: World) -> None:
    task = await _started(w)
    await w.try_call("answer", "RespondActivityTaskCanceled", task_token=task.task_token, details=payloads(1))
    await w.history()


@scenario()
async def cancel_between_attempts(w: World) -> None:
    task = await _started(w, retry_policy=retry(5, initial_s=600))
    await fail_activity(w, task)
    await w.signal()
    await w.step(_cancel(5))
    await w.history()
    await w.describe()


@scenario()
async def cancel_of_completed(w: World) -> None:
    task = await _started(w)
    await w.call("RespondActivityTaskCompleted", task_token=task.task_token)
    await w.try_done("answer", await w.task(), _cancel(5))
    await w.history()


@scenario()
async def by_id_complete(w: World) -> None:
    await _started(w)
    await w.try_call(
        "answer",
        "RespondActivityTaskCompletedById",
        workflow_id=w.id("wf"),
        activity_id="a1",
        result=payloads("by id"),
    )
    await w.history()


@scenario()
async def by_id_fail_heartbeat_cancel(w: World) -> None:
    await w.start()
    await w.step(*(activity(name, queue=w.id("act")) for name in ("fails", "beats", "cancels")))
    for _ in range(3):
        await w.activity("act")
    who = {"workflow_id": w.id("wf")}
    await w.try_call(
        "fail",
        "RespondActivityTaskFailedById",
        **who,
        activity_id="fails",
        failure=application_failure(non_retryable=True),
    )
    await w.try_call(
        "beat", "RecordActivityTaskHeartbeatById", **who, activity_id="beats", details=payloads(1)
    )
    await w.try_call("cancel unrequested", "RespondActivityTaskCanceledById", **who, activity_id="cancels")
    events = await w.events()
    scheduled = {e.activity_task_scheduled_event_attributes.activity_id: e.event_id for e in events}
    await w.step(_cancel(scheduled["cancels"]))
    await w.try_call(
        "cancel", "RespondActivityTaskCanceledById", **who, activity_id="cancels", details=payloads(2)
    )
    described = await w.call("DescribeWorkflowExecution", execution=w.ex())
    w.record("pending", list(described.pending_activities))


@scenario()
async def by_id_errors(w: World) -> None:
    await _started(w)
    methods = {
        "RespondActivityTaskCompletedById": {},
        "RespondActivityTaskFailedById": {"failure": application_failure()},
        "RespondActivityTaskCanceledById": {},
        "RecordActivityTaskHeartbeatById": {},
    }
    cases = {
        "unknown workflow": {"workflow_id": w.id("nobody"), "activity_id": "a1"},
        "unknown activity": {"workflow_id": w.id("wf"), "activity_id": "nobody"},
        "unknown run": {
            "workflow_id": w.id("wf"),
            "run_id": "11111111-2222-4333-8444-555555555555",
            "activity_id": "a1",
        },
        "bad run": {"workflow_id": w.id("wf"), "run_id": "not-a-uuid", "activity_id": "a1"},
        "no activity": {"workflow_id": w.id("wf")},
        "no workflow": {"activity_id": "a1"},
    }
    for method, fields in methods.items():
        for name, case in cases.items():
            await w.try_call(f"{method}: {name}", method, **fields, **case)
    await w.history()


@scenario()
async def by_id_before_start(w: World) -> None:
    """Completion by id of an activity that no worker has taken."""
    await w.start()
    await w.step(activity(queue=w.id("nobody")))
    await w.try_call(
        "complete",
        "RespondActivityTaskCompletedById",
        workflow_id=w.id("wf"),
        activity_id="a1",
        result=payloads(1),
    )
    await w.try_call("beat", "RecordActivityTaskHeartbeatById", workflow_id=w.id("wf"), activity_id="a1")
    await w.history()


async def _everything_fails(w: World, token: bytes) -> None:
    await w.try_call("complete", "RespondActivityTaskCompleted", task_token=token)
    await w.try_call("fail", "RespondActivityTaskFailed", task_token=token, failure=application_failure())
    await w.try_call("cancel", "RespondActivityTaskCanceled", task_token=token)
    await w.try_call("heartbeat", "RecordActivityTaskHeartbeat", task_token=token)


@scenario()
async def complete_twice(w: World) -> None:
    task = await _started(w)
    await w.call("RespondActivityTaskCompleted", task_token=task.task_token)
    await _everything_fails(w, task.task_token)
    await w.history()


@scenario()
async def complete_after_timeout(w: World) -> None:
    task = await _started(w, timeout_s=1, retry_policy=retry(1))
    await w.wait_event("ACTIVITY_TASK_TIMED_OUT")
    await _everything_fails(w, task.task_token)
    await w.history()


@scenario()
async def complete_stale_attempt(w: World) -> None:
    first = await _started(w, retry_policy=retry(5))
    await fail_activity(w, first)
    second = await w.activity("act")
    await _everything_fails(w, first.task_token)
    await w.call("RespondActivityTaskCompleted", task_token=second.task_token)
    await w.history()


@scenario()
async def complete_between_attempts(w: World) -> None:
    first = await _started(w, retry_policy=retry(5, initial_s=600))
    await fail_activity(w, first)
    await _everything_fails(w, first.task_token)
    await w.history()


@scenario()
async def complete_after_close(w: World) -> None:
    task = await _started(w)
    await w.terminate()
    await _everything_fails(w, task.task_token)
    await w.history()


@scenario()
async def heartbeat_after_close(w: World) -> None:
    task = await _started(w, heartbeat_timeout=seconds(20))
    await w.signal()
    await w.step(complete())
    await w.try_call("by token", "RecordActivityTaskHeartbeat", task_token=task.task_token)
    await w.try_call("by id", "RecordActivityTaskHeartbeatById", workflow_id=w.id("wf"), activity_id="a1")
