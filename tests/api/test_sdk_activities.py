"""Activities: results, retries, the four timeouts, heartbeats, cancellation, local activities."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    RetryState,
    TimeoutError,
    TimeoutType,
    is_cancelled_exception,
)

from tests.api.sdk_environment import (
    SdkEnvironment,
    event_types_of,
    events_of,
    eventually,
    wait_for_event,
)

QUICK_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=20), backoff_coefficient=1)
ONCE = RetryPolicy(maximum_attempts=1)
TEN_SECONDS = timedelta(seconds=10)


@activity.defn
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@activity.defn
async def fail_until(succeeding_attempt: int) -> int:
    attempt = activity.info().attempt
    if attempt < succeeding_attempt:
        raise ApplicationError(f"attempt {attempt}", attempt, type="Flaky")
    return attempt


@activity.defn
async def fail_asking_for_short_delay() -> int:
    attempt = activity.info().attempt
    if attempt == 1:
        raise ApplicationError("soon", next_retry_delay=timedelta(milliseconds=100))
    return attempt


@activity.defn
async def hang() -> None:
    await asyncio.Event().wait()


@activity.defn
async def resume_from_heartbeat() -> list[Any]:
    if activity.info().attempt == 1:
        activity.heartbeat("half-way", 50)
        raise ApplicationError("lost")
    return list(activity.info().heartbeat_details)


@activity.defn
async def heartbeat_until_cancelled() -> str:
    try:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        return "cleaned up"


@activity.defn
async def heartbeat_and_acknowledge_cancellation() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.05)


@workflow.defn
class CallActivity:
    @workflow.run
    async def run(self, name: str, args: list[Any]) -> Any:
        return await workflow.execute_activity(
            name, args=args, start_to_close_timeout=TEN_SECONDS, retry_policy=QUICK_RETRY
        )


@workflow.defn
class CallActivityThreeTimesAtMost:
    @workflow.run
    async def run(self, succeeding_attempt: int, non_retryable_types: list[str]) -> int:
        policy = RetryPolicy(
            initial_interval=timedelta(milliseconds=20),
            maximum_attempts=3,
            non_retryable_error_types=non_retryable_types,
        )
        return await workflow.execute_activity(
            fail_until, succeeding_attempt, start_to_close_timeout=TEN_SECONDS, retry_policy=policy
        )


@workflow.defn
class CallActivityWithSlowPolicy:
    @workflow.run
    async def run(self) -> int:
        policy = RetryPolicy(initial_interval=timedelta(hours=1))
        return await workflow.execute_activity(
            fail_asking_for_short_delay, start_to_close_timeout=TEN_SECONDS, retry_policy=policy
        )


@workflow.defn
class CallWithTimeout:
    @workflow.run
    async def run(self, timeout_name: str, task_queue: str) -> None:
        timeouts = {"schedule_to_close_timeout": TEN_SECONDS, timeout_name: timedelta(seconds=1)}
        await workflow.execute_activity(hang, task_queue=task_queue, retry_policy=ONCE, **timeouts)


@workflow.defn
class CancelActivityOnSignal:
    def __init__(self) -> None:
        self.cancel_requested = False

    @workflow.run
    async def run(self, name: str) -> Any:
        handle = workflow.start_activity(
            name,
            start_to_close_timeout=TEN_SECONDS,
            heartbeat_timeout=timedelta(seconds=5),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=ONCE,
        )
        await workflow.wait_condition(lambda: self.cancel_requested)
        handle.cancel()
        try:
            return await handle
        except ActivityError as error:
            return f"cancelled: {is_cancelled_exception(error)}"

    @workflow.signal
    def cancel(self) -> None:
        self.cancel_requested = True


@workflow.defn
class CallLocalActivity:
    @workflow.run
    async def run(self) -> list[Any]:
        greeting = await workflow.execute_local_activity(
            greet, "local", schedule_to_close_timeout=TEN_SECONDS
        )
        attempt = await workflow.execute_local_activity(
            fail_until, 3, schedule_to_close_timeout=TEN_SECONDS, retry_policy=QUICK_RETRY
        )
        return [greeting, attempt]


async def failure_of(env: SdkEnvironment, workflow_type: Any, *args: Any) -> ActivityError:
    """The activity failure that failed the workflow."""
    with pytest.raises(WorkflowFailureError) as raised:
        await env.execute(workflow_type, *args)
    assert isinstance(raised.value.cause, ActivityError)
    return raised.value.cause


@pytest.mark.parametrize("eager_disabled", [False, True], ids=["eager", "through the task queue"])
async def test_activity_result_reaches_the_workflow(env: SdkEnvironment, eager_disabled: bool) -> None:
    async with env.worker([CallActivity], [greet], disable_eager_activity_execution=eager_disabled):
        assert await env.execute(CallActivity.run, "greet", ["world"]) == "Hello, world!"


async def test_failed_activity_is_retried_and_only_its_last_attempt_is_in_history(
    env: SdkEnvironment,
) -> None:
    async with env.worker([CallActivity], [fail_until]):
        handle = await env.start(CallActivity.run, "fail_until", [3])
        assert await handle.result() == 3
    started = [
        event.activity_task_started_event_attributes
        for event in await events_of(handle)
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
    ]
    assert [(attributes.attempt, attributes.last_failure.message) for attributes in started] == [
        (3, "attempt 2")
    ]


async def test_activity_fails_for_good_after_maximum_attempts(env: SdkEnvironment) -> None:
    async with env.worker([CallActivityThreeTimesAtMost], [fail_until]):
        error = await failure_of(env, CallActivityThreeTimesAtMost.run, 100, [])
    assert error.retry_state is RetryState.MAXIMUM_ATTEMPTS_REACHED
    assert isinstance(error.cause, ApplicationError)
    assert (error.cause.message, error.cause.type, error.cause.details) == ("attempt 3", "Flaky", (3,))


async def test_activity_with_non_retryable_error_type_is_not_retried(env: SdkEnvironment) -> None:
    async with env.worker([CallActivityThreeTimesAtMost], [fail_until]):
        error = await failure_of(env, CallActivityThreeTimesAtMost.run, 100, ["Flaky"])
    assert error.retry_state is RetryState.NON_RETRYABLE_FAILURE
    assert isinstance(error.cause, ApplicationError)
    assert error.cause.message == "attempt 1"


async def test_next_retry_delay_overrides_the_retry_policy(env: SdkEnvironment) -> None:
    async with env.worker([CallActivityWithSlowPolicy], [fail_asking_for_short_delay]):
        assert await env.execute(CallActivityWithSlowPolicy.run) == 2


@pytest.mark.parametrize(
    ("timeout_name", "queue_has_worker", "expected"),
    [
        ("start_to_close_timeout", True, TimeoutType.START_TO_CLOSE),
        ("heartbeat_timeout", True, TimeoutType.HEARTBEAT),
        ("schedule_to_start_timeout", False, TimeoutType.SCHEDULE_TO_START),
        ("schedule_to_close_timeout", True, TimeoutType.SCHEDULE_TO_CLOSE),
        # The schedule-to-start timeout is as long, and is the first of two that end at once.
        ("schedule_to_close_timeout", False, TimeoutType.SCHEDULE_TO_START),
    ],
)
async def test_activity_times_out(
    env: SdkEnvironment, timeout_name: str, queue_has_worker: bool, expected: TimeoutType
) -> None:
    task_queue = env.task_queue if queue_has_worker else f"{env.task_queue}-without-workers"
    async with env.worker([CallWithTimeout], [hang]):
        error = await failure_of(env, CallWithTimeout.run, timeout_name, task_queue)
    assert isinstance(error.cause, TimeoutError)
    assert error.cause.type is expected


async def test_heartbeat_details_reach_the_next_attempt(env: SdkEnvironment) -> None:
    async with env.worker([CallActivity], [resume_from_heartbeat]):
        assert await env.execute(CallActivity.run, "resume_from_heartbeat", []) == ["half-way", 50]


@pytest.mark.parametrize(
    ("activity_type", "expected", "closing_event"),
    [
        (heartbeat_until_cancelled, "cleaned up", "ACTIVITY_TASK_COMPLETED"),
        (heartbeat_and_acknowledge_cancellation, "cancelled: True", "ACTIVITY_TASK_CANCELED"),
    ],
)
async def test_cancellation_reaches_an_activity_through_its_heartbeat(
    env: SdkEnvironment, activity_type: Any, expected: str, closing_event: str
) -> None:
    async with env.worker([CancelActivityOnSignal], [activity_type]):
        handle = await env.start(CancelActivityOnSignal.run, activity_type.__name__)
        await eventually(lambda: pending_activity_states_of(handle), ["PENDING_ACTIVITY_STATE_STARTED"])
        await handle.signal(CancelActivityOnSignal.cancel)
        assert await handle.result() == expected
    types = await event_types_of(handle)
    assert types.index("ACTIVITY_TASK_CANCEL_REQUESTED") < types.index(closing_event)


async def test_activity_cancelled_before_a_worker_took_it_never_starts(env: SdkEnvironment) -> None:
    async with env.worker([CancelActivityOnSignal]):
        handle = await env.start(CancelActivityOnSignal.run, "heartbeat_until_cancelled")
        await wait_for_event(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
        await handle.signal(CancelActivityOnSignal.cancel)
        assert await handle.result() == "cancelled: True"
    assert "ACTIVITY_TASK_STARTED" not in await event_types_of(handle)


async def test_local_activity_leaves_markers_only(env: SdkEnvironment) -> None:
    async with env.worker([CallLocalActivity], [greet, fail_until]):
        handle = await env.start(CallLocalActivity.run)
        assert await handle.result() == ["Hello, local!", 3]
    types = await event_types_of(handle)
    assert types.count("MARKER_RECORDED") == 2
    assert "ACTIVITY_TASK_SCHEDULED" not in types


async def test_describe_shows_attempt_and_last_failure_of_a_pending_activity(env: SdkEnvironment) -> None:
    async with env.worker([CallActivity], [fail_until]):
        handle = await env.start(CallActivity.run, "fail_until", [1_000_000])

        async def has_failed_twice() -> bool:
            pending = (await handle.describe()).raw_description.pending_activities
            return bool(pending) and pending[0].attempt > 2

        await eventually(has_failed_twice, True)
        [pending] = (await handle.describe()).raw_description.pending_activities
        assert pending.activity_type.name == "fail_until"
        assert pending.last_failure.message.startswith("attempt ")
        assert pending.last_failure.application_failure_info.type == "Flaky"
        await handle.terminate()


async def pending_activity_states_of(handle: Any) -> list[str]:
    pending = (await handle.describe()).raw_description.pending_activities
    return [PendingActivityState.Name(info.state) for info in pending]
