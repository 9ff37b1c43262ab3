"""Queries."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.client import WorkflowQueryFailedError
from temporalio.service import RPCError

from ..commands import application_failure, command, complete, fail, payload, payloads, seconds, timer
from ..registry import scenario
from ..world import Later, World

ANSWERED, FAILED = 1, 2


def _ask(w: World, record_as: str, workflow_id: str = "wf", **fields: object) -> Later:
    """Send a query; its answer is recorded when it is awaited."""
    fields.setdefault("execution", w.ex(workflow_id))
    fields.setdefault("query", {"query_type": "question", "query_args": payloads("arg")})
    return w.later(record_as, "QueryWorkflow", **fields)


async def _answer(w: World, task: object, **fields: object) -> None:
    fields = fields or {"completed_type": ANSWERED, "query_result": payloads("answer")}
    await w.try_call("respond", "RespondQueryTaskCompleted", task_token=task.task_token, **fields)


@scenario()
async def raw_direct(w: World) -> None:
    await w.start()
    await w.step(timer(timeout_s=600))
    query = _ask(
        w,
        "answer",
        query={
            "query_type": "question",
            "query_args": payloads("arg"),
            "header": {"fields": {"trace": payload("abc")}},
        },
    )
    task = await w.task(record_as="query task")
    await _answer(w, task)
    await query
    await w.history()
    await _answer(w, task)


@scenario()
async def raw_failed(w: World) -> None:
    await w.start()
    await w.step()
    query = _ask(w, "failed with a failure")
    await _answer(
        w,
        await w.task(),
        completed_type=FAILED,
        error_message="no such query",
        failure=application_failure("no such query", details=payloads(1)),
    )
    await query
    query = _ask(w, "failed with a message")
    await _answer(w, await w.task(), completed_type=FAILED, error_message="no such query")
    await query
    query = _ask(w, "no completed type")
    await _answer(w, await w.task(), query_result=payloads("answer"))
    query.cancel()


async def _registered(w: World) -> None:
    """Wait long enough for a query that was sent just now to wait at the server."""
    # A query that waits is invisible; three seconds of grace, then the recording shows it was there.
    await asyncio.sleep(3)


@scenario()
async def with_pending_task(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal()
    query = _ask(w, "answer")
    await _registered(w)
    task = await w.task(record_as="task with query")
    results = {i: {"result_type": ANSWERED, "answer": payloads("answer")} for i in task.queries}
    await w.try_done("completion", task, query_results=results)
    await query
    await w.history()


@scenario()
async def while_task_runs(w: World) -> None:
    """Sent while a task runs: delivered with a task of its own after it."""
    await w.start()
    await w.step()
    await w.signal()
    task = await w.task()
    query = _ask(w, "answer")
    await _registered(w)
    await w.done(task)
    query_task = await w.task(record_as="query task")
    await _answer(w, query_task)
    await query
    await w.history()


@scenario()
async def while_task_runs_then_closes(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal()
    task = await w.task()
    query = _ask(w, "answer")
    await _registered(w)
    await w.done(task, complete())
    await _answer(w, await w.task(record_as="query task"))
    await query


@scenario()
async def failed_in_completion(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal()
    query = _ask(w, "answer")
    await _registered(w)
    task = await w.task()
    results = {i: {"result_type": FAILED, "error_message": "no such query"} for i in task.queries}
    await w.done(task, query_results=results)
    await query


@scenario()
async def unanswered_in_completion(w: World) -> None:
    await w.start()
    await w.step()
    await w.signal()
    query = _ask(w, "answer")
    await _registered(w)
    task = await w.task()
    w.record("queries", len(task.queries))
    await w.try_done("completion", task)
    await _answer(w, await w.task(record_as="query task"))
    await query
    await w.history()


@scenario()
async def closed(w: World) -> None:
    await w.start()
    await w.step(complete("out"))
    query = _ask(w, "answer")
    task = await w.task(record_as="query task")
    await _answer(w, task)
    await query


@scenario()
async def closed_never_run(w: World) -> None:
    """Terminated before its first task."""
    await w.start()
    await w.terminate()
    query = _ask(w, "answer")
    await query


@scenario()
async def reject_conditions(w: World) -> None:
    for name, closing in {"completed": complete(), "failed": fail()}.items():
        await w.start(name, queue=name)
        await w.step(closing, queue=name)
        await _ask(w, f"{name}, not open", name, query_reject_condition=2)
    await _ask(w, "failed, not completed cleanly", "failed", query_reject_condition=3)
    query = _ask(w, "completed, not completed cleanly", "completed", query_reject_condition=3)
    await _answer(w, await w.task("completed"))
    await query
    await w.start("running", queue="running")
    await w.step(queue="running")
    query = _ask(w, "running, not open", "running", query_reject_condition=2)
    await _answer(w, await w.task("running"))
    await query


@scenario()
async def errors(w: World) -> None:
    await w.start()
    await w.step()
    cases = {
        "unknown": {"execution": w.ex("nobody")},
        "wrong run": {"execution": w.ex("wf", "11111111-2222-4333-8444-555555555555")},
        "bad run": {"execution": w.ex("wf", "not-a-uuid")},
        "no execution": {"execution": None},
        "no workflow id": {"execution": {}},
        "no query": {"query": None},
        "no type": {"query": {"query_type": ""}},
    }
    for name, fields in cases.items():
        await _ask(w, name, **fields)


@scenario()
async def before_first_task(w: World) -> None:
    await w.start(workflow_task_timeout=seconds(60))
    await _ask(w, "not taken", limit_s=5)
    task = await w.task()
    query = _ask(w, "taken", limit_s=5)
    await query
    await w.done(task)
    query = _ask(w, "completed")
    await _answer(w, await w.task())
    await query


@scenario()
async def during_start_delay(w: World) -> None:
    await w.start(workflow_start_delay=seconds(600))
    await _ask(w, "answer")


@scenario()
async def sticky_query(w: World) -> None:
    await w.start()
    task = await w.task()
    poll = await w.sticky_poll()
    await w.done(task, sticky_attributes=w.sticky())
    query = _ask(w, "answer")
    task = await poll
    w.record("sticky query task", task)
    await _answer(w, task)
    await query
    await w.history()


@scenario()
async def after_task_failure(w: World) -> None:
    """The workflow task keeps failing: a query says so."""
    await w.start()
    await w.step()
    await w.signal()
    for _ in range(3):
        task = await w.task()
        await w.call(
            "RespondWorkflowTaskFailed", task_token=task.task_token, cause=1, failure=application_failure()
        )
    await _ask(w, "answer", limit_s=5)


@scenario()
async def old_run(w: World) -> None:
    """A run that continued as new is queried by its run id; without one the latest answers."""
    first = await w.start()
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    await w.step()
    query = _ask(w, "first run", execution=w.ex("wf", first.run_id))
    task = await w.task()
    w.record("is first run", task.workflow_execution.run_id == first.run_id)
    await _answer(w, task)
    await query
    query = _ask(w, "latest run")
    task = await w.task()
    w.record("is another run", task.workflow_execution.run_id != first.run_id)
    await _answer(w, task)
    await query


@workflow.defn(name="Queried")
class Queried:
    def __init__(self) -> None:
        self.done = False

    @workflow.query
    def value(self, factor: int) -> int:
        return 21 * factor

    @workflow.query
    def broken(self) -> int:
        raise ValueError("cannot say")

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.done)


@scenario(sdk=True)
async def sdk_query(w: World) -> None:
    client = await w.client()
    async with w.worker([Queried]):
        handle = await client.start_workflow(Queried.run, id=w.id("wf"), task_queue=w.id("tq"))
        await w.wait_event("WORKFLOW_TASK_COMPLETED")
        w.record("value", await handle.query(Queried.value, 2))
        for name, args in {"unknown": [], "broken": []}.items():
            try:
                await handle.query(name, args=args)
            except (WorkflowQueryFailedError, RPCError) as error:
                w.record(name, [type(error).__name__, str(error)])
        trace = await handle.query("__stack_trace", result_type=str)
        w.record("stack trace is told", "wait_condition" in trace)
        metadata = await handle.query("__temporal_workflow_metadata")
        w.record("metadata", [definition.name for definition in metadata.definition.query_definitions])
        await handle.signal(Queried.finish)
        await handle.result()
        w.record("value after close", await handle.query(Queried.value, 3))
    await w.history()
