"""Activities with the official SDK."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError

from ..registry import scenario
from ..world import World


@activity.defn
async def flaky() -> str:
    attempt = activity.info().attempt
    if attempt < 3:
        raise ApplicationError(f"attempt {attempt}", type="Flaky")
    return f"attempt {attempt}"


@workflow.defn
class Retries:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(
            flaky,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
        )


@scenario(sdk=True)
async def sdk_retry(w: World) -> None:
    client = await w.client()
    async with w.worker([Retries], [flaky]):
        w.record("result", await client.execute_workflow(Retries.run, id=w.id("wf"), task_queue=w.id("tq")))
    await w.history()


@activity.defn
async def fatal() -> None:
    raise ApplicationError("no way", {"detail": 1}, type="Fatal", non_retryable=True)


@activity.defn
async def endless() -> None:
    await asyncio.get_running_loop().create_future()


@workflow.defn
class Failures:
    @workflow.run
    async def run(self, which: str) -> None:
        limits = {
            "start_to_close_timeout": timedelta(seconds=30),
            "retry_policy": RetryPolicy(maximum_attempts=1),
        }
        if which == "application":
            await workflow.execute_activity(fatal, **limits)
        elif which == "timeout":
            await workflow.execute_activity(
                fatal, **limits, task_queue="oracle-nobody", schedule_to_start_timeout=timedelta(seconds=1)
            )
        else:
            handle = workflow.start_activity(
                endless,
                **limits,
                task_queue="oracle-nobody",
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
            await workflow.sleep(0.1)
            handle.cancel()
            await handle


def _chain(error: BaseException | None) -> list[object]:
    """Type, message and telling fields of an error and its causes."""
    chain: list[object] = []
    while error is not None:
        entry: dict[str, object] = {"error": type(error).__name__, "message": str(error)}
        if isinstance(error, ApplicationError):
            entry |= {
                "type": error.type,
                "non_retryable": error.non_retryable,
                "details": list(error.details),
            }
        if isinstance(error, TimeoutError):
            entry["timeout"] = error.type.name if error.type else None
        if isinstance(error, ActivityError):
            entry |= {
                "retry_state": error.retry_state.name if error.retry_state else None,
                "id": error.activity_id,
            }
        if isinstance(error, CancelledError):
            entry["details"] = list(error.details)
        chain.append(entry)
        error = error.__cause__
    return chain


@scenario(sdk=True)
async def sdk_failures(w: World) -> None:
    client = await w.client()
    async with w.worker([Failures], [fatal, endless]):
        for which in ("application", "timeout", "cancel"):
            try:
                await client.execute_workflow(Failures.run, which, id=w.id(which), task_queue=w.id("tq"))
            except WorkflowFailureError as error:
                w.record(which, _chain(error))
            await w.history(which)


@activity.defn
async def finished_elsewhere() -> str:
    activity.raise_complete_async()


@workflow.defn
class Elsewhere:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity(
            finished_elsewhere, activity_id="a1", start_to_close_timeout=timedelta(seconds=30)
        )


@scenario(sdk=True)
async def sdk_async_completion(w: World) -> None:
    client = await w.client()
    async with w.worker([Elsewhere], [finished_elsewhere]):
        handle = await client.start_workflow(Elsewhere.run, id=w.id("wf"), task_queue=w.id("tq"))
        described = await w.until(
            handle.describe,
            lambda answer: [a for a in answer.raw_description.pending_activities if a.state == 2],
            "the started activity",
        )
        w.record("pending", described)
        outside = client.get_async_activity_handle(workflow_id=w.id("wf"), run_id=None, activity_id="a1")
        await outside.heartbeat("half")
        await outside.complete("done outside")
        w.record("result", await handle.result())
    await w.history()
