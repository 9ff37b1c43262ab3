"""Starting workflows: id policies, idempotency, timeouts, retry, cron, delay, metadata, eager start."""

import asyncio
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.enums.v1 import EventType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import StartWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import Priority, RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode

from tests.api.sdk_environment import SdkEnvironment, event_types_of, events_of, wait_for_event


@workflow.defn
class Hello:
    @workflow.run
    async def run(self, name: str) -> str:
        return f"Hello, {name}!"


@workflow.defn
class Wait:
    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@workflow.defn
class FailUntilAttempt:
    @workflow.run
    async def run(self, succeeding_attempt: int) -> int:
        attempt = workflow.info().attempt
        if attempt < succeeding_attempt:
            raise ApplicationError(f"attempt {attempt}")
        return attempt


@workflow.defn
class CountRuns:
    """A cron workflow that returns its number, found through the result of the run before it."""

    @workflow.run
    async def run(self) -> int:
        if not workflow.has_last_completion_result():
            return 1
        return workflow.get_last_completion_result(int) + 1


async def test_second_start_under_the_id_of_an_open_workflow_fails(env: SdkEnvironment) -> None:
    handle = await env.start(Wait.run)
    with pytest.raises(WorkflowAlreadyStartedError) as raised:
        await env.start(Wait.run, id=handle.id)
    assert (raised.value.workflow_id, raised.value.workflow_type) == (handle.id, "Wait")
    assert raised.value.run_id == handle.first_execution_run_id
    await handle.terminate()


async def test_conflict_policy_use_existing_returns_the_open_run(env: SdkEnvironment) -> None:
    first = await env.start(Wait.run)
    second = await env.start(Wait.run, id=first.id, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    assert second.result_run_id == first.result_run_id
    await first.terminate()


async def test_conflict_policy_terminate_existing_replaces_the_open_run(env: SdkEnvironment) -> None:
    first = await env.start(Wait.run)
    policy = WorkflowIDConflictPolicy.TERMINATE_EXISTING
    second = await env.start(Wait.run, id=first.id, id_conflict_policy=policy)
    assert second.result_run_id != first.result_run_id
    old = env.client.get_workflow_handle(first.id, run_id=first.result_run_id)
    assert (await old.describe()).status is WorkflowExecutionStatus.TERMINATED
    assert (await second.describe()).status is WorkflowExecutionStatus.RUNNING
    await second.terminate()


@pytest.mark.parametrize(
    ("policy", "after_success", "after_failure"),
    [
        (WorkflowIDReusePolicy.ALLOW_DUPLICATE, True, True),
        (WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, False, True),
        (WorkflowIDReusePolicy.REJECT_DUPLICATE, False, False),
    ],
)
async def test_reuse_policy_decides_on_the_id_of_a_closed_workflow(
    env: SdkEnvironment, policy: WorkflowIDReusePolicy, after_success: bool, after_failure: bool
) -> None:
    async with env.worker([Hello]):
        succeeded = await env.start(Hello.run, "world")
        await succeeded.result()
        failed = await env.start(Wait.run)
        await failed.terminate()
        for closed, allowed in ((succeeded, after_success), (failed, after_failure)):
            if allowed:
                again = await env.start(Hello.run, "again", id=closed.id, id_reuse_policy=policy)
                assert await again.result() == "Hello, again!"
            else:
                with pytest.raises(WorkflowAlreadyStartedError):
                    await env.start(Hello.run, "again", id=closed.id, id_reuse_policy=policy)


async def test_repeated_start_request_gives_the_same_run(env: SdkEnvironment) -> None:
    request = StartWorkflowExecutionRequest(
        namespace=env.client.namespace,
        workflow_id=env.new_id(),
        workflow_type=WorkflowType(name="Wait"),
        task_queue=TaskQueue(name=env.task_queue),
        request_id=str(uuid.uuid4()),
    )
    responses = [await env.client.workflow_service.start_workflow_execution(request) for _ in range(3)]
    assert len({response.run_id for response in responses}) == 1
    request.request_id = str(uuid.uuid4())
    with pytest.raises(RPCError) as raised:
        await env.client.workflow_service.start_workflow_execution(request)
    assert raised.value.status is RPCStatusCode.ALREADY_EXISTS
    await env.client.get_workflow_handle(request.workflow_id).terminate()


@pytest.mark.parametrize("timeout_name", ["run_timeout", "execution_timeout"])
async def test_workflow_times_out(env: SdkEnvironment, timeout_name: str) -> None:
    handle = await env.start(Wait.run, **{timeout_name: timedelta(seconds=1)})
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, TimeoutError)
    assert raised.value.cause.type is TimeoutType.START_TO_CLOSE
    assert (await handle.describe()).status is WorkflowExecutionStatus.TIMED_OUT


async def test_failed_workflow_is_retried_in_new_runs(env: SdkEnvironment) -> None:
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=3)
    async with env.worker([FailUntilAttempt]):
        handle = await env.start(FailUntilAttempt.run, 3, retry_policy=policy)
        assert await handle.result() == 3
        first_run = env.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        assert (await first_run.describe()).status is WorkflowExecutionStatus.FAILED
        with pytest.raises(WorkflowFailureError) as raised:
            await env.execute(FailUntilAttempt.run, 100, retry_policy=policy)
    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.message == "attempt 3"


async def test_cron_runs_follow_each_other_with_the_last_result(env: SdkEnvironment) -> None:
    async with env.worker([CountRuns]):
        handle = await env.start(CountRuns.run, cron_schedule="@every 1s")
        completed = []
        run_id = handle.first_execution_run_id
        while len(completed) < 2:
            run = env.client.get_workflow_handle(handle.id, run_id=run_id)
            event = await wait_for_event(run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
            attributes = event.workflow_execution_completed_event_attributes
            completed += await env.client.data_converter.decode(attributes.result.payloads)
            run_id = attributes.new_execution_run_id
        assert completed == [1, 2]
        await env.client.get_workflow_handle(handle.id).terminate()


async def test_start_delay_holds_back_the_first_task(env: SdkEnvironment) -> None:
    async with env.worker([Hello]):
        before_s = time.monotonic()
        assert await env.execute(Hello.run, "later", start_delay=timedelta(seconds=1)) == "Hello, later!"
        assert time.monotonic() - before_s >= 1


async def test_signal_does_not_end_the_start_delay(env: SdkEnvironment) -> None:
    handle = await env.start(Wait.run, start_delay=timedelta(hours=1))
    await handle.signal("anything")
    assert await event_types_of(handle) == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_EXECUTION_SIGNALED"]
    await handle.terminate()


async def test_describe_shows_memo_summary_details_and_timeouts(env: SdkEnvironment) -> None:
    handle = await env.start(
        Wait.run,
        memo={"customer": "K.", "items": [1, 2]},
        static_summary="An order",
        static_details="One *long* description",
        execution_timeout=timedelta(hours=3),
        run_timeout=timedelta(hours=2),
        task_timeout=timedelta(seconds=7),
    )
    description = await handle.describe()
    assert await description.memo() == {"customer": "K.", "items": [1, 2]}
    assert await description.static_summary() == "An order"
    assert await description.static_details() == "One *long* description"
    config = description.raw_description.execution_config
    assert config.workflow_execution_timeout.ToTimedelta() == timedelta(hours=3)
    assert config.workflow_run_timeout.ToTimedelta() == timedelta(hours=2)
    assert config.default_workflow_task_timeout.ToTimedelta() == timedelta(seconds=7)
    assert config.task_queue.name == env.task_queue
    assert (description.workflow_type, description.status) == ("Wait", WorkflowExecutionStatus.RUNNING)
    await handle.terminate()


async def test_priority_is_carried(env: SdkEnvironment) -> None:
    handle = await env.start(Wait.run, priority=Priority(priority_key=2))
    [started, *_] = await events_of(handle)
    assert started.workflow_execution_started_event_attributes.priority.priority_key == 2
    await handle.terminate()


async def test_eager_start_hands_the_first_task_to_the_starter(env: SdkEnvironment) -> None:
    async with env.worker([Hello]):
        handle = await env.start(Hello.run, "eager", request_eager_start=True)
        assert await handle.result() == "Hello, eager!"
    [started, *_] = await events_of(handle)
    assert started.workflow_execution_started_event_attributes.eager_execution_accepted


async def test_unknown_workflow_and_namespace_are_not_found(env: SdkEnvironment, server_address: str) -> None:
    elsewhere = await Client.connect(server_address, namespace="no-such-namespace")
    calls: list[Any] = [
        env.client.get_workflow_handle("no-such-workflow").describe(),
        elsewhere.start_workflow("Wait", id=env.new_id(), task_queue=env.task_queue),
    ]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, RPCError)
        assert outcome.status is RPCStatusCode.NOT_FOUND
