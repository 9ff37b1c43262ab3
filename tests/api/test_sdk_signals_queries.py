"""Signals and queries."""

import asyncio
import uuid
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)
from temporalio.common import QueryRejectCondition
from temporalio.service import RPCError, RPCStatusCode

from tests.api.sdk_environment import SdkEnvironment, event_types_of, wait_for_event


@workflow.defn
class Collect:
    """Collects what its "add" signals carry until a "finish" signal, and answers queries about it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.finished = False

    @workflow.run
    async def run(self) -> list[Any]:
        await workflow.wait_condition(lambda: self.finished)
        return self.seen

    @workflow.signal
    def add(self, value: Any) -> None:
        self.seen.append(value)

    @workflow.signal
    def finish(self) -> None:
        self.finished = True

    @workflow.query
    def count(self, factor: int) -> int:
        return len(self.seen) * factor

    @workflow.query
    def fail(self) -> None:
        raise ValueError("cannot answer")


async def test_signals_sent_before_the_first_workflow_task_arrive_in_order(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    for value in range(5):
        await handle.signal(Collect.add, value)
    await handle.signal(Collect.finish)
    async with env.worker([Collect]):
        assert await handle.result() == list(range(5))


async def test_every_one_of_many_concurrent_signals_arrives_once(env: SdkEnvironment) -> None:
    async with env.worker([Collect]):
        handle = await env.start(Collect.run)
        await asyncio.gather(*(handle.signal(Collect.add, value) for value in range(150)))
        await handle.signal(Collect.finish)
        assert sorted(await handle.result()) == list(range(150))


async def test_repeated_signal_request_takes_effect_once(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    request = SignalWorkflowExecutionRequest(
        namespace=env.client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=handle.id),
        signal_name="add",
        request_id=str(uuid.uuid4()),
        input={"payloads": await env.client.data_converter.encode(["once"])},
    )
    for _ in range(3):
        await env.client.workflow_service.signal_workflow_execution(request)
    await handle.signal(Collect.finish)
    async with env.worker([Collect]):
        assert await handle.result() == ["once"]


async def test_signal_with_start_starts_one_run_and_signals_it_each_time(env: SdkEnvironment) -> None:
    workflow_id = env.new_id()
    first, second = [
        await env.start(Collect.run, id=workflow_id, start_signal="add", start_signal_args=[value])
        for value in ("a", "b")
    ]
    await first.signal(Collect.finish)
    async with env.worker([Collect]):
        assert await first.result() == ["a", "b"]
    assert first.result_run_id == second.result_run_id
    assert (await event_types_of(first))[:2] == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_EXECUTION_SIGNALED"]


async def test_signal_to_a_closed_or_unknown_workflow_is_not_found(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    await handle.terminate()
    for target in (handle, env.client.get_workflow_handle("no-such-workflow")):
        with pytest.raises(RPCError) as raised:
            await target.signal("add", "late")
        assert raised.value.status is RPCStatusCode.NOT_FOUND


async def test_query_running_and_closed_workflow(env: SdkEnvironment) -> None:
    async with env.worker([Collect]):
        handle = await env.start(Collect.run)
        assert await handle.query(Collect.count, 10) == 0
        await handle.signal(Collect.add, "a")
        assert await handle.query(Collect.count, 10) == 10
        await handle.signal(Collect.finish)
        await handle.result()
        assert await handle.query(Collect.count, 10) == 10
    assert "WORKFLOW_TASK_FAILED" not in await event_types_of(handle)


async def test_query_leaves_no_event(env: SdkEnvironment) -> None:
    async with env.worker([Collect]):
        handle = await env.start(Collect.run)
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        before = await event_types_of(handle)
        await handle.query(Collect.count, 1)
        assert await event_types_of(handle) == before
        await handle.terminate()


async def test_query_is_answered_by_a_worker_that_must_replay(env: SdkEnvironment) -> None:
    handle = await env.start(Collect.run)
    async with env.worker([Collect]):
        await handle.signal(Collect.add, "a")
        await wait_for_event(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
    async with env.worker([Collect], max_cached_workflows=0):
        assert await handle.query(Collect.count, 1) == 1
        await handle.terminate()


async def test_failing_and_unknown_queries_report_the_reason(env: SdkEnvironment) -> None:
    async with env.worker([Collect]):
        handle = await env.start(Collect.run)
        with pytest.raises(WorkflowQueryFailedError, match="cannot answer"):
            await handle.query(Collect.fail)
        with pytest.raises(WorkflowQueryFailedError, match="no-such-query"):
            await handle.query("no-such-query")
        await handle.terminate()


async def test_built_in_stack_trace_query_is_answered(env: SdkEnvironment) -> None:
    async with env.worker([Collect]):
        handle = await env.start(Collect.run)
        assert "workflow: Collect" in await handle.query("__stack_trace")
        await handle.terminate()


async def test_query_is_rejected_by_condition(env: SdkEnvironment) -> None:
    async with env.worker([Collect]):
        handle = await env.start(Collect.run)
        condition = QueryRejectCondition.NOT_OPEN
        assert await handle.query(Collect.count, 1, reject_condition=condition) == 0
        await handle.signal(Collect.finish)
        await handle.result()
        with pytest.raises(WorkflowQueryRejectedError) as raised:
            await handle.query(Collect.count, 1, reject_condition=condition)
    assert raised.value.status is WorkflowExecutionStatus.COMPLETED
