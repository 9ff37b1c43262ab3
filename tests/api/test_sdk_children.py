"""Child and external workflows."""

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TerminatedError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ParentClosePolicy

from tests.api.sdk_environment import SdkEnvironment, eventually, wait_for_event


@workflow.defn
class Child:
    """Ends as told by its argument; a waiting one ends with the value of its "finish" signal."""

    def __init__(self) -> None:
        self.value: str | None = None

    @workflow.run
    async def run(self, ending: str) -> list[str | None]:
        if ending == "fail":
            raise ApplicationError("bad child", type="Bad")
        if ending == "wait":
            await workflow.wait_condition(lambda: self.value is not None)
        parent = workflow.info().parent
        return [parent.workflow_id if parent else None, self.value]

    @workflow.signal
    def finish(self, value: str) -> None:
        self.value = value


@workflow.defn
class Parent:
    """Runs one child and returns what it returns, or what became of it."""

    @workflow.run
    async def run(self, child_id: str, ending: str) -> Any:
        try:
            return await workflow.execute_child_workflow(Child.run, ending, id=child_id)
        except WorkflowAlreadyStartedError as error:
            return f"already started: {error.workflow_id}"


@workflow.defn
class LeavingParent:
    """Starts a child that waits, and closes without it."""

    @workflow.run
    async def run(self, child_id: str, policy: int) -> None:
        await workflow.start_child_workflow(
            Child.run, "wait", id=child_id, parent_close_policy=ParentClosePolicy(policy)
        )


@workflow.defn
class CancellingParent:
    """Cancels its child once that has started and returns how the child ended."""

    @workflow.run
    async def run(self, child_id: str) -> str:
        child = await workflow.start_child_workflow(Child.run, "wait", id=child_id)
        child.cancel()
        try:
            await child
        except ChildWorkflowError as error:
            return f"cancelled: {is_cancelled_exception(error)}"
        return "not cancelled"


@workflow.defn
class SignallingParent:
    """Signals its child and returns what the child returns."""

    @workflow.run
    async def run(self, child_id: str) -> list[str | None]:
        child = await workflow.start_child_workflow(Child.run, "wait", id=child_id)
        await child.signal(Child.finish, "from parent")
        return await child


@workflow.defn
class Outsider:
    """Signals or cancels a workflow that it did not start."""

    @workflow.run
    async def run(self, workflow_id: str, action: str) -> None:
        other = workflow.get_external_workflow_handle(workflow_id)
        if action == "signal":
            await other.signal("finish", "from outside")
        else:
            await other.cancel()


ALL = [Child, Parent, LeavingParent, CancellingParent, SignallingParent, Outsider]


async def test_child_result_reaches_its_parent(env: SdkEnvironment) -> None:
    child_id = env.new_id()
    async with env.worker(ALL):
        handle = await env.start(Parent.run, child_id, "complete")
        assert await handle.result() == [handle.id, None]
    description = await env.client.get_workflow_handle(child_id).describe()
    assert (description.parent_id, description.parent_run_id) == (handle.id, handle.first_execution_run_id)


async def test_child_failure_reaches_its_parent(env: SdkEnvironment) -> None:
    async with env.worker(ALL):
        with pytest.raises(WorkflowFailureError) as raised:
            await env.execute(Parent.run, env.new_id(), "fail")
    assert isinstance(raised.value.cause, ChildWorkflowError)
    assert isinstance(raised.value.cause.cause, ApplicationError)
    assert (raised.value.cause.cause.message, raised.value.cause.cause.type) == ("bad child", "Bad")


async def test_terminated_child_fails_its_parent(env: SdkEnvironment) -> None:
    child_id = env.new_id()
    async with env.worker(ALL):
        handle = await env.start(Parent.run, child_id, "wait")
        await wait_for_event(handle, EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
        await env.client.get_workflow_handle(child_id).terminate("enough")
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
    assert isinstance(raised.value.cause, ChildWorkflowError)
    assert isinstance(raised.value.cause.cause, TerminatedError)


async def test_child_under_the_id_of_an_open_workflow_does_not_start(env: SdkEnvironment) -> None:
    async with env.worker(ALL):
        taken = await env.start(Child.run, "wait")
        assert await env.execute(Parent.run, taken.id, "complete") == f"already started: {taken.id}"
        await taken.terminate()


async def test_parent_cancels_its_child(env: SdkEnvironment) -> None:
    child_id = env.new_id()
    async with env.worker(ALL):
        assert await env.execute(CancellingParent.run, child_id) == "cancelled: True"
    description = await env.client.get_workflow_handle(child_id).describe()
    assert description.status is WorkflowExecutionStatus.CANCELED


async def test_cancelling_a_parent_cancels_the_child_it_awaits(env: SdkEnvironment) -> None:
    child_id = env.new_id()
    async with env.worker(ALL):
        handle = await env.start(Parent.run, child_id, "wait")
        # The second task tells the parent that the child started: from then on it can cancel it.
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, nth=2)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
    assert isinstance(raised.value.cause, CancelledError)
    description = await env.client.get_workflow_handle(child_id).describe()
    assert description.status is WorkflowExecutionStatus.CANCELED


async def test_parent_signals_its_child(env: SdkEnvironment) -> None:
    async with env.worker(ALL):
        handle = await env.start(SignallingParent.run, env.new_id())
        assert await handle.result() == [handle.id, "from parent"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ParentClosePolicy.TERMINATE, WorkflowExecutionStatus.TERMINATED),
        (ParentClosePolicy.REQUEST_CANCEL, WorkflowExecutionStatus.CANCELED),
        (ParentClosePolicy.ABANDON, WorkflowExecutionStatus.COMPLETED),
    ],
)
async def test_child_of_a_closed_parent_follows_its_policy(
    env: SdkEnvironment, policy: ParentClosePolicy, expected: WorkflowExecutionStatus
) -> None:
    child = env.client.get_workflow_handle(env.new_id())
    async with env.worker(ALL):
        await env.execute(LeavingParent.run, child.id, int(policy))
        if policy is ParentClosePolicy.ABANDON:
            await child.signal("finish", "orphan")

        async def status_of_child() -> WorkflowExecutionStatus | None:
            return (await child.describe()).status

        await eventually(status_of_child, expected)


async def test_external_workflow_is_signalled(env: SdkEnvironment) -> None:
    async with env.worker(ALL):
        target = await env.start(Child.run, "wait")
        await asyncio.gather(env.execute(Outsider.run, target.id, "signal"), target.result())
        assert await target.result() == [None, "from outside"]


async def test_external_workflow_is_cancelled(env: SdkEnvironment) -> None:
    async with env.worker(ALL):
        target = await env.start(Child.run, "wait")
        await env.execute(Outsider.run, target.id, "cancel")
        with pytest.raises(WorkflowFailureError) as raised:
            await target.result()
    assert isinstance(raised.value.cause, CancelledError)


@pytest.mark.parametrize("action", ["signal", "cancel"])
async def test_unknown_external_workflow_is_not_found(env: SdkEnvironment, action: str) -> None:
    async with env.worker(ALL):
        with pytest.raises(WorkflowFailureError) as raised:
            await env.execute(Outsider.run, "no-such-workflow", action)
    assert isinstance(raised.value.cause, ApplicationError)
    assert "not found" in raised.value.cause.message
