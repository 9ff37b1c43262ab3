"""Starting workflows with the official SDK."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import WorkflowAlreadyStartedError

from ..registry import scenario
from ..world import World


@activity.defn
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@workflow.defn
class Hello:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(greet, name, start_to_close_timeout=timedelta(seconds=10))


@scenario(sdk=True)
async def sdk_hello(w: World) -> None:
    client = await w.client()
    async with w.worker([Hello], [greet]):
        handle = await client.start_workflow(
            Hello.run,
            "World",
            id=w.id("wf"),
            task_queue=w.id("tq"),
            memo={"note": "remember"},
            static_summary="a summary",
        )
        w.record("result", await handle.result())
    await w.history()
    await w.describe()


@scenario(sdk=True)
async def sdk_already_started(w: World) -> None:
    client = await w.client()
    await client.start_workflow("Type", id=w.id("wf"), task_queue=w.id("tq"))
    try:
        await client.start_workflow("Type", id=w.id("wf"), task_queue=w.id("tq"))
    except WorkflowAlreadyStartedError as error:
        w.record(
            "error", {"workflow_id": error.workflow_id, "type": error.workflow_type, "run_id": error.run_id}
        )
    await w.history()
