"""Commands that the server refuses: the workflow task fails, with a cause for each."""

from __future__ import annotations

from temporalio.api.command.v1 import Command

from ..commands import (
    activity,
    application_failure,
    bare,
    command,
    complete,
    payload,
    payloads,
    seconds,
    timer,
)
from ..registry import scenario
from ..world import World


async def _refused(w: World, name: str, *commands: Command) -> None:
    """Give the commands to a new workflow; record the answer and the two events after the first three.

    What comes later, of a command that is accepted after all, comes when it will.
    """
    queue = name.replace(" ", "-").replace("/", "-")
    await w.start(queue, queue=queue)
    accepted = await w.try_done(name, await w.task(queue), *commands)
    w.record(f"{name}: events", (await w.events(queue))[3:5])
    if accepted is not None:
        return
    described = await w.call("DescribeWorkflowExecution", execution=w.ex(queue))
    w.record(
        f"{name}: status", [described.workflow_execution_info.status, described.pending_workflow_task.attempt]
    )


_LONG = "x" * 1001


@scenario()
async def bad_activity_commands(w: World) -> None:
    q = w.id("act")
    bad = {
        "no activity id": activity("", queue=q),
        "no activity type": activity(queue=q, activity_type=None),
        "no activity queue": activity(queue=""),
        "reserved activity queue": activity(queue="/_sys/x/1"),
        "long activity id": activity(_LONG, queue=q),
        "long activity type": activity(queue=q, activity_type={"name": _LONG}),
        "long activity queue": activity(queue=_LONG),
        "no close timeout": activity(queue=q, timeout_s=None, schedule_to_start_timeout=seconds(5)),
        "negative start to close": activity(queue=q, start_to_close_timeout=seconds(-1)),
        "negative heartbeat": activity(queue=q, heartbeat_timeout=seconds(-1)),
        "negative schedule to start": activity(queue=q, schedule_to_start_timeout=seconds(-1)),
        "negative schedule to close": activity(queue=q, schedule_to_close_timeout=seconds(-1)),
        "bad retry policy": activity(queue=q, retry_policy={"maximum_attempts": -1}),
        "negative priority": activity(queue=q, priority={"priority_key": -1}),
        "no attributes": bare("SCHEDULE_ACTIVITY_TASK"),
        "cancel of nothing": command("REQUEST_CANCEL_ACTIVITY_TASK", scheduled_event_id=0),
        "cancel of unknown": command("REQUEST_CANCEL_ACTIVITY_TASK", scheduled_event_id=77),
        "cancel of no activity": command("REQUEST_CANCEL_ACTIVITY_TASK", scheduled_event_id=1),
    }
    for name, one in bad.items():
        await _refused(w, name, one)


@scenario()
async def bad_timer_and_marker_commands(w: World) -> None:
    bad = {
        "no timer id": timer(""),
        "long timer id": timer(_LONG),
        "negative timer": timer(timeout_s=-1),
        "no timer attributes": bare("START_TIMER"),
        "cancel without id": command("CANCEL_TIMER", timer_id=""),
        "cancel long id": command("CANCEL_TIMER", timer_id=_LONG),
        "cancel unknown": command("CANCEL_TIMER", timer_id="nobody"),
        "marker without name": command("RECORD_MARKER", marker_name=""),
        "long marker name": command("RECORD_MARKER", marker_name=_LONG),
        "no marker attributes": bare("RECORD_MARKER"),
    }
    for name, one in bad.items():
        await _refused(w, name, one)
    await _refused(w, "same timer twice", timer("t"), timer("t"))


@scenario()
async def bad_closing_commands(w: World) -> None:
    again = "CONTINUE_AS_NEW_WORKFLOW_EXECUTION"
    bad = {
        "fail without failure": command("FAIL_WORKFLOW_EXECUTION"),
        "fail without attributes": bare("FAIL_WORKFLOW_EXECUTION"),
        "complete without attributes": bare("COMPLETE_WORKFLOW_EXECUTION"),
        "cancel without attributes": bare("CANCEL_WORKFLOW_EXECUTION"),
        "continue long type": command(again, workflow_type={"name": _LONG}),
        "continue long queue": command(again, task_queue={"name": _LONG}),
        "continue negative run timeout": command(again, workflow_run_timeout=seconds(-1)),
        "continue negative task timeout": command(again, workflow_task_timeout=seconds(-1)),
        "continue negative backoff": command(again, backoff_start_interval=seconds(-1)),
        "continue bad retry": command(again, retry_policy={"maximum_attempts": -1}),
        "continue bad cron": command(again, cron_schedule="nonsense"),
        "continue unknown attribute": command(
            again, search_attributes={"indexed_fields": {"Nobody": payload("x")}}
        ),
        "continue without attributes": bare("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"),
    }
    for name, one in bad.items():
        await _refused(w, name, one)


@scenario()
async def bad_child_and_external_commands(w: World) -> None:
    child, signal, cancel = (
        "START_CHILD_WORKFLOW_EXECUTION",
        "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION",
        "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION",
    )
    kind = {"name": "Type"}
    bad = {
        "child without id": command(child, workflow_type=kind),
        "child without type": command(child, workflow_id=w.id("c")),
        "child long id": command(child, workflow_id=_LONG, workflow_type=kind),
        "child long type": command(child, workflow_id=w.id("c"), workflow_type={"name": _LONG}),
        "child negative timeout": command(
            child, workflow_id=w.id("c"), workflow_type=kind, workflow_run_timeout=seconds(-1)
        ),
        "child bad retry": command(
            child, workflow_id=w.id("c"), workflow_type=kind, retry_policy={"maximum_attempts": -1}
        ),
        "child bad cron": command(child, workflow_id=w.id("c"), workflow_type=kind, cron_schedule="nonsense"),
        "child unknown attribute": command(
            child,
            workflow_id=w.id("c"),
            workflow_type=kind,
            search_attributes={"indexed_fields": {"Nobody": payload("x")}},
        ),
        "child reserved queue": command(
            child, workflow_id=w.id("c"), workflow_type=kind, task_queue={"name": "/_sys/x/1"}
        ),
        "signal without execution": command(signal, signal_name="s"),
        "signal without id": command(signal, signal_name="s", execution={"run_id": ""}),
        "signal without name": command(signal, execution=w.ex("other")),
        "signal bad run id": command(signal, signal_name="s", execution=w.ex("other", "not-a-uuid")),
        "signal long name": command(signal, signal_name=_LONG, execution=w.ex("other")),
        "signal without attributes": bare("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION"),
        "cancel without id": command(cancel),
        "cancel bad run id": command(cancel, workflow_id=w.id("other"), run_id="not-a-uuid"),
        "cancel long id": command(cancel, workflow_id=_LONG),
        "cancel without attributes": bare("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION"),
    }
    for name, one in bad.items():
        await _refused(w, name, one)


@scenario()
async def bad_property_commands(w: World) -> None:
    upsert, modify = "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "MODIFY_WORKFLOW_PROPERTIES"
    bad = {
        "upsert nothing": command(upsert),
        "upsert empty": command(upsert, search_attributes={}),
        "upsert unknown": command(upsert, search_attributes={"indexed_fields": {"Nobody": payload("x")}}),
        "upsert system": command(upsert, search_attributes={"indexed_fields": {"WorkflowId": payload("x")}}),
        "upsert without attributes": bare("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES"),
        "modify nothing": command(modify),
        "modify empty": command(modify, upserted_memo={}),
        "modify without attributes": bare("MODIFY_WORKFLOW_PROPERTIES"),
        "unspecified": Command(command_type=0),
        "unknown type": Command(command_type=99),
        "attributes of another type": Command(
            command_type="COMMAND_TYPE_START_TIMER",
            record_marker_command_attributes={"marker_name": "marker"},
        ),
        "protocol message without id": command("PROTOCOL_MESSAGE"),
        "protocol message unknown": command("PROTOCOL_MESSAGE", message_id="nobody"),
    }
    for name, one in bad.items():
        await _refused(w, name, one)


@scenario()
async def bad_command_keeps_no_effects(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.try_done("answer", task, activity(queue=w.id("act")), timer("good"), timer("bad", -1), complete())
    await w.history()
    await w.describe()
    await w.no_task("act", method="PollActivityTaskQueue")


@scenario()
async def bad_command_repeated(w: World) -> None:
    """Refused again and again: from the second time on the task is left to time out."""
    await w.start(workflow_task_timeout=seconds(2))
    for attempt in range(1, 4):
        await w.try_done(f"attempt {attempt}", await w.task(), timer("bad", -1))
    await w.history()
    await w.step(complete())
    await w.history(record_as="at the end")


@scenario()
async def bad_command_with_buffered_signal(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.signal()
    await w.try_done("answer", task, timer("bad", -1))
    await w.history()


@scenario()
async def nexus(w: World) -> None:
    bad = {
        "schedule": command("SCHEDULE_NEXUS_OPERATION", endpoint="nowhere", service="service", operation="o"),
        "cancel": command("REQUEST_CANCEL_NEXUS_OPERATION", scheduled_event_id=77),
    }
    for name, one in bad.items():
        await _refused(w, name, one)


@scenario()
async def child_command_without_attributes(w: World) -> None:
    await _refused(w, "child", bare("START_CHILD_WORKFLOW_EXECUTION"))


@scenario()
async def failure_without_info(w: World) -> None:
    """A failure in a command, or of an activity, that is not an application failure."""
    await _refused(w, "fail bare", command("FAIL_WORKFLOW_EXECUTION", failure={"message": "bare"}))
    await _refused(
        w,
        "fail timeout",
        command(
            "FAIL_WORKFLOW_EXECUTION",
            failure={"message": "late", "timeout_failure_info": {"timeout_type": 1}},
        ),
    )
    await _refused(
        w,
        "fail with cause",
        command(
            "FAIL_WORKFLOW_EXECUTION",
            failure={**application_failure(details=payloads(1)), "cause": application_failure("inner")},
        ),
    )
