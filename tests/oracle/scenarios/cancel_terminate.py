"""Cancel, terminate, delete."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError

from ..commands import activity as schedule
from ..commands import command, complete, payloads
from ..registry import scenario
from ..world import World
from .signals import LINK

NO_RUN = "11111111-2222-4333-8444-555555555555"


@scenario()
async def cancel_request(w: World) -> None:
    await w.start()
    await w.step()
    for name in ("first", "same request id"):
        await w.try_call(
            name,
            "RequestCancelWorkflowExecution",
            workflow_execution=w.ex(),
            identity="somebody",
            request_id="request-1",
            reason="enough",
            links=[LINK],
        )
    await w.describe(record_as="requested")
    task = await w.task(record_as="task")
    await w.done(task, command("CANCEL_WORKFLOW_EXECUTION"))
    await w.history()
    await w.describe()


@scenario()
async def cancel_again(w: World) -> None:
    await w.start()
    await w.attempt("first", w.cancel(request_id="request-1"))
    await w.attempt("second", w.cancel(request_id="request-2"))
    await w.step()
    await w.attempt("third", w.cancel(request_id="request-3"))
    await w.history()


@scenario()
async def cancel_before_first_task(w: World) -> None:
    await w.start()
    await w.cancel()
    task = await w.task(record_as="task")
    await w.done(task, complete("ignored it"))
    await w.history()


@scenario()
async def cancel_while_task_runs(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.cancel()
    await w.try_done("completion", task, complete())
    await w.history()


@scenario()
async def cancel_during_start_delay(w: World) -> None:
    await w.start(workflow_start_delay=timedelta(seconds=4))
    await w.cancel()
    await w.history(record_as="waiting")
    task = await w.task()
    await w.done(task, command("CANCEL_WORKFLOW_EXECUTION"))
    await w.history()


@scenario()
async def cancel_errors(w: World) -> None:
    await w.start()
    await w.start("closed", queue="closed")
    await w.step(complete(), queue="closed")
    cases = {
        "unknown": {"workflow_execution": w.ex("nobody")},
        "closed": {"workflow_execution": w.ex("closed")},
        "wrong run": {"workflow_execution": w.ex("wf", NO_RUN)},
        "bad run": {"workflow_execution": w.ex("wf", "not-a-uuid")},
        "no execution": {},
        "wrong first run": {"workflow_execution": w.ex(), "first_execution_run_id": NO_RUN},
    }
    for name, fields in cases.items():
        await w.try_call(name, "RequestCancelWorkflowExecution", **fields)
    await w.history()


@scenario()
async def terminate(w: World) -> None:
    await w.start()
    await w.step(schedule(queue=w.id("act")))
    await w.try_call(
        "answer",
        "TerminateWorkflowExecution",
        workflow_execution=w.ex(),
        reason="enough",
        details=payloads("why", 2),
        identity="somebody",
        links=[LINK],
    )
    await w.history()
    await w.describe()
    await w.no_task("act", method="PollActivityTaskQueue")


@scenario()
async def terminate_while_task_runs(w: World) -> None:
    await w.start()
    task = await w.task()
    await w.signal("buffered")
    await w.terminate(reason="enough")
    await w.history()
    await w.try_done("completion", task, complete())


@scenario()
async def terminate_errors(w: World) -> None:
    await w.start()
    await w.start("closed", queue="closed")
    await w.step(complete(), queue="closed")
    cases = {
        "unknown": {"workflow_execution": w.ex("nobody")},
        "closed": {"workflow_execution": w.ex("closed")},
        "wrong run": {"workflow_execution": w.ex("wf", NO_RUN)},
        "bad run": {"workflow_execution": w.ex("wf", "not-a-uuid")},
        "no execution": {},
        "wrong first run": {"workflow_execution": w.ex(), "first_execution_run_id": NO_RUN},
    }
    for name, fields in cases.items():
        await w.try_call(name, "TerminateWorkflowExecution", **fields)
    await w.history()


@scenario()
async def first_execution_run_id_of_closed(w: World) -> None:
    """Which error comes first, and that a run id beside it does not matter."""
    first = await w.start()
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    second = await w.task()
    cases = {
        "first of another chain": {"workflow_execution": w.ex(), "first_execution_run_id": NO_RUN},
        "unknown run": {"workflow_execution": w.ex("wf", NO_RUN), "first_execution_run_id": first.run_id},
    }
    for name in ("RequestCancelWorkflowExecution", "TerminateWorkflowExecution"):
        await w.try_call(f"{name}: first of another chain", name, **cases["first of another chain"])
    await w.try_call("cancel: unknown run", "RequestCancelWorkflowExecution", **cases["unknown run"])
    await w.done(second)
    await w.step(complete())
    for name in ("RequestCancelWorkflowExecution", "TerminateWorkflowExecution"):
        for case, fields in cases.items():
            await w.try_call(f"{name}, closed: {case}", name, **fields)
    open_ = await w.start("open")
    await w.terminate("open", NO_RUN, first_execution_run_id=open_.run_id)
    await w.history("open")


@scenario()
async def first_execution_run_id(w: World) -> None:
    first = await w.start()
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    await w.step()
    await w.try_call(
        "cancel",
        "RequestCancelWorkflowExecution",
        workflow_execution=w.ex(),
        first_execution_run_id=first.run_id,
    )
    await w.try_call(
        "terminate",
        "TerminateWorkflowExecution",
        workflow_execution=w.ex(),
        first_execution_run_id=first.run_id,
    )
    await w.history()


async def _gone(w: World, workflow_id: str = "wf", run_id: str = "") -> None:
    """Wait until a deleted run is no longer described."""

    async def described() -> list[object]:
        world_call = w.call("DescribeWorkflowExecution", execution=w.ex(workflow_id, run_id))
        return await asyncio.gather(world_call, return_exceptions=True)

    await w.until(
        described, lambda answers: isinstance(answers[0], BaseException), "the deletion", limit_s=170
    )


@scenario()
async def delete_closed(w: World) -> None:
    first = await w.start()
    await w.step(complete())
    await w.until(
        lambda: w.call("ListWorkflowExecutions", query=f"WorkflowId = '{w.id('wf')}'"),
        lambda answer: answer.executions,
        "the row",
    )
    await w.try_call("delete", "DeleteWorkflowExecution", workflow_execution=w.ex())
    await _gone(w)
    await w.try_call("describe", "DescribeWorkflowExecution", execution=w.ex())
    await w.try_call("describe the run", "DescribeWorkflowExecution", execution=w.ex("wf", first.run_id))
    await w.try_call("history", "GetWorkflowExecutionHistory", execution=w.ex())
    await w.try_call("signal", "SignalWorkflowExecution", workflow_execution=w.ex(), signal_name="signal")
    await w.try_call("delete again", "DeleteWorkflowExecution", workflow_execution=w.ex())
    await w.until(
        lambda: w.call("CountWorkflowExecutions", query=f"WorkflowId = '{w.id('wf')}'"),
        lambda answer: answer.count == 0,
        "the row's end",
    )
    await w.attempt("start again, reject duplicate", w.start(workflow_id_reuse_policy=3))


@scenario()
async def delete_running(w: World) -> None:
    await w.start()
    await w.step()
    await w.try_call("delete", "DeleteWorkflowExecution", workflow_execution=w.ex())
    await _gone(w)
    await w.try_call("describe", "DescribeWorkflowExecution", execution=w.ex())


@scenario()
async def delete_old_run(w: World) -> None:
    """An earlier run is deleted by its run id; the running one stays."""
    first = await w.start()
    await w.step(complete())
    second = await w.start()
    await w.call("DeleteWorkflowExecution", workflow_execution=w.ex("wf", first.run_id))
    await _gone(w, "wf", first.run_id)
    described = await w.call("DescribeWorkflowExecution", execution=w.ex())
    w.record("second run stays", described.workflow_execution_info.execution.run_id == second.run_id)


@scenario()
async def delete_errors(w: World) -> None:
    await w.start()
    cases = {
        "unknown": {"workflow_execution": w.ex("nobody")},
        "wrong run": {"workflow_execution": w.ex("wf", NO_RUN)},
        "bad run": {"workflow_execution": w.ex("wf", "not-a-uuid")},
        "no execution": {},
        "no workflow id": {"workflow_execution": {}},
    }
    for name, fields in cases.items():
        await w.try_call(name, "DeleteWorkflowExecution", **fields)


@activity.defn(name="cancellable")
async def cancellable() -> str:
    try:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return "cleaned up"


@workflow.defn(name="Cancellable")
class Cancellable:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            cancellable,
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=2),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        await workflow.sleep(600)


@scenario(sdk=True)
async def sdk_cancel(w: World) -> None:
    client = await w.client()
    async with w.worker([Cancellable], [cancellable], max_cached_workflows=0):
        handle = await client.start_workflow(Cancellable.run, id=w.id("wf"), task_queue=w.id("tq"))
        await w.until(
            handle.describe,
            lambda answer: [a for a in answer.raw_description.pending_activities if a.state == 2],
            "the started activity",
        )
        await handle.cancel()
        # The activity ends well; the sleep after it is what the cancellation then meets no more.
        await w.wait_event("ACTIVITY_TASK_COMPLETED")
        await w.wait_event("TIMER_STARTED")
        await handle.cancel()
        await handle.terminate("enough")
        try:
            await handle.result()
        except WorkflowFailureError as error:
            w.record("cause", [type(error.cause).__name__, str(error.cause)])
    w.record("cancel events", [e for e in await w.events() if e.event_type in (15, 20, 27)])


@workflow.defn(name="Sleeps")
class Sleeps:
    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(600)


@scenario(sdk=True)
async def sdk_cancel_sleep(w: World) -> None:
    client = await w.client()
    async with w.worker([Sleeps]):
        handle = await client.start_workflow(Sleeps.run, id=w.id("wf"), task_queue=w.id("tq"))
        await w.wait_event("TIMER_STARTED")
        await handle.cancel()
        try:
            await handle.result()
        except WorkflowFailureError as error:
            w.record("cause", [type(error.cause).__name__, str(error.cause)])
    await w.history()


@scenario(sdk=True)
async def sdk_terminate(w: World) -> None:
    client = await w.client()
    handle = await client.start_workflow(Sleeps.run, id=w.id("wf"), task_queue=w.id("tq"))
    waiting = asyncio.create_task(handle.result())
    await handle.terminate("a detail", reason="enough")
    try:
        await waiting
    except WorkflowFailureError as error:
        w.record("cause", [type(error.cause).__name__, str(error.cause), list(error.cause.details)])
    await w.history()
