"""Closing workflows, workflow tasks that fail, worker restarts, reset and continue-as-new."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    ResetWorkflowExecutionRequest,
)
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from tests.api.sdk_environment import (
    SdkEnvironment,
    event_types_of,
    events_of,
    eventually,
    wait_for_event,
)


@workflow.defn
class Collect:
    """Collects what its "add" signals carry until a "finish" signal."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.finished = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.finished)
        return self.seen

    @workflow.signal
    def add(self, value: str) -> None:
        self.seen.append(value)

    @workflow.signal
    def finish(self) -> None:
        self.finished = True


@workflow.defn
class CleanUpWhenCancelled:
    @workflow.run
    async def run(self, swallow: bool) -> str:
        try:
            await workflow.sleep(timedelta(days=60))
        except BaseException:
            await workflow.sleep(timedelta(milliseconds=1))
            if not swallow:
                raise
        return "cleaned up"


@workflow.defn
class Fail:
    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("on purpose", {"code": 7}, type="Purpose", non_retryable=True)


@workflow.defn(name="Repaired")
class Broken:
    @workflow.run
    async def run(self) -> str:
        raise RuntimeError("a bug")


@workflow.defn(name="Repaired")
class Repaired:
    @workflow.run
    async def run(self) -> str:
        return "repaired"


@workflow.defn
class SleepThreeTimes:
    @workflow.run
    async def run(self) -> list[int]:
        lengths = []
        for _ in range(3):
            await workflow.sleep(timedelta(milliseconds=100))
            lengths.append(workflow.info().get_current_history_length())
        return lengths


@workflow.defn
class CountDown:
    """Continues as new until its counter is zero, then returns the ids of its first run and its own."""

    @workflow.run
    async def run(self, remaining: int) -> dict[str, Any]:
        if remaining > 0:
            workflow.continue_as_new(remaining - 1)
        info = workflow.info()
        return {
            "first_run_id": info.first_execution_run_id,
            "run_id": info.run_id,
            "continued_run_id": info.continued_run_id,
            "memo": workflow.memo_value("origin", type_hint=str),
        }


async def test_failure_reaches_the_client_with_type_and_details(env: SdkEnvironment) -> None:
    async with env.worker([Fail]):
        handle = await env.start(Fail.run)
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.message, cause.type, cause.details) == ("on purpose", "Purpose", ({"code": 7},))
    assert cause.non_retryable
    assert (await handle.describe()).status is WorkflowExecutionStatus.FAILED


@pytest.mark.parametrize("swallow", [False, True], ids=["cancelled", "completed"])
async def test_cancelled_workflow_cleans_up_and_decides_how_it_ends(
    env: SdkEnvironment, swallow: bool
) -> None:
    async with env.worker([CleanUpWhenCancelled]):
        handle = await env.start(CleanUpWhenCancelled.run, swallow)
        await wait_for_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)
        await handle.cancel()
        if swallow:
            assert await handle.result() == "cleaned up"
        else:
            with pytest.raises(WorkflowFailureError) as raised:
                await handle.result()
            assert isinstance(raised.value.cause, CancelledError)
    types = await event_types_of(handle)
    assert "WORKFLOW_EXECUTION_CANCEL_REQUESTED" in types
    assert "TIMER_CANCELED" in types


async def test_terminated_workflow_reports_the_reason(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    await handle.terminate("a detail", reason="no longer wanted")
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, TerminatedError)
    assert raised.value.cause.message == "no longer wanted"
    with pytest.raises(RPCError) as raised_again:
        await handle.terminate()
    assert raised_again.value.status is RPCStatusCode.NOT_FOUND


async def test_deleted_workflow_is_gone(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    await handle.terminate()
    await env.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=env.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
        )
    )

    async def is_gone() -> bool:
        try:
            await handle.describe()
        except RPCError as error:
            return error.status is RPCStatusCode.NOT_FOUND
        return False

    # The real server deletes in the background and takes up to a minute.
    await eventually(is_gone, True, timeout_s=120)


async def test_workflow_whose_code_raises_goes_on_with_repaired_code(env: SdkEnvironment) -> None:
    handle = await env.start("Repaired", task_timeout=timedelta(seconds=1))
    async with env.worker([Broken]):
        failed = await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)
        assert failed.workflow_task_failed_event_attributes.failure.message == "a bug"
    async with env.worker([Repaired]):
        assert await handle.result() == "repaired"
    assert (await event_types_of(handle)).count("WORKFLOW_TASK_FAILED") == 1


async def test_workflow_goes_on_with_a_new_worker(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    async with env.worker([Collect]):
        await handle.signal(Collect.add, "first worker")
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    async with env.worker([Collect]):
        await handle.signal(Collect.add, "second worker")
        await handle.signal(Collect.finish)
        assert await handle.result() == ["first worker", "second worker"]


async def test_workflow_runs_on_workers_that_cache_nothing(env: SdkEnvironment) -> None:
    async with env.worker([SleepThreeTimes], max_cached_workflows=0):
        handle = await env.start(SleepThreeTimes.run)
        lengths = await handle.result()
    assert lengths == sorted(lengths)
    events = await events_of(handle)
    assert [event.event_id for event in events] == list(range(1, len(events) + 1))


async def test_reset_replays_up_to_the_chosen_task_and_keeps_later_signals(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    async with env.worker([Collect]):
        first_task = await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        await handle.signal(Collect.add, "kept")
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, nth=2)
        response = await env.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=env.client.namespace,
                workflow_execution=WorkflowExecution(
                    workflow_id=handle.id, run_id=handle.first_execution_run_id or ""
                ),
                reason="try again",
                workflow_task_finish_event_id=first_task.event_id,
                request_id=str(uuid.uuid4()),
            )
        )
        old_run = env.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        assert (await old_run.describe()).status is WorkflowExecutionStatus.TERMINATED
        new_run = env.client.get_workflow_handle(handle.id, run_id=response.run_id)
        await new_run.signal(Collect.finish)
        assert await new_run.result() == ["kept"]


async def test_continue_as_new_makes_a_chain_of_runs_that_keeps_the_memo(env: SdkEnvironment) -> None:
    async with env.worker([CountDown]):
        handle = await env.start(CountDown.run, 2, memo={"origin": "first run"})
        result = await handle.result()
    assert result["memo"] == "first run"
    assert result["first_run_id"] == handle.first_execution_run_id
    assert len({result["first_run_id"], result["continued_run_id"], result["run_id"]}) == 3
    first_run = env.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    assert (await first_run.describe()).status is WorkflowExecutionStatus.CONTINUED_AS_NEW
    assert (await env.client.get_workflow_handle(handle.id).describe()).run_id == result["run_id"]
