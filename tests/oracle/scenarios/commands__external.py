"""Signalling and cancelling other workflows; continue-as-new on the SDK."""

from __future__ import annotations

from temporalio import workflow

from ..commands import command, complete, payload, payloads
from ..registry import scenario
from ..world import World


def _signal(w: World, name: str = "other", **fields: object) -> object:
    fields.setdefault("execution", w.ex(name))
    return command("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION", signal_name="hello", **fields)


def _cancel(w: World, name: str = "other", **fields: object) -> object:
    return command("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION", workflow_id=w.id(name), **fields)


@scenario()
async def signal_external(w: World) -> None:
    await w.start("other", queue="other")
    await w.start()
    await w.step(
        _signal(w, input=payloads("in"), header={"fields": {"trace": payload("abc")}}, control="control"),
    )
    await w.step()
    await w.history()
    await w.history("other")


@scenario()
async def signal_external_child(w: World) -> None:
    await w.start()
    child = {"workflow_id": w.id("child"), "workflow_type": {"name": "Child"}, "task_queue": w.queue("child")}
    await w.step(command("START_CHILD_WORKFLOW_EXECUTION", **child))
    await w.step(_signal(w, "child", child_workflow_only=True))
    await w.step(complete())
    await w.history()


@scenario()
async def signal_external_not_found(w: World) -> None:
    await w.start("closed", queue="closed")
    await w.step(complete(), queue="closed")
    for number, target in enumerate(("nobody", "closed")):
        queue = f"tq{number}"
        await w.start(queue, queue=queue)
        await w.step(_signal(w, target, control="control"), queue=queue)
        await w.step(complete(), queue=queue)
        await w.history(queue, record_as=f"to {target}")


@scenario()
async def signal_external_wrong_namespace(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), _signal(w, namespace="oracle-nowhere"))
    await w.history()


@scenario()
async def signal_external_not_a_child(w: World) -> None:
    """`child_workflow_only` towards a workflow that somebody else started."""
    await w.start("other", queue="other")
    await w.start()
    await w.step(_signal(w, child_workflow_only=True))
    await w.step(complete())
    await w.history()


@scenario()
async def signal_external_self(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), _signal(w, "wf"))
    await w.wait_event("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED")
    await w.history()


@scenario()
async def cancel_external(w: World) -> None:
    await w.start("other", queue="other")
    await w.start()
    await w.step(_cancel(w, reason="enough", control="control"))
    await w.step()
    await w.history()
    await w.history("other")
    await w.signal()
    await w.step(_cancel(w))
    await w.step(complete())
    await w.history(record_as="cancelled twice")


@scenario()
async def cancel_external_not_found(w: World) -> None:
    await w.start("closed", queue="closed")
    await w.step(complete(), queue="closed")
    for number, target in enumerate(("nobody", "closed")):
        queue = f"tq{number}"
        await w.start(queue, queue=queue)
        await w.step(_cancel(w, target), queue=queue)
        await w.step(complete(), queue=queue)
        await w.history(queue, record_as=f"of {target}")


@scenario()
async def cancel_external_self(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), _cancel(w, "wf"))
    await w.wait_event("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED")
    await w.history()


@workflow.defn(name="Countdown")
class Countdown:
    @workflow.run
    async def run(self, left: int) -> str:
        if left > 0:
            workflow.continue_as_new(left - 1)
        return "lift-off"


@scenario(sdk=True)
async def sdk_continue_as_new(w: World) -> None:
    client = await w.client()
    async with w.worker([Countdown]):
        handle = await client.start_workflow(Countdown.run, 2, id=w.id("wf"), task_queue=w.id("tq"))
        w.record("result", await handle.result())
    await w.history(run_id=handle.first_execution_run_id or "", record_as="first run")
    await w.history(record_as="last run")
    await w.describe()
