"""Starting workflows: fields, policies, validation."""

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
)
from ..registry import scenario
from ..world import World


@scenario()
async def minimal(w: World) -> None:
    w.record("started", await w.start())
    await w.task()
    await w.history()
    await w.describe()


@scenario(namespace="attributes")
async def all_fields(w: World) -> None:
    link = {
        "workflow_event": {
            "namespace": "elsewhere",
            "workflow_id": "linked",
            "run_id": "11111111-2222-4333-8444-555555555555",
            "event_ref": {"event_id": 5, "event_type": 1},
        }
    }
    answer = await w.start(
        input=payloads("in", 2),
        workflow_execution_timeout=seconds(3600),
        workflow_run_timeout=seconds(1800),
        workflow_task_timeout=seconds(7),
        request_id="request-1",
        memo={"fields": {"note": payload("remember"), "nothing": NIL}},
        search_attributes={
            "indexed_fields": {"OracleKeyword": payload("k"), "OracleInt": attribute(7, "Int")},
        },
        header={"fields": {"trace": payload("abc")}},
        retry_policy=retry(
            3, non_retryable_error_types=["Fatal"], maximum_interval=seconds(20), coefficient=1.5
        ),
        user_metadata={"summary": payload("summary"), "details": payload("details")},
        links=[link],
        priority={"priority_key": 2},
    )
    w.record("started", answer)
    await w.task(record_as="task")
    await w.history()
    await w.describe()
    rows = await w.until(
        lambda: w.call("ListWorkflowExecutions", query=f"WorkflowId = '{w.id('wf')}'"),
        lambda answer: answer.executions,
        "the row",
    )
    w.record("row", list(rows))


@scenario()
async def complete_with_result(w: World) -> None:
    await w.start(input=payloads("in"))
    task = await w.task(record_as="task")
    await w.try_done("answer", task, complete({"out": 1}))
    await w.history()
    await w.describe()


@scenario()
async def timeout_clamping(w: World) -> None:
    cases = {
        "run over execution": {
            "workflow_run_timeout": seconds(100),
            "workflow_execution_timeout": seconds(50),
        },
        "execution only": {"workflow_execution_timeout": seconds(50)},
        "task over maximum": {"workflow_task_timeout": seconds(500)},
        "task over run": {"workflow_task_timeout": seconds(60), "workflow_run_timeout": seconds(30)},
        "zeros": {"workflow_task_timeout": seconds(0), "workflow_run_timeout": seconds(0)},
    }
    for number, (name, fields) in enumerate(cases.items()):
        await w.start(f"wf{number}", **fields)
        await w.task()
        events = await w.events(f"wf{number}")
        w.record(name, events[0])
        answer = await w.call("DescribeWorkflowExecution", execution=w.ex(f"wf{number}"))
        w.record(f"{name}: config", answer.execution_config)


@scenario()
async def already_running(w: World) -> None:
    await w.start(request_id="request-1")
    await w.try_call(
        "default policies",
        "StartWorkflowExecution",
        workflow_id=w.id("wf"),
        task_queue=w.queue(),
        workflow_type={"name": "Type"},
        request_id="request-2",
    )
    await w.attempt("fail policy", w.start(workflow_id_conflict_policy=1, request_id="request-3"))
    await w.history()


@scenario()
async def request_id_dedup(w: World) -> None:
    w.record("first", await w.start(request_id="request-1"))
    w.record("again", await w.start(request_id="request-1"))
    await w.attempt("other", w.start(request_id="request-2"))
    await w.step(complete())
    await w.attempt("after close", w.start(request_id="request-1"))
    await w.attempt(
        "after close, reject duplicate", w.start(request_id="request-1", workflow_id_reuse_policy=3)
    )
    await w.attempt("other after close", w.start(request_id="request-3"))
    await w.history()


@scenario()
async def conflict_use_existing(w: World) -> None:
    w.record("first", await w.start(request_id="request-1"))
    w.record(
        "second",
        await w.start(request_id="request-2", workflow_id_conflict_policy=2, input=payloads("unused")),
    )
    await w.step()
    w.record("third", await w.start(request_id="request-3", workflow_id_conflict_policy=2))
    await w.history()


@scenario()
async def conflict_use_existing_options(w: World) -> None:
    link = {
        "workflow_event": {
            "namespace": "elsewhere",
            "workflow_id": "linked",
            "run_id": "11111111-2222-4333-8444-555555555555",
            "event_ref": {"event_id": 5, "event_type": 1},
        }
    }
    options = {"attach_request_id": True, "attach_links": True}
    await w.start(request_id="request-1")
    again = {"workflow_id_conflict_policy": 2, "on_conflict_options": options, "links": [link]}
    w.record("attached", await w.start(request_id="request-2", **again))
    w.record("attached again", await w.start(request_id="request-2", **again))
    w.record(
        "another",
        await w.start(request_id="request-3", workflow_id_conflict_policy=2, on_conflict_options=options),
    )
    await w.attempt(
        "attached id, fail policy", w.start(request_id="request-2", workflow_id_conflict_policy=1)
    )
    await w.attempt(
        "callbacks without request id",
        w.start(
            request_id="request-4",
            workflow_id_conflict_policy=2,
            on_conflict_options={"attach_completion_callbacks": True},
        ),
    )
    await w.step()
    await w.history()
    await w.describe()


@scenario()
async def conflict_terminate_existing(w: World) -> None:
    old = await w.start(request_id="request-1")
    new = await w.start(request_id="request-2", workflow_id_conflict_policy=3)
    w.record("new", new)
    w.record("same run", old.run_id == new.run_id)
    w.record("again", await w.start(request_id="request-2", workflow_id_conflict_policy=3))
    await w.history(run_id=old.run_id, record_as="old run")
    await w.step()
    await w.history(record_as="new run")
    await w.describe(run_id=old.run_id)


async def _closed(w: World, name: str, how: str) -> None:
    """Start and close a run in one of the five ways."""
    if how == "timed out":
        await w.start(name, queue=name, workflow_run_timeout=seconds(1))
        await w.wait_closed(name)
        return
    await w.start(name, queue=name)
    if how == "completed":
        await w.step(complete(), queue=name)
    elif how == "failed":
        await w.step(fail(), queue=name)
    elif how == "canceled":
        await w.cancel(name)
        await w.step(command("CANCEL_WORKFLOW_EXECUTION"), queue=name)
    elif how == "terminated":
        await w.terminate(name)


_CLOSES = ("completed", "failed", "canceled", "terminated", "timed out")


async def _reuse(w: World, policy: int) -> None:
    for number, how in enumerate(_CLOSES):
        await _closed(w, f"wf{number}", how)
        await w.attempt(f"after {how}", w.start(f"wf{number}", queue="new", workflow_id_reuse_policy=policy))


@scenario()
async def reuse_allow_duplicate(w: World) -> None:
    await _reuse(w, 1)


@scenario()
async def reuse_failed_only(w: World) -> None:
    await _reuse(w, 2)


@scenario()
async def reuse_reject(w: World) -> None:
    await _reuse(w, 3)


@scenario()
async def reuse_terminate_if_running(w: World) -> None:
    old = await w.start()
    new = await w.start(workflow_id_reuse_policy=4)
    w.record("new", new)
    await w.history(run_id=old.run_id, record_as="old run")
    await w.step(complete())
    await w.attempt("after completion", w.start(workflow_id_reuse_policy=4))


@scenario()
async def reuse_conflict_incompatible(w: World) -> None:
    for reuse in range(5):
        for conflict in range(4):
            name = f"wf{reuse}{conflict}"
            await w.attempt(
                f"reuse {reuse}, conflict {conflict}",
                w.start(name, workflow_id_reuse_policy=reuse, workflow_id_conflict_policy=conflict),
            )
            await w.attempt(
                f"reuse {reuse}, conflict {conflict}, running",
                w.start(name, workflow_id_reuse_policy=reuse, workflow_id_conflict_policy=conflict),
            )


@scenario()
async def execution_timeout(w: World) -> None:
    await w.start(workflow_execution_timeout=seconds(1))
    w.record("close", await w.wait_closed())
    await w.history()
    await w.describe()


@scenario()
async def run_timeout_with_retry(w: World) -> None:
    first = await w.start(workflow_run_timeout=seconds(3), retry_policy=retry(2))
    w.record("first close", await w.wait_closed(run_id=first.run_id))
    await w.history(run_id=first.run_id, record_as="first run")
    task = await w.task()
    await w.done(task, complete())
    await w.history(record_as="second run")
    await w.describe(run_id=first.run_id, record_as="first run described")


@scenario()
async def workflow_retry(w: World) -> None:
    first = await w.start(
        retry_policy=retry(3, coefficient=2),
        input=payloads("in"),
        memo={"fields": {"note": payload("kept")}},
        header={"fields": {"trace": payload("kept")}},
    )
    await w.step(fail("first"))
    await w.history(run_id=first.run_id, record_as="first run")
    await w.describe(record_as="while backing off")
    task = await w.task()
    await w.done(task, fail("second", next_retry_delay=seconds(1)))
    await w.history(run_id=task.workflow_execution.run_id, record_as="second run")
    await w.step(complete("done"))
    await w.history(record_as="third run")
    await w.describe()


@scenario()
async def workflow_retry_exhausted(w: World) -> None:
    first = await w.start(retry_policy=retry(2))
    await w.step(fail("first"))
    await w.step(fail("second"))
    await w.history(run_id=first.run_id, record_as="first run")
    await w.history(record_as="second run")


@scenario()
async def workflow_retry_non_retryable(w: World) -> None:
    await w.start("type", queue="type", retry_policy=retry(5, non_retryable_error_types=["Fatal"]))
    await w.step(fail(kind="Fatal"), queue="type")
    await w.history("type")
    await w.start("flag", queue="flag", retry_policy=retry(5))
    await w.step(fail(non_retryable=True), queue="flag")
    await w.history("flag")
    await w.start(
        "late", queue="late", retry_policy=retry(5, initial_s=10), workflow_execution_timeout=seconds(5)
    )
    await w.step(fail(), queue="late")
    await w.history("late")
    await w.start("none", queue="none")
    await w.step(fail(), queue="none")
    await w.history("none")


@scenario()
async def cron(w: World) -> None:
    first = await w.start(cron_schedule="@every 1s", input=payloads("in"), workflow_run_timeout=seconds(30))
    await w.describe(record_as="waiting")
    task = await w.task(record_as="first task")
    await w.done(task, complete("one"))
    await w.history(run_id=first.run_id, record_as="first run")
    task = await w.task()
    await w.done(task, complete("two"))
    await w.history(run_id=task.workflow_execution.run_id, record_as="second run")
    await w.terminate()


@scenario()
async def links_of_following_runs(w: World) -> None:
    link = {
        "workflow_event": {
            "namespace": "elsewhere",
            "workflow_id": "linked",
            "run_id": "11111111-2222-4333-8444-555555555555",
            "event_ref": {"event_id": 5, "event_type": 1},
        }
    }
    first = {"links": [link], "user_metadata": {"summary": payload("summary")}}
    await w.start("retried", queue="retried", retry_policy=retry(3), **first)
    await w.step(fail(), queue="retried")
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"), queue="retried")
    third = await w.task("retried")
    await w.done(third, command("START_TIMER", timer_id="t", start_to_fire_timeout=seconds(600)))
    w.record("continued after a retry", (await w.events("retried"))[0])
    await w.call(
        "ResetWorkflowExecution",
        workflow_execution=w.ex("retried"),
        workflow_task_finish_event_id=4,
        request_id="reset",
    )
    w.record("reset", (await w.events("retried"))[0])
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"), queue="retried")
    await w.task("retried")
    w.record("continued after a reset", (await w.events("retried"))[0])
    await w.start("timed-out", retry_policy=retry(2), workflow_run_timeout=seconds(1), **first)
    await w.wait_closed("timed-out")
    w.record("retried after a time-out", (await w.events("timed-out"))[0])
    await w.start("cron", queue="cron", cron_schedule="@every 1s", **first)
    await w.step(complete(), queue="cron")
    w.record("next by cron", (await w.events("cron"))[0])
    await w.terminate("cron")


@scenario()
async def cron_failure(w: World) -> None:
    await w.start(cron_schedule="@every 1s")
    await w.step(complete("kept"))
    task = await w.task()
    await w.done(task, fail("second"))
    await w.history(run_id=task.workflow_execution.run_id, record_as="second run")
    task = await w.task()
    await w.history(run_id=task.workflow_execution.run_id, record_as="third run")
    await w.terminate()


@scenario()
async def start_delay(w: World) -> None:
    await w.start(workflow_start_delay=seconds(2))
    await w.describe(record_as="while waiting")
    await w.history(record_as="history while waiting")
    await w.step(complete())
    await w.history()


@scenario()
async def start_delay_signalled(w: World) -> None:
    await w.start(workflow_start_delay=seconds(5))
    await w.signal()
    await w.no_task()
    await w.step(complete())
    await w.history()


@scenario()
async def signal_with_start_cuts_delay(w: World) -> None:
    await w.start(workflow_start_delay=seconds(600))
    await w.try_call(
        "answer",
        "SignalWithStartWorkflowExecution",
        workflow_id=w.id("wf"),
        workflow_type={"name": "Type"},
        task_queue=w.queue(),
        signal_name="signal",
        request_id="request-1",
    )
    await w.no_task()
    await w.history()
    await w.terminate()


@scenario()
async def cron_and_delay(w: World) -> None:
    await w.attempt("both", w.start(cron_schedule="@every 1s", workflow_start_delay=seconds(1)))
    for schedule in ("not a schedule", "* * * *", "61 * * * *", "@every", "CRON_TZ=Nowhere/Land * * * * *"):
        await w.attempt(f"cron {schedule}", w.start(cron_schedule=schedule))
    await w.attempt("negative delay", w.start(workflow_start_delay=seconds(-1)))


@scenario()
async def eager(w: World) -> None:
    answer = await w.start(request_eager_execution=True, input=payloads("in"))
    w.record("answer", answer)
    await w.done(answer.eager_workflow_task, complete())
    await w.history()
    delayed = await w.start("delayed", request_eager_execution=True, workflow_start_delay=seconds(60))
    w.record("delayed answer", delayed)


@scenario()
async def validation(w: World) -> None:
    good = {
        "workflow_id": w.id("wf"),
        "workflow_type": {"name": "Type"},
        "task_queue": w.queue(),
        "request_id": "request-1",
    }
    broken = {
        "no workflow id": {"workflow_id": ""},
        "no type": {"workflow_type": None},
        "empty type": {"workflow_type": {"name": ""}},
        "no queue": {"task_queue": None},
        "empty queue": {"task_queue": {"name": ""}},
        "queue of the server": {"task_queue": {"name": "/_sys/oracle/1"}},
        "long workflow id": {"workflow_id": "x" * 1001},
        "long type": {"workflow_type": {"name": "x" * 1001}},
        "long queue": {"task_queue": {"name": "x" * 1001}},
        "long request id": {"request_id": "x" * 1001},
        "negative execution timeout": {"workflow_execution_timeout": seconds(-1)},
        "negative run timeout": {"workflow_run_timeout": seconds(-1)},
        "negative task timeout": {"workflow_task_timeout": seconds(-1)},
        "negative priority": {"priority": {"priority_key": -1}},
        "large priority": {"priority": {"priority_key": 100}},
        "no namespace": {"namespace": ""},
        "no request id": {"request_id": ""},
    }
    for name, change in broken.items():
        await w.try_call(name, "StartWorkflowExecution", **{**good, **change})


@scenario()
async def unknown_reuse_policy(w: World) -> None:
    await w.attempt("answer", w.start(workflow_id_reuse_policy=77))


@scenario()
async def retry_policy_validation(w: World) -> None:
    policies = {
        "negative initial": {"initial_interval": seconds(-1)},
        "small coefficient": {"initial_interval": seconds(1), "backoff_coefficient": 0.5},
        "negative maximum": {"initial_interval": seconds(1), "maximum_interval": seconds(-1)},
        "maximum under initial": {"initial_interval": seconds(10), "maximum_interval": seconds(1)},
        "negative attempts": {"maximum_attempts": -1},
        "bad timeout type": {"non_retryable_error_types": ["TemporalTimeout:Nonsense"]},
        "good timeout type": {"non_retryable_error_types": ["TemporalTimeout:StartToClose"]},
        "one attempt": {"maximum_attempts": 1},
        "empty": {},
    }
    for number, (name, policy) in enumerate(policies.items()):
        answer = await w.attempt(name, w.start(f"wf{number}", retry_policy=policy))
        if answer is not None:
            w.record(f"{name}: first event", (await w.events(f"wf{number}"))[0])


@scenario()
async def continued_by_client(w: World) -> None:
    """A client may pass on the last failure and result of runs that the server knows nothing of."""
    await w.attempt(
        "continued failure",
        w.start(continued_failure=application_failure(), last_completion_result=payloads("sneaked in")),
    )
    await w.step(activity(queue=w.id("other")))
    await w.history()
