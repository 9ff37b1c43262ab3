"""Workflow tasks that the official SDK fails."""

from __future__ import annotations

from temporalio import workflow

from ..registry import scenario
from ..world import World

changed = False


@workflow.defn(name="Changing")
class Changing:
    @workflow.run
    async def run(self) -> None:
        if changed:
            await workflow.wait_condition(lambda: False)
        await workflow.sleep(600)


@scenario(sdk=True)
async def sdk_nondeterminism(w: World) -> None:
    """The code changes between two tasks, and the worker has forgotten the run: its replay differs."""
    global changed
    client = await w.client()
    changed = False
    async with w.worker([Changing], max_cached_workflows=0):
        await client.start_workflow(Changing.run, id=w.id("wf"), task_queue=w.id("tq"))
        await w.wait_event("TIMER_STARTED")
    changed = True
    await w.signal()
    async with w.worker([Changing], max_cached_workflows=0):
        failed = await w.wait_event("WORKFLOW_TASK_FAILED")
    w.record("cause", failed.workflow_task_failed_event_attributes.cause)
    await w.terminate()


@workflow.defn(name="Broken")
class Broken:
    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("a bug")


@scenario(sdk=True)
async def sdk_bug(w: World) -> None:
    """An exception that is no Temporal failure fails the task, again and again, and never the run."""
    client = await w.client()
    async with w.worker([Broken], max_cached_workflows=0):
        await client.start_workflow(Broken.run, id=w.id("wf"), task_queue=w.id("tq"))
        await w.until(
            lambda: w.call("DescribeWorkflowExecution", execution=w.ex()),
            lambda answer: answer.pending_workflow_task.attempt >= 3,
            "attempt 3",
        )
    failed = await w.wait_event("WORKFLOW_TASK_FAILED")
    w.record("failed", failed)
    w.record("history length", len(await w.events()))
    await w.terminate()
