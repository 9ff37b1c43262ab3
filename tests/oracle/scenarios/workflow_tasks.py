"""Workflow tasks: polls, failures, time-outs, buffered events, sticky queues, forced tasks."""

from __future__ import annotations

from typing import Any

from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from ..commands import (
    activity,
    application_failure,
    command,
    complete,
    fail,
    payload,
    payloads,
    seconds,
    timer,
)
from ..registry import scenario
from ..world import World

UNHANDLED_FAILURE = WorkflowTaskFailedCause.Value(
    "WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE"
)


async def _fail(w: World, task: object, message: str = "broken", cause: int = UNHANDLED_FAILURE) -> None:
    await w.call(
        "RespondWorkflowTaskFailed",
        task_token=task.task_token,
        cause=cause,
        failure=application_failure(message),
    )


@scenario()
async def poll_shape(w: World) -> None:
    await w.start(input=payloads("in"))
    first = await w.task(record_as="first task")
    await w.try_done("first answer", first)
    await w.signal(input=payloads(1))
    second = await w.task(record_as="second task")
    await w.try_done("second answer", second, complete())


@scenario()
async def fail_once(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.try_call(
        "answer",
        "RespondWorkflowTaskFailed",
        task_token=task.task_token,
        cause=UNHANDLED_FAILURE,
        failure=application_failure("broken"),
    )
    await w.history(record_as="after failure")
    await w.describe(record_as="described after failure")
    second = await w.task(record_as="second attempt")
    await w.history(record_as="during second attempt")
    await w.done(second, complete())
    await w.history(record_as="at the end")


@scenario()
async def transient(w: World) -> None:
    await w.start()
    for attempt in range(1, 4):
        task = await w.task(record_as=f"attempt {attempt}")
        await _fail(w, task, f"broken {attempt}")
        await w.history(record_as=f"after failure {attempt}")
    await w.describe(record_as="after three failures")
    task = await w.task(record_as="attempt 4")
    await w.describe(record_as="during attempt 4")
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def transient_with_signal(w: World) -> None:
    await w.start()
    for _ in range(2):
        await _fail(w, await w.task())
    await w.signal("while scheduled")
    await w.history(record_as="signalled while scheduled")
    task = await w.task(record_as="attempt 3")
    await w.signal("while started")
    await w.history(record_as="signalled while started")
    await _fail(w, task)
    await w.history(record_as="after failure 3")
    await w.done(await w.task(record_as="next attempt"), complete())
    await w.history(record_as="at the end")


@scenario()
async def fails_then_new_task_is_first_attempt(w: World) -> None:
    await w.start()
    await _fail(w, await w.task())
    await w.step()
    await w.signal()
    await _fail(w, await w.task())
    await w.step(complete())
    await w.history()


@scenario()
async def time_out(w: World) -> None:
    await w.start(workflow_task_timeout=seconds(1))
    await w.task()
    await w.wait_event("WORKFLOW_TASK_TIMED_OUT")
    await w.history(record_as="after time-out")
    task = await w.task(record_as="second attempt")
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def time_out_repeated(w: World) -> None:
    await w.start(workflow_task_timeout=seconds(1))
    for attempt in range(1, 4):
        task = await w.task()
        w.record(f"attempt {attempt}", task.attempt)
    await w.history(record_as="during attempt 3")
    task = await w.task()
    w.record("attempt 4", task)
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def late_completion(w: World) -> None:
    await w.start(workflow_task_timeout=seconds(1))
    task = await w.task()
    await w.wait_event("WORKFLOW_TASK_TIMED_OUT")
    await w.try_done("completed late", task, complete())
    await w.try_call(
        "failed late", "RespondWorkflowTaskFailed", task_token=task.task_token, cause=UNHANDLED_FAILURE
    )
    await w.history()


@scenario()
async def double_completion(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.try_done("first", task)
    await w.try_done("second", task)
    await w.try_call(
        "failed", "RespondWorkflowTaskFailed", task_token=task.task_token, cause=UNHANDLED_FAILURE
    )
    await w.history()


@scenario()
async def completion_after_close(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.terminate()
    await w.try_done("completed", task, complete())
    await w.try_call(
        "failed", "RespondWorkflowTaskFailed", task_token=task.task_token, cause=UNHANDLED_FAILURE
    )
    await w.history()


@scenario()
async def buffered_signals(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.signal("one")
    await w.signal("two", input=payloads(2))
    await w.history(record_as="while the task runs")
    await w.describe(record_as="described while the task runs")
    await w.done(task, timer(timeout_s=600))
    await w.history(record_as="after completion")
    await w.done(await w.task(record_as="next task"), complete())


@scenario()
async def buffered_signals_then_failure(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.signal("one")
    await _fail(w, task)
    await w.history(record_as="after failure")
    task = await w.task(record_as="next task")
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def buffered_activity_results(w: World) -> None:
    await w.start(workflow_task_timeout=seconds(60))
    await w.step(
        activity("completes", queue=w.id("completes")),
        activity(
            "times out",
            queue=w.id("nobody"),
            schedule_to_start_timeout=seconds(5),
            schedule_to_close_timeout=seconds(60),
        ),
        activity("fails", queue=w.id("fails"), retry_policy={"maximum_attempts": 1}),
    )
    completes = await w.activity("completes")
    fails = await w.activity("fails")
    await w.signal("wake up")
    task = await w.task()
    await w.call("RespondActivityTaskCompleted", task_token=completes.task_token, result=payloads("done"))
    await w.call("RespondActivityTaskFailed", task_token=fails.task_token, failure=application_failure())
    await w.until(
        lambda: w.call("DescribeWorkflowExecution", execution=w.ex()),
        lambda answer: not answer.pending_activities,
        "the buffered time-out",
    )
    await w.signal("last")
    await w.history(record_as="while the task runs")
    await w.done(task)
    await w.history(record_as="after completion")


@scenario()
async def buffered_started_event(w: World) -> None:
    """An activity that is only started while a task runs: its started event is written with its end."""
    await w.start()
    await w.step(activity(queue=w.id("act")))
    await w.signal("wake up")
    task = await w.task()
    started = await w.activity("act")
    await w.done(task)
    await w.history(record_as="started")
    await w.call("RespondActivityTaskCompleted", task_token=started.task_token)
    await w.history(record_as="completed")


@scenario()
async def unhandled_command(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.signal()
    await w.try_done("answer", task, complete())
    await w.history(record_as="after the refused completion")
    task = await w.task(record_as="next task")
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def unhandled_command_fail_and_cancel(w: World) -> None:
    closing = {
        "fail": fail(),
        "cancel": command("CANCEL_WORKFLOW_EXECUTION"),
        "continue": command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION", workflow_type={"name": "Type"}),
    }
    for name, closer in closing.items():
        await w.start(name, queue=name)
        task = await w.task(name)
        await w.signal(workflow=name)
        await w.try_done(f"{name}: answer", task, timer(timeout_s=600), closer)
        await w.history(name)


@scenario()
async def unhandled_command_after_activity_completion(w: World) -> None:
    """An activity that ends while the closing task runs is an unseen event too."""
    await w.start()
    await w.step(activity(queue=w.id("act")))
    started = await w.activity("act")
    await w.signal()
    task = await w.task()
    await w.call("RespondActivityTaskCompleted", task_token=started.task_token)
    await w.try_done("answer", task, complete())
    await w.history()


@scenario()
async def sticky(w: World) -> None:
    await w.start()
    task = await w.task()
    poll = await w.sticky_poll()
    await w.done(task, sticky_attributes=w.sticky())
    await w.signal()
    task = await poll
    w.record("sticky task", task)
    await w.history(record_as="started")
    await w.done(task, complete(), sticky_attributes=w.sticky())
    await w.history(record_as="at the end")


@scenario()
async def sticky_fallback(w: World) -> None:
    await w.start()
    task = await w.task()
    poll = await w.sticky_poll()
    await w.done(task, sticky_attributes=w.sticky(1))
    await w.signal("one")
    task = await poll
    await w.done(task, sticky_attributes=w.sticky(1))
    await w.signal("two")
    await w.wait_event("WORKFLOW_TASK_TIMED_OUT")
    await w.history(record_as="after the time-out")
    task = await w.task(record_as="task on the normal queue")
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def sticky_without_poller(w: World) -> None:
    """Nobody ever waited on the sticky queue: the task comes on the normal one, without a time-out event."""
    await w.start()
    await w.done(await w.task(), sticky_attributes=w.sticky(30))
    await w.signal()
    task = await w.task(record_as="task on the normal queue")
    await w.done(task, complete())
    await w.history()


@scenario()
async def sticky_fails(w: World) -> None:
    """A failed task leaves the sticky queue."""
    await w.start()
    task = await w.task()
    poll = await w.sticky_poll()
    await w.done(task, sticky_attributes=w.sticky())
    await w.signal()
    await _fail(w, await poll)
    await w.history(record_as="after failure")
    task = await w.task(record_as="task on the normal queue")
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def reset_sticky(w: World) -> None:
    await w.start()
    await w.done(await w.task(), sticky_attributes=w.sticky())
    await w.try_call("answer", "ResetStickyTaskQueue", execution=w.ex())
    await w.signal()
    task = await w.task(record_as="task on the normal queue")
    await w.done(task, complete())
    await w.history()


@scenario()
async def reset_sticky_errors(w: World) -> None:
    await w.try_call("unknown", "ResetStickyTaskQueue", execution=w.ex("nobody"))
    await w.try_call("no execution", "ResetStickyTaskQueue")
    await w.start()
    await w.try_call("never sticky", "ResetStickyTaskQueue", execution=w.ex())
    await w.step(complete())
    await w.try_call("closed", "ResetStickyTaskQueue", execution=w.ex())


@scenario()
async def force_new_task(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), force_create_new_workflow_task=True)
    await w.history(record_as="after the first")
    task = await w.task(record_as="second task")
    await w.done(task, complete())
    await w.history(record_as="at the end")


@scenario()
async def return_new_task(w: World) -> None:
    await w.start()
    task = await w.task()
    answer = await w.try_done(
        "forced", task, force_create_new_workflow_task=True, return_new_workflow_task=True
    )
    await w.signal()
    answer = await w.try_done("buffered signal", answer.workflow_task, return_new_workflow_task=True)
    await w.history(record_as="before the last")
    await w.try_done("last", answer.workflow_task, complete(), return_new_workflow_task=True)
    await w.history(record_as="at the end")


@scenario()
async def return_new_task_none(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), timer(timeout_s=600), return_new_workflow_task=True)
    await w.history()


@scenario()
async def empty_completion(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task())
    await w.no_task()
    await w.history()
    await w.describe()


@scenario()
async def causes(w: World) -> None:
    for cause in (0, 1, 10, UNHANDLED_FAILURE, *range(20, 36), 99):
        name = f"wf{cause}"
        await w.start(name, queue=name)
        task = await w.task(name)
        await w.try_call(
            f"cause {cause}",
            "RespondWorkflowTaskFailed",
            task_token=task.task_token,
            cause=cause,
            failure=application_failure(f"cause {cause}"),
        )
        await w.history(name)


@scenario()
async def bad_token(w: World) -> None:
    methods = (
        "RespondWorkflowTaskCompleted",
        "RespondWorkflowTaskFailed",
        "RespondQueryTaskCompleted",
        "RespondActivityTaskCompleted",
        "RespondActivityTaskFailed",
        "RespondActivityTaskCanceled",
        "RecordActivityTaskHeartbeat",
    )
    for method in methods:
        await w.try_call(f"{method}: empty", method, task_token=b"")
        await w.try_call(f"{method}: garbage", method, task_token=b"\xff\xfegarbage")


@scenario()
async def poll_validation(w: World) -> None:
    for method in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
        await w.try_call(f"{method}: no queue", method)
        await w.try_call(f"{method}: empty queue", method, task_queue={"name": ""})
        await w.try_call(f"{method}: long queue", method, task_queue={"name": "x" * 1001})
        await w.try_call(f"{method}: long identity", method, task_queue=w.queue(), identity="x" * 1001)
        await w.try_call(f"{method}: short deadline", method, task_queue=w.queue(), limit_s=1)
        await w.try_call(f"{method}: reserved queue", method, task_queue={"name": "/_sys/tq/x"})


@scenario()
async def history_paging_in_task(w: World) -> None:
    await w.start()
    await w.step(*(command("RECORD_MARKER", marker_name=f"marker {n}") for n in range(300)))
    await w.signal()
    task = await w.task()
    events = list(task.history.events)
    token = task.next_page_token
    while token:
        page = await w.call("GetWorkflowExecutionHistory", execution=w.ex(), next_page_token=token)
        events += page.history.events
        token = page.next_page_token
    w.record("ids in order", [event.event_id for event in events] == list(range(1, len(events) + 1)))
    w.record("last event", events[-1])
    w.record("count", len(events))


@scenario()
async def sdk_metadata(w: World) -> None:
    await w.start()
    await w.step(
        complete(),
        sdk_metadata={
            "core_used_flags": [1, 2],
            "lang_used_flags": [3],
            "sdk_name": "oracle",
            "sdk_version": "one",
        },
        metering_metadata={"nonfirst_local_activity_execution_attempts": 3},
        worker_version_stamp={"build_id": "build-1"},
        binary_checksum="",
    )
    await w.history()
    await w.describe()


@scenario()
async def binary_checksum(w: World) -> None:
    await w.start()
    task = await w.task(binary_checksum="build-1")
    await w.done(task, timer(timeout_s=600), binary_checksum="build-1")
    await w.history()
    await w.describe()


@scenario()
async def worker_versions(w: World) -> None:
    """What workers call their code, by each way in which a task starts and ends."""

    def polled(number: int) -> dict[str, Any]:
        return {"worker_version_capabilities": {"build_id": f"polled-{number}"}}

    def stamped(number: int) -> dict[str, str]:
        return {"build_id": f"stamped-{number}"}

    await w.start()
    task = await w.task(**polled(1))
    await w.call(
        "RespondWorkflowTaskFailed",
        task_token=task.task_token,
        cause=UNHANDLED_FAILURE,
        worker_version=stamped(1),
    )
    task = await w.task(record_as="second attempt", **polled(2))
    heartbeat = await w.done(
        task,
        worker_version_stamp=stamped(2),
        force_create_new_workflow_task=True,
        return_new_workflow_task=True,
    )
    await w.done(heartbeat.workflow_task, worker_version_stamp=stamped(3))
    for number, end in enumerate(("done", "failed"), 4):
        update = w.later(
            f"update {end}",
            "UpdateWorkflowExecution",
            workflow_execution=w.ex(),
            wait_policy={"lifecycle_stage": 3},
            request={"meta": {"update_id": f"u{number}"}, "input": {"name": "change"}},
        )
        task = await w.task(record_as=f"speculative task, {end}", **polled(number))
        if end == "failed":
            await w.call(
                "RespondWorkflowTaskFailed",
                task_token=task.task_token,
                cause=UNHANDLED_FAILURE,
                worker_version=stamped(number),
            )
            await w.terminate()
        else:
            await w.done(task, timer(timeout_s=600), worker_version_stamp=stamped(number))
        await update
    await w.history()


@scenario()
async def command_after_close(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), complete(), timer(timeout_s=600))
    await w.history(record_as="timer after completion")
    await w.terminate()
    await w.start("twice", queue="twice")
    await w.try_done("twice", await w.task("twice"), complete(1), complete(2))
    await w.history("twice")


@scenario()
async def user_data_in_failure(w: World) -> None:
    """The failure of a task with a cause chain and details is carried to its event as it was reported."""
    await w.start()
    task = await w.task()
    await w.call(
        "RespondWorkflowTaskFailed",
        task_token=task.task_token,
        cause=UNHANDLED_FAILURE,
        failure={
            **application_failure("outer", details=payloads("x")),
            "stack_trace": "line 1\nline 2",
            "encoded_attributes": payload({"message": "secret"}),
            "cause": application_failure("inner", "InnerError"),
        },
    )
    await w.history()


@scenario()
async def task_lost_at_close(w: World) -> None:
    """A task that nobody took is gone when the run closes."""
    await w.start()
    await w.terminate()
    await w.no_task()
    await w.history()
