"""Signals and signal-with-start."""

from __future__ import annotations

from temporalio import workflow

from ..commands import activity, command, complete, payload, payloads, seconds, timer
from ..registry import scenario
from ..world import World

LINK = {
    "workflow_event": {
        "namespace": "elsewhere",
        "workflow_id": "linked",
        "run_id": "11111111-2222-4333-8444-555555555555",
        "event_ref": {"event_id": 5, "event_type": 1},
    }
}


async def _with_start(w: World, record_as: str, **fields: object) -> object:
    """Signal-with-start of "wf" on "tq", recorded. Returns the response, None after an error."""
    request = {
        "workflow_id": w.id("wf"),
        "workflow_type": {"name": "Type"},
        "task_queue": w.queue(),
        "signal_name": "signal",
        **fields,
    }
    return await w.try_call(record_as, "SignalWithStartWorkflowExecution", **request)


@scenario()
async def before_first_task(w: World) -> None:
    await w.start()
    await w.signal("one", input=payloads(1))
    await w.signal("two")
    task = await w.task(record_as="first task")
    await w.done(task, complete())
    await w.history()


@scenario()
async def with_everything(w: World) -> None:
    await w.start()
    await w.try_call(
        "answer",
        "SignalWorkflowExecution",
        workflow_execution=w.ex(),
        signal_name="signal",
        input=payloads("in", 2),
        identity="somebody",
        request_id="request-1",
        control="control",
        header={"fields": {"trace": payload("abc")}},
        links=[LINK],
    )
    await w.history()
    await w.describe()


@scenario()
async def after_task(w: World) -> None:
    await w.start()
    await w.step(timer(timeout_s=600))
    await w.signal("one")
    await w.history(record_as="after one")
    await w.signal("two")
    await w.history(record_as="after two")
    task = await w.task(record_as="task")
    await w.done(task, complete())


@scenario()
async def dedup(w: World) -> None:
    await w.start()
    for _ in range(2):
        await w.signal("before", request_id="request-1")
    task = await w.task()
    await w.signal("before", request_id="request-1")
    for _ in range(2):
        await w.signal("during", request_id="request-2")
    await w.done(task)
    await w.signal("during", request_id="request-2")
    await w.signal("other name, same id", request_id="request-1")
    await w.signal("no id", request_id="")
    await w.signal("no id", request_id="")
    await w.history()


@scenario()
async def dedup_across_runs(w: World) -> None:
    """A request id of an earlier run is new to the next run."""
    await w.start()
    await w.signal(request_id="request-1")
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    await w.step()
    await w.signal(request_id="request-1")
    w.record("signals", [e for e in await w.events() if e.event_type == 26])
    await w.terminate()
    await w.attempt("after close", w.signal(request_id="request-1"))


@scenario()
async def errors(w: World) -> None:
    run = await w.start()
    await w.start("closed", queue="closed")
    await w.step(complete(), queue="closed")
    good = {"workflow_execution": w.ex(), "signal_name": "signal"}
    cases = {
        "unknown": {"workflow_execution": w.ex("nobody")},
        "closed": {"workflow_execution": w.ex("closed")},
        "wrong run": {"workflow_execution": w.ex("wf", "11111111-2222-4333-8444-555555555555")},
        "bad run": {"workflow_execution": w.ex("wf", "not-a-uuid")},
        "no execution": {"workflow_execution": None},
        "no workflow id": {"workflow_execution": {"run_id": run.run_id}},
        "no name": {"signal_name": ""},
        "long name": {"signal_name": "x" * 1001},
        "long request id": {"request_id": "x" * 1001},
        "bad link": {"links": [{"workflow_event": {"namespace": "elsewhere"}}]},
    }
    for name, fields in cases.items():
        await w.try_call(name, "SignalWorkflowExecution", **{**good, **fields})
    await w.history()


@scenario()
async def many_buffered(w: World) -> None:
    """The real server caps buffered events at 100; up to there nothing may be lost or reordered."""
    await w.start(workflow_task_timeout=seconds(60))
    task = await w.task()
    for number in range(95):
        await w.signal(f"signal {number}")
    await w.done(task)
    task = await w.task()
    names = [
        e.workflow_execution_signaled_event_attributes.signal_name
        for e in task.history.events
        if e.event_type == 26
    ]
    w.record("in order", names == [f"signal {number}" for number in range(95)])
    w.record("last events", list(task.history.events)[-3:])


@scenario()
async def with_start_new(w: World) -> None:
    await _with_start(
        w,
        "answer",
        request_id="request-1",
        input=payloads("in"),
        signal_input=payloads("signal in"),
        header={"fields": {"trace": payload("abc")}},
        memo={"fields": {"note": payload("n")}},
        workflow_run_timeout=seconds(100),
        links=[LINK],
        user_metadata={"summary": payload("summary")},
        priority={"priority_key": 2},
    )
    task = await w.task(record_as="task")
    await w.done(task, complete())
    await w.history()
    await w.describe()


@scenario()
async def with_start_running(w: World) -> None:
    await w.start()
    await w.step()
    await _with_start(w, "answer", signal_input=payloads(1), header={"fields": {"trace": payload("abc")}})
    await w.history()
    task = await w.task()
    await _with_start(w, "while a task runs", signal_name="buffered")
    await w.done(task)
    await w.history(record_as="at the end")


@scenario()
async def with_start_policies(w: World) -> None:
    await w.start()
    await _with_start(w, "running, fail", workflow_id_conflict_policy=1)
    await _with_start(w, "running, use existing", workflow_id_conflict_policy=2)
    await _with_start(w, "running, terminate", workflow_id_conflict_policy=3)
    await _with_start(w, "running, terminate if running", workflow_id_reuse_policy=4)
    await _with_start(w, "running, reject duplicate", workflow_id_reuse_policy=3)
    await w.step(complete())
    await _with_start(w, "completed, failed only", workflow_id_reuse_policy=2)
    await _with_start(w, "completed, reject duplicate", workflow_id_reuse_policy=3)
    await _with_start(w, "completed, allow duplicate", workflow_id_reuse_policy=1)
    await w.history()


@scenario()
async def with_start_dedup(w: World) -> None:
    await _with_start(w, "first", request_id="request-1")
    await _with_start(w, "again", request_id="request-1")
    await w.history()
    await w.step(complete())
    await _with_start(w, "after close", request_id="request-1")
    await w.history(record_as="at the end")


@scenario()
async def with_start_errors(w: World) -> None:
    cases = {
        "no workflow id": {"workflow_id": ""},
        "no signal name": {"signal_name": ""},
        "no type": {"workflow_type": None},
        "no queue": {"task_queue": None},
        "long signal name": {"signal_name": "x" * 1001},
        "negative timeout": {"workflow_run_timeout": seconds(-1)},
        "bad retry": {"retry_policy": {"maximum_attempts": -1}},
        "bad cron": {"cron_schedule": "nonsense"},
        "cron and delay": {"cron_schedule": "@every 1s", "workflow_start_delay": seconds(5)},
        "unknown attribute": {"search_attributes": {"indexed_fields": {"Nobody": payload("x")}}},
    }
    for name, fields in cases.items():
        await _with_start(w, name, **fields)


@scenario()
async def with_start_delay(w: World) -> None:
    """A start delay given with the signal holds the first task back all the same."""
    await _with_start(w, "answer", workflow_start_delay=seconds(3))
    await w.history(record_as="waiting")
    await w.step(complete())
    await w.history()


@scenario()
async def between_retries_of_an_activity(w: World) -> None:
    """A signal while an activity runs wakes the workflow; the activity is left alone."""
    await w.start()
    await w.step(activity(queue=w.id("act")))
    running = await w.activity("act")
    await w.signal()
    await w.step()
    await w.call("RespondActivityTaskCompleted", task_token=running.task_token)
    await w.step(complete())
    await w.history()


@workflow.defn(name="Collector")
class Collector:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @workflow.signal
    def add(self, value: str) -> None:
        self.seen.append(value)

    @workflow.run
    async def run(self, count: int) -> list[str]:
        await workflow.wait_condition(lambda: len(self.seen) == count)
        return self.seen


@scenario(sdk=True)
async def sdk_signal(w: World) -> None:
    client = await w.client()
    handle = await client.start_workflow(
        Collector.run,
        3,
        id=w.id("wf"),
        task_queue=w.id("tq"),
        start_signal="add",
        start_signal_args=["first"],
    )
    await handle.signal(Collector.add, "second")
    await handle.signal(Collector.add, "third")
    async with w.worker([Collector]):
        w.record("result", await handle.result())
    await w.history()
