"""Limits, on the server with the small limits of `servers.py`."""

from __future__ import annotations

from typing import Any

from temporalio.api.command.v1 import Command

from ..commands import (
    activity,
    application_failure,
    attribute,
    command,
    complete,
    payload,
    payloads,
    retry,
    seconds,
    timer,
)
from ..protocol import accepted, completed
from ..registry import scenario
from ..world import World
from .updates import ACCEPTED, answer, update

LARGE = "x" * 5000  # over the limit for one payload
WARNED = "x" * 3000  # over the warning, under the limit
LONG = "x" * 101  # over the limit for an id

tight = scenario(server="tight")


def update_request(arg: str, update_id: str) -> dict[str, Any]:
    """An update.v1.Request."""
    return {
        "meta": {"update_id": update_id, "identity": "updater"},
        "input": {"name": "change", "args": payloads(arg)},
    }


@tight
async def blob_start(w: World) -> None:
    await w.attempt("large input", w.start("large", input=payloads(LARGE)))
    await w.attempt("warned input", w.start("warned", input=payloads(WARNED)))
    await w.try_call(
        "signal-with-start, large signal",
        "SignalWithStartWorkflowExecution",
        workflow_id=w.id("signalled"),
        workflow_type={"name": "Type"},
        task_queue=w.queue(),
        signal_name="signal",
        signal_input=payloads(LARGE),
        request_id="request-1",
    )
    await w.attempt("large header", w.start("header", header={"fields": {"trace": payload(LARGE)}}))
    await w.attempt("large summary", w.start("summary", user_metadata={"summary": payload(LARGE)}))


@tight
async def blob_signal(w: World) -> None:
    await w.start()
    await w.attempt("large input", w.signal(input=payloads(LARGE)))
    await w.attempt("warned input", w.signal(input=payloads(WARNED)))
    await w.attempt("large header", w.signal(header={"fields": {"trace": payload(LARGE)}}))
    await w.attempt("terminate, large details", w.terminate(details=payloads(LARGE)))
    w.record("events", [event.event_type for event in await w.events()])


@tight
async def blob_query(w: World) -> None:
    await w.start()
    await w.step()
    large = {"query_type": "question", "query_args": payloads(LARGE)}
    await w.try_call("query", "QueryWorkflow", execution=w.ex(), query=large)


@tight
async def blob_command(w: World) -> None:
    large = {
        "complete": complete(LARGE),
        "fail": command("FAIL_WORKFLOW_EXECUTION", failure=application_failure(details=payloads(LARGE))),
        "cancel": command("CANCEL_WORKFLOW_EXECUTION", details=payloads(LARGE)),
        "activity": activity(queue=w.id("act"), input=payloads(LARGE)),
        "marker": command("RECORD_MARKER", marker_name="marker", details={"data": payloads(LARGE)}),
        "child": command(
            "START_CHILD_WORKFLOW_EXECUTION",
            workflow_id=w.id("child"),
            workflow_type={"name": "Child"},
            input=payloads(LARGE),
        ),
        "signal": command(
            "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION",
            execution=w.ex("other"),
            signal_name="s",
            input=payloads(LARGE),
        ),
        "continue": command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION", input=payloads(LARGE)),
        "memo": command("MODIFY_WORKFLOW_PROPERTIES", upserted_memo={"fields": {"note": payload(LARGE)}}),
        "warned": complete(WARNED),
    }
    for name, one in large.items():
        await w.start(name, queue=name)
        await w.try_done(name, await w.task(name), one)
        w.record(f"{name}: events", (await w.events(name))[3:])


@tight
async def blob_activity_result(w: World) -> None:
    async def started(name: str) -> Any:
        await w.start(name, queue=name)
        await w.step(activity(queue=w.id(f"{name}-act"), retry_policy=retry(1)), queue=name)
        return await w.activity(f"{name}-act")

    async def tried(name: str, method: str, **fields: Any) -> None:
        task = await started(name)
        await w.try_call(name, method, task_token=task.task_token, **fields)
        w.record(f"{name}: events", (await w.events(name))[5:])

    await tried("result", "RespondActivityTaskCompleted", result=payloads(LARGE))
    await tried("failure", "RespondActivityTaskFailed", failure=application_failure(details=payloads(LARGE)))
    await tried("message", "RespondActivityTaskFailed", failure=application_failure(LARGE))
    await tried("heartbeat", "RecordActivityTaskHeartbeat", details=payloads(LARGE))
    await tried("warned", "RespondActivityTaskCompleted", result=payloads(WARNED))


@tight
async def blob_query_result(w: World) -> None:
    await w.start()
    await w.step()
    query = w.later("query", "QueryWorkflow", execution=w.ex(), query={"query_type": "question"})
    task = await w.task()
    await w.try_call(
        "respond",
        "RespondQueryTaskCompleted",
        task_token=task.task_token,
        completed_type=1,
        query_result=payloads(LARGE),
    )
    await query


@tight
async def task_failure_size(w: World) -> None:
    """The failure of a workflow task that is too large."""
    await w.start()
    task = await w.task()
    await w.try_call(
        "respond",
        "RespondWorkflowTaskFailed",
        task_token=task.task_token,
        cause=1,
        failure=application_failure(LARGE),
    )
    await w.history()


@tight
async def memo(w: World) -> None:
    await w.attempt("large", w.start("large", memo={"fields": {"note": payload("x" * 2500)}}))
    await w.attempt(
        "many small", w.start("many", memo={"fields": {f"note{n}": payload("x" * 500) for n in range(5)}})
    )
    await w.attempt(
        "warned", w.start("warned", queue="warned", memo={"fields": {"note": payload("x" * 1500)}})
    )
    await w.start()
    upsert = command("MODIFY_WORKFLOW_PROPERTIES", upserted_memo={"fields": {"note": payload("x" * 2500)}})
    await w.try_done("modify", await w.task(), upsert)
    await w.history()


@scenario(server="tight", namespace="attributes")
async def search_attributes(w: World) -> None:
    cases = {
        "four keys": {
            "OracleInt": payload(1),
            "OracleBool": payload(True),
            "OracleDouble": payload(1.5),
            "OracleKeyword": payload("k"),
        },
        "large value": {"OracleKeyword": payload("x" * 120)},
        "large in total": {"OracleKeyword": payload("x" * 90), "OracleText": payload("y" * 90)},
        "within": {"OracleKeyword": payload("x" * 50), "OracleInt": attribute(1, "Int")},
    }
    for name, fields in cases.items():
        queue = name.replace(" ", "-")
        await w.attempt(
            f"start: {name}", w.start(queue, queue=queue, search_attributes={"indexed_fields": fields})
        )
        await w.start(f"{queue}-upsert", queue=f"{queue}-upsert")
        upsert = command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", search_attributes={"indexed_fields": fields})
        await w.try_done(f"upsert: {name}", await w.task(f"{queue}-upsert"), upsert)
        w.record(f"upsert: {name}: events", (await w.events(f"{queue}-upsert"))[3:])


@tight
async def id_lengths(w: World) -> None:
    await w.start()
    good = {
        "workflow_id": w.id("wf"),
        "workflow_type": {"name": "Type"},
        "task_queue": w.queue(),
        "request_id": "request-1",
    }
    execution = {"workflow_execution": w.ex()}
    requests: dict[str, tuple[str, dict[str, Any]]] = {
        "workflow id": ("StartWorkflowExecution", {**good, "workflow_id": LONG}),
        "workflow type": ("StartWorkflowExecution", {**good, "workflow_type": {"name": LONG}}),
        "task queue": ("StartWorkflowExecution", {**good, "task_queue": {"name": LONG}}),
        "request id": ("StartWorkflowExecution", {**good, "request_id": LONG}),
        "identity": ("StartWorkflowExecution", {**good, "identity": LONG}),
        "cron": ("StartWorkflowExecution", {**good, "cron_schedule": LONG}),
        "namespace": ("DescribeNamespace", {"namespace": LONG}),
        "register": (
            "RegisterNamespace",
            {"namespace": LONG, "workflow_execution_retention_period": seconds(86400)},
        ),
        "signal name": ("SignalWorkflowExecution", {**execution, "signal_name": LONG}),
        "signal request id": (
            "SignalWorkflowExecution",
            {**execution, "signal_name": "s", "request_id": LONG},
        ),
        "cancel request id": ("RequestCancelWorkflowExecution", {**execution, "request_id": LONG}),
        "cancel reason": ("RequestCancelWorkflowExecution", {**execution, "reason": LONG}),
        "terminate reason": ("TerminateWorkflowExecution", {**execution, "reason": LONG}),
        "query type": ("QueryWorkflow", {"execution": w.ex(), "query": {"query_type": LONG}}),
        "poll queue": ("PollWorkflowTaskQueue", {"task_queue": {"name": LONG}}),
        "poll identity": ("PollWorkflowTaskQueue", {"task_queue": w.queue(), "identity": LONG}),
        "describe": ("DescribeWorkflowExecution", {"execution": {"workflow_id": LONG}}),
        "history": ("GetWorkflowExecutionHistory", {"execution": {"workflow_id": LONG}}),
    }
    for name, (method, fields) in requests.items():
        if name == "query type":
            fields = {**fields, "limit_s": 3}
        await w.try_call(name, method, **fields)
    commands = {
        "activity id": activity(LONG, queue=w.id("act")),
        "activity type": activity(queue=w.id("act"), activity_type={"name": LONG}),
        "timer id": timer(LONG),
        "marker name": command("RECORD_MARKER", marker_name=LONG),
    }
    for name, one in commands.items():
        queue = name.replace(" ", "-")
        await w.start(queue, queue=queue)
        await w.try_done(name, await w.task(queue), one)
        w.record(f"{name}: events", (await w.events(queue))[3:])


@tight
async def history_count_suggest(w: World) -> None:
    await w.start()
    await w.step(*(command("RECORD_MARKER", marker_name=f"m{n}") for n in range(20)))
    await w.signal()
    task = await w.task()
    started = task.history.events[-1].workflow_task_started_event_attributes
    w.record("suggested", started)
    await w.done(task, complete())


@tight
async def history_size_suggest(w: World) -> None:
    await w.start()
    await w.step(
        *(command("RECORD_MARKER", marker_name=f"m{n}", details={"d": payloads(WARNED)}) for n in range(8))
    )
    await w.signal()
    task = await w.task()
    w.record("suggested", task.history.events[-1].workflow_task_started_event_attributes)
    await w.done(task, complete())


@tight
async def history_count_error(w: World) -> None:
    """Signals until the history is too long: the run is terminated by the server."""
    await w.start()
    for _ in range(6):
        await w.step(
            *(command("RECORD_MARKER", marker_name=f"m{n}") for n in range(6)),
            force_create_new_workflow_task=True,
        )
    await w.attempt(
        "one task more", w.step(*(command("RECORD_MARKER", marker_name=f"m{n}") for n in range(6)))
    )
    answer = await w.attempt_quietly("DescribeWorkflowExecution", execution=w.ex())
    w.record("status", answer.workflow_execution_info.status)
    w.record("last events", (await w.events())[-3:])
    await w.attempt("signal afterwards", w.signal())


@tight
async def history_size_error(w: World) -> None:
    """Tasks until the history is too large. With which of them is a matter of the server's own encoding."""
    await w.start()
    markers = [
        command("RECORD_MARKER", marker_name=f"m{n}", details={"d": payloads(WARNED)}) for n in range(4)
    ]
    for _ in range(8):
        described = await w.call("DescribeWorkflowExecution", execution=w.ex())
        if described.workflow_execution_info.status != 1:
            break
        task = await w.attempt_quietly("PollWorkflowTaskQueue", task_queue=w.queue(), limit_s=4)
        if not isinstance(task, dict) and task.task_token:
            await w.attempt_quietly(
                "RespondWorkflowTaskCompleted",
                task_token=task.task_token,
                commands=markers,
                force_create_new_workflow_task=True,
            )
    closed = await w.wait_closed()
    w.record("closed by", closed.workflow_execution_terminated_event_attributes)


async def _over(w: World, commands: list[Command]) -> None:
    """More commands than may be pending, in one task; then as many as may be."""
    await w.start("over", queue="over")
    await w.try_done("one too many", await w.task("over"), *commands)
    w.record("one too many: events", (await w.events("over"))[3:])
    await w.start("at", queue="at")
    await w.try_done("at the limit", await w.task("at"), *commands[:-1])
    w.record("at the limit: second part", [e.event_type for e in (await w.events("at"))[3:9]])


@tight
async def pending_activities(w: World) -> None:
    await _over(w, [activity(f"a{n}", queue=w.id("nobody")) for n in range(6)])


@tight
async def pending_children(w: World) -> None:
    await _over(
        w,
        [
            command(
                "START_CHILD_WORKFLOW_EXECUTION",
                workflow_id=w.id(f"child{n}"),
                workflow_type={"name": "Child"},
                task_queue=w.queue("nobody"),
            )
            for n in range(6)
        ],
    )


@tight
async def pending_signals(w: World) -> None:
    await w.start("over", queue="over")
    signals = [
        command("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION", execution=w.ex(f"nobody{n}"), signal_name="s")
        for n in range(6)
    ]
    await w.try_done("one too many", await w.task("over"), *signals)
    w.record("events", (await w.events("over"))[3:])


@tight
async def pending_cancels(w: World) -> None:
    await w.start("over", queue="over")
    cancels = [
        command("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION", workflow_id=w.id(f"nobody{n}"))
        for n in range(6)
    ]
    await w.try_done("one too many", await w.task("over"), *cancels)
    w.record("events", (await w.events("over"))[3:])


@tight
async def signals_per_run(w: World) -> None:
    await w.start()
    for number in range(10):
        await w.signal(f"signal {number}")
    await w.attempt("the eleventh", w.signal("too many"))
    await w.step(complete())
    w.record("signals", sum(event.event_type == 26 for event in await w.events()))


@tight
async def updates_in_flight(w: World) -> None:
    await w.start()
    await w.step()
    for update_id in ("u1", "u2"):
        request = update(w, update_id, update_id, stage=ACCEPTED)
        task = await w.task()
        await answer(w, task, accepted(task.messages[0]))
        await request
    await update(w, "third", "u3")
    await w.signal()
    await answer(w, await w.task(), completed("u1", 1), completed("u2", 2))
    await update(w, "first again", "u1")


@tight
async def updates_total(w: World) -> None:
    await w.start()
    await w.step()
    for number in range(4):
        request = update(w, f"update {number}", f"u{number}")
        task = await w.task()
        await answer(w, task, accepted(task.messages[0]), completed(f"u{number}", number))
        await request
    await update(w, "the fifth", "u4")
    await update(w, "an old id", "u1")
    await w.signal()
    task = await w.task()
    w.record("suggested", task.history.events[-1].workflow_task_started_event_attributes)


@tight
async def update_with_start(w: World) -> None:
    """Which of the operations an error is of."""
    large = {
        "start input": ({"input": payloads(LARGE)}, {}),
        "memo": ({"memo": {"fields": {"note": payload(LARGE)}}}, {}),
        "workflow id": ({"workflow_id": LONG}, {}),
        "update input": ({}, {"request": update_request(LARGE, "large")}),
        "update id": ({}, {"request": update_request("arg", LONG)}),
    }
    for number, (name, (start, change)) in enumerate(large.items()):
        started = {"workflow_id": w.id(f"wf{number}"), "request_id": "request-1", **start}
        await w.try_call(
            name,
            "ExecuteMultiOperation",
            operations=[
                {
                    "start_workflow": {
                        "namespace": w.namespace,
                        "workflow_type": {"name": "Type"},
                        "task_queue": w.queue(),
                        **started,
                    }
                },
                {
                    "update_workflow": {
                        "namespace": w.namespace,
                        "workflow_execution": {"workflow_id": started["workflow_id"]},
                        "wait_policy": {"lifecycle_stage": ACCEPTED},
                        "request": update_request("arg", "u1"),
                        **change,
                    }
                },
            ],
            limit_s=4,
        )


@tight
async def update_of_large(w: World) -> None:
    """Updates of a run whose history is too large already: what ends it, and what its callers are told."""
    for name in ("update", "multi"):
        await w.start(name, queue=name)
        markers = [
            command("RECORD_MARKER", marker_name=f"m{n}", details={"d": payloads(WARNED)}) for n in range(15)
        ]
        await w.step(*markers, queue=name)
    first = update(w, "update", workflow_execution=w.ex("update"))
    second = w.later(
        "update-with-start",
        "ExecuteMultiOperation",
        operations=[
            {
                "start_workflow": {
                    "namespace": w.namespace,
                    "workflow_id": w.id("multi"),
                    "workflow_type": {"name": "Type"},
                    "task_queue": w.queue("multi"),
                    "request_id": "request-1",
                    "workflow_id_conflict_policy": 2,
                }
            },
            {
                "update_workflow": {
                    "namespace": w.namespace,
                    "workflow_execution": w.ex("multi"),
                    "wait_policy": {"lifecycle_stage": 3},
                    "request": update_request("arg", "u1"),
                }
            },
        ],
    )
    for name in ("update", "multi"):
        task = await w.task(name)
        placed = (accepted(task.messages[0]), completed("u1", 1))
        await w.attempt(f"{name}: answer", answer(w, task, *placed))
    await first
    await second
    for name in ("update", "multi"):
        w.record(f"{name}: last events", (await w.events(name))[-3:])


@tight
async def links(w: World) -> None:
    def link(workflow_id: str) -> dict[str, Any]:
        return {
            "workflow_event": {
                "namespace": "elsewhere",
                "workflow_id": workflow_id,
                "run_id": "11111111-2222-4333-8444-555555555555",
                "event_ref": {"event_id": 1, "event_type": 1},
            }
        }

    await w.attempt("eleven", w.start("eleven", links=[link(f"wf{n}") for n in range(11)]))
    await w.attempt("ten", w.start("ten", links=[link(f"wf{n}") for n in range(10)]))
    await w.attempt("large", w.start("large", links=[link("x" * 5000)]))
    await w.attempt("empty", w.start("empty", links=[{}]))


@tight
async def activity_failure_truncated(w: World) -> None:
    """A failure kept between attempts is cut to what the state may hold."""
    await w.start()
    await w.step(activity(queue=w.id("act"), retry_policy=retry(5, initial_s=600)))
    task = await w.activity("act")
    failure = {
        **application_failure("m" * 1500),
        "stack_trace": "s" * 1500,
        "cause": application_failure("c" * 800),
    }
    await w.try_call("respond", "RespondActivityTaskFailed", task_token=task.task_token, failure=failure)
    described = await w.call("DescribeWorkflowExecution", execution=w.ex())
    kept = described.pending_activities[0].last_failure
    w.record("kept", [kept.message, kept.HasField("cause")])
