"""Reset of a workflow with children: which go on under the new run, which start again, which are lost to it."""

from __future__ import annotations

from typing import Any

from ..commands import command, complete
from ..registry import scenario
from ..world import World
from .reset import reset

ABANDON = 2
ALL = [1, 2, 3, 4]

POINT = 8
"""Resets to it have the child initiated (event 5) and not started."""


def _child(w: World, **fields: Any) -> Any:
    child = {"workflow_id": w.id("child"), "workflow_type": {"name": "Child"}, "task_queue": w.queue("child")}
    return command("START_CHILD_WORKFLOW_EXECUTION", **child, **fields)


async def _second_task(w: World, **fields: Any) -> Any:
    """Initiate the child, and start the next workflow task with the same answer. Returns that task."""
    await w.start()
    task = await w.task()
    answer = await w.done(
        task, _child(w, **fields), return_new_workflow_task=True, force_create_new_workflow_task=True
    )
    return answer.workflow_task


async def _running(w: World, **fields: Any) -> Any:
    """Have the child start only after the point. Returns its first task."""
    second = await _second_task(w, **fields)
    task = await w.task("child")
    await w.done(second)
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_STARTED")
    return task


async def _again(w: World) -> None:
    """Reset with everything left out, and wait until the new run has a child."""
    await reset(w, "answer", POINT, reset_reapply_exclude_types=ALL)
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_STARTED")


@scenario()
async def child_started_after_point(w: World) -> None:
    child = await _running(w)
    await reset(w, "answer", POINT)
    await w.history(record_as="new run")
    await w.done(child, complete("out"))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await w.history(record_as="new run at the end")


@scenario()
async def child_found_again(w: World) -> None:
    """Nothing of the base run comes again, so the new run asks for the child, and gets the one that runs."""
    child = await _running(w)
    await _again(w)
    await w.history(record_as="new run")
    await w.describe(record_as="new run described")
    await w.done(child, complete("out"))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await w.history(record_as="new run at the end")
    await w.history("child")


@scenario()
async def child_found_in_later_run(w: World) -> None:
    """The child has continued as new, and its parent has closed."""
    child = await _running(w, parent_close_policy=ABANDON)
    await w.done(child, command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    child = await w.task("child")
    await w.step(complete())
    await _again(w)
    await w.history(record_as="new run")
    await w.done(child, complete("out"))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await w.history(record_as="new run at the end")


@scenario()
async def child_found_closed(w: World) -> None:
    """What is found has closed: it has started for the new run, which nobody tells of its end."""
    child = await _running(w)
    await w.done(child, complete("out"))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await _again(w)
    await w.step()
    await w.no_task()
    await w.history(record_as="new run")
    await w.describe(record_as="new run described")


@scenario()
async def child_of_earlier_reset(w: World) -> None:
    """The child that is found was started by another run that was reset from the same one."""
    child = await _running(w)
    await w.done(child, complete("out"))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await w.start("child", queue="other")
    await w.terminate("child")
    await _again(w)
    child = await w.task("child")
    await _again(w)
    await w.history(record_as="second new run")
    await w.done(child, complete("out"))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await w.history(record_as="second new run at the end")


@scenario()
async def child_id_taken(w: World) -> None:
    """The child has ended, and its id is somebody else's: running, or closed, after which the child starts anew."""
    child = await _running(w)
    await w.done(child, complete("out"))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    await w.start("child", queue="other")
    await reset(w, "answer", POINT, reset_reapply_exclude_types=ALL)
    await w.wait_event("START_CHILD_WORKFLOW_EXECUTION_FAILED")
    await w.history(record_as="new run")
    await w.terminate("child")
    await _again(w)
    await w.history(record_as="second new run")


@scenario()
async def child_end_in_buffer(w: World) -> None:
    """An end that was told of while a workflow task runs comes again even with everything left out."""
    await w.start()
    await w.step(_child(w))
    await w.step()
    await w.signal()
    await w.step()
    await w.signal()
    running = await w.task()
    await w.step(complete("out"), queue="child")

    async def described() -> Any:
        return await w.call("DescribeWorkflowExecution", execution=w.ex())

    await w.until(described, lambda answer: not answer.pending_children, "the child's end")
    await reset(w, "answer", 12, reset_reapply_exclude_types=ALL)
    await w.history(run_id=running.workflow_execution.run_id, record_as="old run")
    await w.history(record_as="new run")


@scenario()
async def child_initiated_after_point(w: World) -> None:
    """It goes on, so the new run cannot have it: a later release of the real server may start it anew."""
    await w.start()
    await w.step(_child(w))
    await w.step()
    child = await w.task("child")
    await reset(w, "answer", 4)
    await w.step(_child(w))
    await w.wait_event("START_CHILD_WORKFLOW_EXECUTION_FAILED")
    await w.history(record_as="new run")
    await w.done(child, complete("out"))
    await w.wait_closed("child")
    await w.step()
    await w.no_task()
    await w.history(record_as="new run at the end")


@scenario()
async def child_ended_after_parent(w: World) -> None:
    """A child that goes on after its parent's end, and ends too: a run reset after that is not told of its end."""
    await w.start()
    await w.step(_child(w, parent_close_policy=ABANDON))
    await w.step()
    await w.signal()
    await w.step(complete())
    await w.step(complete("out"), queue="child")
    await w.wait_closed("child")
    await w.no_task("child")  # The end of a child is told after its close.
    tasks = [event.event_id for event in await w.events() if event.event_type == 7]
    await reset(w, "answer", tasks[2])
    await w.step()
    await w.no_task()
    await w.history(record_as="new run")
    await w.describe(record_as="new run described")


@scenario()
async def child_of_new_run_that_ends(w: World) -> None:
    """The parent close policy is for the child of the run that ends: the base run's is not ended with the new run."""
    child = await _running(w)
    await reset(w, "answer", POINT)
    await w.step(complete())
    await w.no_task("child")
    await w.done(child)
    await w.describe("child")
