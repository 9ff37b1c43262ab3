"""Commands that close or annotate a run."""

from __future__ import annotations

from ..commands import (
    NIL,
    activity,
    application_failure,
    attribute,
    command,
    complete,
    fail,
    payload,
    payloads,
    retry,
    seconds,
    timer,
)
from ..registry import scenario
from ..world import World

AGAIN = "CONTINUE_AS_NEW_WORKFLOW_EXECUTION"


@scenario()
async def complete_empty(w: World) -> None:
    await w.start()
    await w.step(complete())
    await w.history()
    await w.describe()


@scenario()
async def fail_with_causes(w: World) -> None:
    await w.start()
    failure = {
        **application_failure("outer", details=payloads("why", 2), category=1),
        "stack_trace": "line 1",
        "cause": {
            "message": "activity error",
            "activity_failure_info": {
                "scheduled_event_id": 5,
                "started_event_id": 6,
                "identity": "worker",
                "activity_type": {"name": "Activity"},
                "activity_id": "a1",
                "retry_state": 5,
            },
            "cause": application_failure("inner", "InnerError", non_retryable=True),
        },
    }
    await w.step(command("FAIL_WORKFLOW_EXECUTION", failure=failure))
    await w.history()
    await w.describe()


@scenario()
async def cancel(w: World) -> None:
    await w.start("asked", queue="asked")
    await w.cancel("asked", reason="enough")
    await w.step(command("CANCEL_WORKFLOW_EXECUTION", details=payloads("bye")), queue="asked")
    await w.history("asked")
    await w.describe("asked")
    await w.start("not asked", queue="not-asked")
    await w.try_done("not asked", await w.task("not-asked"), command("CANCEL_WORKFLOW_EXECUTION"))
    await w.history("not asked")


@scenario(namespace="attributes")
async def continue_as_new(w: World) -> None:
    first = await w.start(
        input=payloads("one"),
        memo={"fields": {"note": payload("old"), "kept": payload("k")}},
        search_attributes={"indexed_fields": {"OracleKeyword": payload("old")}},
        header={"fields": {"trace": payload("old")}},
        workflow_execution_timeout=seconds(3600),
        workflow_run_timeout=seconds(600),
        workflow_task_timeout=seconds(9),
        retry_policy=retry(3),
        priority={"priority_key": 2},
        user_metadata={"summary": payload("summary")},
    )
    await w.step(
        command(
            AGAIN,
            workflow_type={"name": "Other"},
            task_queue=w.queue("other"),
            input=payloads("two"),
            workflow_run_timeout=seconds(500),
            workflow_task_timeout=seconds(8),
            memo={"fields": {"note": payload("new")}},
            search_attributes={"indexed_fields": {"OracleInt": attribute(3, "Int")}},
            header={"fields": {"trace": payload("new")}},
            retry_policy=retry(4),
        )
    )
    await w.history(run_id=first.run_id, record_as="first run")
    await w.describe(run_id=first.run_id, record_as="first run described")
    await w.task("other")
    await w.history(record_as="second run")
    await w.describe(record_as="second run described")


@scenario()
async def continue_as_new_minimal(w: World) -> None:
    first = await w.start(
        input=payloads("one"),
        memo={"fields": {"note": payload("old")}},
        header={"fields": {"trace": payload("old")}},
        workflow_run_timeout=seconds(600),
        workflow_task_timeout=seconds(9),
        retry_policy=retry(3),
    )
    await w.step(command(AGAIN))
    await w.history(run_id=first.run_id, record_as="first run")
    await w.step(
        command(AGAIN, failure=application_failure(), last_completion_result=payloads("result"), initiator=2)
    )
    await w.task()
    await w.history(record_as="third run")
    await w.describe(record_as="third run described")


@scenario()
async def continue_as_new_backoff(w: World) -> None:
    first = await w.start()
    await w.step(command(AGAIN, backoff_start_interval=seconds(2)))
    await w.history(run_id=first.run_id, record_as="first run")
    await w.history(record_as="second run, waiting")
    await w.step(complete())
    await w.history(record_as="second run")


@scenario()
async def continue_as_new_at_once(w: World) -> None:
    """Runs that end within a second of their start: the server holds the next one back."""
    await w.start()
    backoffs = []
    for _ in range(3):
        await w.step(command(AGAIN))
        started = (await w.events())[0].workflow_execution_started_event_attributes
        backoffs.append(started.first_workflow_task_backoff.ToMilliseconds())
    w.record("held back", any(0 < backoff <= 1000 for backoff in backoffs))
    await w.terminate()


@scenario()
async def continue_as_new_carries_signal(w: World) -> None:
    first = await w.start()
    task = await w.task()
    await w.signal("seen by whom")
    await w.try_done("refused", task, command(AGAIN))
    task = await w.task(record_as="the same run again")
    await w.done(task, command(AGAIN))
    await w.history(run_id=first.run_id, record_as="first run")
    await w.task()
    await w.history(record_as="second run")


@scenario()
async def continue_as_new_cron_and_retry(w: World) -> None:
    """A run of a cron workflow that continues as new, and one under a retry policy that has been retried."""
    await w.start("retried", queue="retried", retry_policy=retry(5))
    await w.step(fail(), queue="retried")
    await w.step(command(AGAIN), queue="retried")
    await w.task("retried")
    await w.history("retried", record_as="after a retry")
    await w.start("cron", queue="cron", cron_schedule="@every 1s")
    await w.step(command(AGAIN), queue="cron")
    await w.history("cron", record_as="of a cron workflow")
    await w.terminate("cron")


@scenario()
async def markers(w: World) -> None:
    await w.start()
    await w.step(
        command("RECORD_MARKER", marker_name="plain"),
        command(
            "RECORD_MARKER",
            marker_name="full",
            details={"data": payloads(1), "other": payloads("x", "y")},
            header={"fields": {"trace": payload("abc")}},
            failure=application_failure(),
        ),
    )
    await w.no_task()
    await w.history()


@scenario(namespace="attributes")
async def upsert_search_attributes(w: World) -> None:
    await w.start(search_attributes={"indexed_fields": {"OracleKeyword": payload("start")}})

    async def upsert(**fields: object) -> None:
        await w.step(
            command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", search_attributes={"indexed_fields": fields}),
            force_create_new_workflow_task=True,
        )

    await upsert(OracleInt=attribute(5, "Int"), OracleKeywordList=payload(["a", "b"]))
    await w.describe(record_as="added")
    await upsert(OracleKeyword=payload("changed"), OracleBool=payload(True))
    await w.describe(record_as="changed")
    await upsert(OracleKeyword=NIL, OracleKeywordList=payload([]))
    await w.describe(record_as="unset")
    await w.history()
    query = f"WorkflowId = '{w.id('wf')}' AND OracleInt = 5 AND OracleKeyword IS NULL"
    rows = await w.until(
        lambda: w.call("ListWorkflowExecutions", query=query), lambda answer: answer.executions, "the row"
    )
    w.record("row", list(rows))


@scenario(namespace="attributes")
async def upsert_wrong_type(w: World) -> None:
    wrong = {
        "int": {"OracleInt": payload("five")},
        "bool": {"OracleBool": payload("yes")},
        "datetime": {"OracleDatetime": payload("yesterday")},
        "double": {"OracleDouble": payload("x")},
        "keyword": {"OracleKeyword": payload(7)},
        "typed wrong": {"OracleInt": attribute(5, "Text")},
        "list in keyword": {"OracleKeyword": payload(["a", "b"])},
    }
    for name, fields in wrong.items():
        queue = name.replace(" ", "-")
        await w.start(queue, queue=queue)
        upsert = command("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", search_attributes={"indexed_fields": fields})
        await w.try_done(name, await w.task(queue), upsert)
        w.record(f"{name}: events", (await w.events(queue))[3:])


@scenario()
async def modify_properties(w: World) -> None:
    await w.start(memo={"fields": {"kept": payload(1), "changed": payload(1), "removed": payload(1)}})
    memo = {"fields": {"changed": payload(2), "removed": NIL, "new": payload("n"), "never there": NIL}}
    await w.step(command("MODIFY_WORKFLOW_PROPERTIES", upserted_memo=memo))
    await w.history()
    await w.describe()


@scenario(namespace="attributes")
async def many_in_one_task(w: World) -> None:
    await w.start("other", queue="other")
    await w.start()
    await w.step(
        timer("t1", 600),
        activity("a1", queue=w.id("act")),
        command("RECORD_MARKER", marker_name="marker"),
        command(
            "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES",
            search_attributes={"indexed_fields": {"OracleKeyword": payload("k")}},
        ),
        command("MODIFY_WORKFLOW_PROPERTIES", upserted_memo={"fields": {"note": payload("n")}}),
        command("START_CHILD_WORKFLOW_EXECUTION", workflow_id=w.id("child"), workflow_type={"name": "Child"}),
        command("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION", execution=w.ex("nobody"), signal_name="s"),
        command("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION", workflow_id=w.id("nobody")),
        command("CANCEL_TIMER", timer_id="t1"),
        complete("done"),
    )
    w.record("history", (await w.events())[:14])


@scenario()
async def user_metadata(w: World) -> None:
    about = {"summary": payload("summary"), "details": payload("details")}
    await w.start()
    await w.step(
        timer("t1", 600, user_metadata=about),
        activity("a1", queue=w.id("act"), user_metadata=about),
        command("RECORD_MARKER", marker_name="marker", user_metadata=about),
        command(
            "START_CHILD_WORKFLOW_EXECUTION",
            user_metadata=about,
            workflow_id=w.id("child"),
            workflow_type={"name": "Child"},
            task_queue=w.queue("child"),
        ),
    )
    await w.task("child")
    w.record("initiating events", (await w.events())[4:8])
    await w.history("child")
    await w.describe("child")


@scenario()
async def close_with_pending_everything(w: World) -> None:
    """Closing drops what is pending and says so nowhere."""
    await w.start()
    await w.step(timer("t1", 600), activity("a1", queue=w.id("act")))
    await w.signal()
    await w.step(fail("enough"))
    await w.history()
    await w.describe()
