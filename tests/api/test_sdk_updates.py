"""Updates: stages, validation, deduplication, worker restarts, closing workflows, update-with-start."""

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from tests.api.sdk_environment import SdkEnvironment, event_types_of, wait_for_event


@workflow.defn
class Counter:
    """Adds up what its updates carry until a "finish" signal."""

    def __init__(self) -> None:
        self.total = 0
        self.released = False
        self.finished = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.finished)
        return self.total

    @workflow.update
    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    @add.validator
    def validate_add(self, amount: int) -> None:
        if amount <= 0:
            raise ValueError("amount must be positive")

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def add_when_released(self, amount: int) -> int:
        await workflow.wait_condition(lambda: self.released)
        self.total += amount
        return self.total

    @workflow.update
    def fail(self) -> None:
        raise ApplicationError("broken", "detail", type="Broken")

    @workflow.signal
    def release(self) -> None:
        self.released = True

    @workflow.signal
    def finish(self) -> None:
        self.finished = True


async def test_update_returns_what_its_handler_returns(env: SdkEnvironment) -> None:
    async with env.worker([Counter]):
        handle = await env.start(Counter.run)
        assert await handle.execute_update(Counter.add, 2) == 2
        assert await handle.execute_update(Counter.add, 3) == 5
        await handle.signal(Counter.finish)
        assert await handle.result() == 5


async def test_concurrent_updates_each_run_once(env: SdkEnvironment) -> None:
    async with env.worker([Counter]):
        handle = await env.start(Counter.run)
        totals = await asyncio.gather(*(handle.execute_update(Counter.add, 1) for _ in range(10)))
        assert sorted(totals) == list(range(1, 11))
        await handle.terminate()


async def test_update_sent_before_a_worker_runs_waits_for_it(env: SdkEnvironment) -> None:
    handle = await env.start(Counter.run)
    update = asyncio.create_task(handle.execute_update(Counter.add, 2))
    await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED)
    async with env.worker([Counter]):
        assert await update == 2
        await handle.terminate()


async def test_refused_update_leaves_no_event(env: SdkEnvironment) -> None:
    async with env.worker([Counter]):
        handle = await env.start(Counter.run)
        await handle.execute_update(Counter.add, 1)
        before = await event_types_of(handle)
        with pytest.raises(WorkflowUpdateFailedError) as raised:
            await handle.execute_update(Counter.add, -1)
        assert isinstance(raised.value.cause, ApplicationError)
        assert raised.value.cause.message == "amount must be positive"
        assert await event_types_of(handle) == before
        await handle.terminate()


async def test_failing_update_reports_its_error_and_the_workflow_goes_on(env: SdkEnvironment) -> None:
    async with env.worker([Counter]):
        handle = await env.start(Counter.run)
        with pytest.raises(WorkflowUpdateFailedError) as raised:
            await handle.execute_update(Counter.fail)
        cause = raised.value.cause
        assert isinstance(cause, ApplicationError)
        assert (cause.message, cause.type, cause.details) == ("broken", "Broken", ("detail",))
        assert await handle.execute_update(Counter.add, 1) == 1
        await handle.terminate()


async def test_accepted_update_can_be_awaited_later_by_its_id(env: SdkEnvironment) -> None:
    async with env.worker([Counter]):
        handle = await env.start(Counter.run)
        await start_held_update(handle)
        await handle.signal(Counter.release)
        assert await handle.get_update_handle("held").result() == 2
        await handle.terminate()


async def test_update_with_a_known_id_runs_once(env: SdkEnvironment) -> None:
    async with env.worker([Counter]):
        handle = await env.start(Counter.run)
        assert await handle.execute_update(Counter.add, 2, id="same") == 2
        assert await handle.execute_update(Counter.add, 2, id="same") == 2
        assert await handle.execute_update(Counter.add, 2, id="another") == 4
        await handle.terminate()


async def test_accepted_update_survives_a_new_worker(env: SdkEnvironment) -> None:
    handle = await env.start(Counter.run)
    async with env.worker([Counter]):
        await start_held_update(handle)
    async with env.worker([Counter]):
        await handle.signal(Counter.release)
        assert await handle.get_update_handle("held").result() == 2
        await handle.terminate()


@pytest.mark.parametrize("close", ["complete", "terminate"])
async def test_accepted_update_is_aborted_when_the_workflow_closes(env: SdkEnvironment, close: str) -> None:
    async with env.worker([Counter]):
        handle = await env.start(Counter.run)
        await start_held_update(handle)
        update = asyncio.create_task(handle.get_update_handle("held").result())
        if close == "complete":
            await handle.signal(Counter.finish)
        else:
            await handle.terminate()
        with pytest.raises(WorkflowUpdateFailedError) as raised:
            await update
    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.type == "AcceptedUpdateCompletedWorkflow"


async def test_update_of_a_closed_workflow_is_not_found(env: SdkEnvironment) -> None:
    handle = await env.start(Counter.run)
    await handle.terminate()
    with pytest.raises(RPCError) as raised:
        await handle.execute_update(Counter.add, 1)
    assert raised.value.status is RPCStatusCode.NOT_FOUND


async def test_update_with_start_starts_one_run_and_updates_it_each_time(env: SdkEnvironment) -> None:
    workflow_id = env.new_id()
    async with env.worker([Counter]):
        totals, runs = [], set()
        for _ in range(2):
            start = WithStartWorkflowOperation(
                Counter.run,
                id=workflow_id,
                task_queue=env.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
            totals.append(
                await env.client.execute_update_with_start_workflow(
                    Counter.add, 2, start_workflow_operation=start
                )
            )
            runs.add((await start.workflow_handle()).first_execution_run_id)
        assert totals == [2, 4]
        assert len(runs) == 1
        await env.client.get_workflow_handle(workflow_id).terminate()


async def start_held_update(handle: Any) -> None:
    """Have the workflow accept an update, "held", that completes only after a "release" signal."""
    await handle.start_update(
        Counter.add_when_released, 2, id="held", wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
