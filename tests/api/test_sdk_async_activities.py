"""Activities completed from outside the worker, by task token and by id."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import (
    AsyncActivityCancelledError,
    AsyncActivityHandle,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from tests.api.sdk_environment import WAIT_TIMEOUT_S, SdkEnvironment

ACTIVITY_ID = "outside"


class Outside:
    """An activity that hands over its task token and leaves its completion to others."""

    def __init__(self) -> None:
        self.task_token: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @activity.defn
    async def complete_outside(self) -> str:
        self.task_token.set_result(activity.info().task_token)
        activity.raise_complete_async()


@workflow.defn
class CallOutside:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity_method(
            Outside.complete_outside,
            activity_id=ACTIVITY_ID,
            start_to_close_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(maximum_attempts=1),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


@pytest.fixture(params=["by token", "by id"])
async def pending(env: SdkEnvironment, request: pytest.FixtureRequest) -> Any:
    """The workflow and its activity, started and left to be completed from outside."""
    outside = Outside()
    async with env.worker([CallOutside], [outside.complete_outside]):
        handle = await env.start(CallOutside.run)
        task_token = await outside.task_token
        if request.param == "by token":
            yield handle, env.client.get_async_activity_handle(task_token=task_token)
        else:
            yield (
                handle,
                env.client.get_async_activity_handle(
                    workflow_id=handle.id, run_id=handle.first_execution_run_id, activity_id=ACTIVITY_ID
                ),
            )


Pending = tuple[WorkflowHandle[Any, str], AsyncActivityHandle]


async def test_completed_once(pending: Pending) -> None:
    handle, outside = pending
    await outside.heartbeat("alive")
    await outside.complete("done elsewhere")
    assert await handle.result() == "done elsewhere"
    with pytest.raises(RPCError) as raised:
        await outside.complete("done again")
    assert raised.value.status is RPCStatusCode.NOT_FOUND


async def test_failed(pending: Pending) -> None:
    handle, outside = pending
    await outside.fail(ApplicationError("no paper", type="Printer"))
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, ActivityError)
    assert isinstance(raised.value.cause.cause, ApplicationError)
    assert (raised.value.cause.cause.message, raised.value.cause.cause.type) == ("no paper", "Printer")


async def heartbeat_forever(outside: AsyncActivityHandle) -> None:
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        while True:
            await outside.heartbeat()


async def test_cancellation_seen_by_heartbeat_and_reported(pending: Pending) -> None:
    handle, outside = pending
    await handle.cancel()
    with pytest.raises(AsyncActivityCancelledError):
        await heartbeat_forever(outside)
    await outside.report_cancellation("stopped")
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, CancelledError)
