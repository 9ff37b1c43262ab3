"""Activities that fail or run out of time: when they are tried again, and how they end."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice import v1 as api

from streams.history import retries
from tests.unit.history.support import (
    IDENTITY,
    CallError,
    Workflows,
    activity,
    application_failure,
    payloads,
    seconds,
)

STATE = RetryState
TYPE = TimeoutType


@pytest.fixture
def workflows() -> Workflows:
    """A workflow that has been started, with nothing done."""
    world = Workflows()
    world.start()
    return world


def policy(attempts: int = 0, initial_s: float = 1, coefficient: float = 1, **fields: Any) -> RetryPolicy:
    """A retry policy."""
    return RetryPolicy(
        maximum_attempts=attempts,
        initial_interval=seconds(initial_s),
        backoff_coefficient=coefficient,
        **fields,
    )


def fail(workflows: Workflows, task: api.PollActivityTaskQueueResponse, **info: Any) -> None:
    """Report that an attempt failed."""
    request = api.RespondActivityTaskFailedRequest(
        task_token=task.task_token, failure=application_failure(**info), identity=IDENTITY
    )
    workflows.call(request)


def test_retried_attempts_leave_no_events(workflows: Workflows) -> None:
    workflows.step(activity(retry_policy=policy(3)))
    task = workflows.poll_activity()
    fail(workflows, task)
    assert workflows.kinds() == ["ACTIVITY_TASK_SCHEDULED"]
    assert not workflows.waiting("activity", "act")
    workflows.pass_time(0.999)
    assert not workflows.waiting("activity", "act")
    workflows.pass_time(0.001)
    again = workflows.poll_activity()
    assert again.attempt == 2
    delay_ms = again.current_attempt_scheduled_time.ToMilliseconds() - again.scheduled_time.ToMilliseconds()
    assert delay_ms == 1000
    workflows.call(api.RespondActivityTaskCompletedRequest(task_token=again.task_token))
    started = workflows.event("ACTIVITY_TASK_STARTED")
    assert (started.attempt, started.last_failure) == (2, application_failure())
    with pytest.raises(CallError):
        fail(workflows, task)
    workflows.fold.check_refold()


def test_intervals_grow_to_the_maximum(workflows: Workflows) -> None:
    workflows.step(activity(retry_policy=policy(0, 1, 3, maximum_interval=seconds(5))))
    waits = []
    for _ in range(4):
        fail(workflows, workflows.poll_activity())
        before_ms = workflows.fold.now_ms
        due_ms = workflows.near_deadline_ms()
        waits.append(due_ms - before_ms)
        workflows.pass_time((due_ms - before_ms) / 1000)
    assert waits == [1000, 3000, 5000, 5000]


@pytest.mark.parametrize(
    ("fields", "info", "state"),
    [
        ({"retry_policy": policy(1)}, {}, STATE.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED),
        ({}, {"non_retryable": True}, STATE.RETRY_STATE_NON_RETRYABLE_FAILURE),
        (
            {"retry_policy": policy(5, non_retryable_error_types=["BoomError"])},
            {},
            STATE.RETRY_STATE_NON_RETRYABLE_FAILURE,
        ),
        (
            {"retry_policy": policy(5, 60), "schedule_to_close_timeout": seconds(30)},
            {},
            STATE.RETRY_STATE_TIMEOUT,
        ),
        ({}, {"next_retry_delay": seconds(0)}, STATE.RETRY_STATE_TIMEOUT),
    ],
)
def test_when_there_is_no_further_attempt(
    workflows: Workflows, fields: dict[str, Any], info: dict[str, Any], state: int
) -> None:
    workflows.step(activity(**fields))
    fail(workflows, workflows.poll_activity(), **info)
    assert workflows.kinds()[1:] == ["ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_FAILED"]
    assert workflows.event("ACTIVITY_TASK_FAILED").retry_state == state
    assert workflows.waiting("workflow", "tq") == 1


def test_failure_can_ask_for_its_own_delay(workflows: Workflows) -> None:
    workflows.step(activity(retry_policy=policy(5, 600)))
    fail(workflows, workflows.poll_activity(), next_retry_delay=seconds(2))
    workflows.pass_time(2)
    assert workflows.poll_activity().attempt == 2


def test_heartbeat_details_reach_the_next_attempt(workflows: Workflows) -> None:
    workflows.step(activity(retry_policy=policy(5), heartbeat_timeout=seconds(3)))
    task = workflows.poll_activity()
    workflows.pass_time(2)
    workflows.call(api.RecordActivityTaskHeartbeatRequest(task_token=task.task_token, details=payloads("a")))
    workflows.pass_time(2)
    fail(workflows, task)
    workflows.pass_time(1)
    second = workflows.poll_activity()
    assert second.heartbeat_details == payloads("a")
    request = api.RespondActivityTaskFailedRequest(
        task_token=second.task_token, failure=application_failure(), last_heartbeat_details=payloads("b")
    )
    workflows.call(request)
    workflows.pass_time(1)
    third = workflows.poll_activity()
    assert third.heartbeat_details == payloads("b")
    workflows.pass_time(3)
    workflows.pass_time(1)
    assert workflows.poll_activity().attempt == 4, "no heartbeat within its timeout since the start"
    workflows.fold.check_refold()


def test_attempt_that_takes_too_long_is_retried_then_times_out(workflows: Workflows) -> None:
    workflows.step(activity(retry_policy=policy(2)))
    workflows.poll_activity()
    workflows.pass_time(10)
    workflows.pass_time(1)
    task = workflows.poll_activity()
    workflows.call(api.RecordActivityTaskHeartbeatRequest(task_token=task.task_token, details=payloads("x")))
    workflows.pass_time(10)
    end = workflows.event("ACTIVITY_TASK_TIMED_OUT")
    assert end.retry_state == STATE.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert (end.failure.message, end.failure.source) == ("activity StartToClose timeout", "Server")
    info = end.failure.timeout_failure_info
    assert info.timeout_type == TYPE.TIMEOUT_TYPE_START_TO_CLOSE
    assert info.last_heartbeat_details == payloads("x")
    cause = end.failure.cause
    assert cause.message == "activity StartToClose timeout"
    assert not cause.timeout_failure_info.HasField("last_heartbeat_details")
    assert workflows.event("ACTIVITY_TASK_STARTED").last_failure == cause


def test_nobody_to_start_it(workflows: Workflows) -> None:
    workflows.step(activity(schedule_to_start_timeout=seconds(1)))
    workflows.pass_time(1)
    end = workflows.event("ACTIVITY_TASK_TIMED_OUT")
    assert end.failure.timeout_failure_info.timeout_type == TYPE.TIMEOUT_TYPE_SCHEDULE_TO_START
    assert (end.retry_state, end.started_event_id) == (STATE.RETRY_STATE_NON_RETRYABLE_FAILURE, 0)
    assert "ACTIVITY_TASK_STARTED" not in workflows.kinds()


def test_schedule_to_start_goes_before_schedule_to_close(workflows: Workflows) -> None:
    workflows.step(activity(schedule_to_close_timeout=seconds(1)))
    workflows.pass_time(1)
    end = workflows.event("ACTIVITY_TASK_TIMED_OUT")
    assert end.failure.message == "activity ScheduleToStart timeout"


def test_schedule_to_close_goes_before_start_to_close(workflows: Workflows) -> None:
    fields = {"start_to_close_timeout": seconds(0), "schedule_to_close_timeout": seconds(1)}
    workflows.step(activity(**fields))
    workflows.poll_activity()
    workflows.pass_time(1)
    end = workflows.event("ACTIVITY_TASK_TIMED_OUT")
    assert end.failure.message == "activity ScheduleToClose timeout"


def test_schedule_to_close_covers_all_attempts(workflows: Workflows) -> None:
    workflows.step(
        activity(
            retry_policy=policy(), start_to_close_timeout=seconds(0), schedule_to_close_timeout=seconds(3)
        )
    )
    fail(workflows, workflows.poll_activity())
    workflows.pass_time(1)
    workflows.poll_activity()
    workflows.pass_time(2)
    end = workflows.event("ACTIVITY_TASK_TIMED_OUT")
    assert end.failure.timeout_failure_info.timeout_type == TYPE.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    assert end.failure.cause == application_failure()
    assert end.retry_state == STATE.RETRY_STATE_NON_RETRYABLE_FAILURE


def test_schedule_to_close_ends_retries_after_a_timeout(workflows: Workflows) -> None:
    fields = {"schedule_to_close_timeout": seconds(12), "retry_policy": policy(0, 5)}
    workflows.step(activity(**fields))
    workflows.poll_activity()
    workflows.pass_time(10)
    end = workflows.event("ACTIVITY_TASK_TIMED_OUT")
    assert end.failure.message == "activity ScheduleToClose timeout"
    assert end.retry_state == STATE.RETRY_STATE_TIMEOUT


def test_large_failures_are_remembered_cut(workflows: Workflows) -> None:
    workflows.step(activity(retry_policy=policy(3)))
    task = workflows.poll_activity()
    failure = application_failure("é" * 4000)
    failure.cause.CopyFrom(application_failure("inner"))
    workflows.call(api.RespondActivityTaskFailedRequest(task_token=task.task_token, failure=failure))
    workflows.pass_time(1)
    again = workflows.poll_activity()
    workflows.call(api.RespondActivityTaskCompletedRequest(task_token=again.task_token))
    kept = workflows.event("ACTIVITY_TASK_STARTED").last_failure
    assert kept.message == "Failure exceeds size limit."
    assert kept.HasField("server_failure_info")
    assert kept.cause.application_failure_info.type == "BoomError"
    assert kept.cause.message.startswith("éé")
    assert kept.ByteSize() < 4300


def test_what_is_retryable() -> None:
    assert retries.is_retryable(None, [])
    assert retries.is_retryable(Failure(message="bare"), [])
    assert not retries.is_retryable(Failure(canceled_failure_info={}), [])
    assert not retries.is_retryable(Failure(terminated_failure_info={}), [])
    assert retries.is_retryable(retries.server_failure("x", non_retryable=False), [])
    assert not retries.is_retryable(retries.server_failure("x", non_retryable=True), [])
    too_long = retries.timeout_failure(TYPE.TIMEOUT_TYPE_START_TO_CLOSE)
    assert retries.is_retryable(too_long, [])
    assert not retries.is_retryable(too_long, ["TemporalTimeout:StartToClose"])
    assert not retries.is_retryable(retries.timeout_failure(TYPE.TIMEOUT_TYPE_SCHEDULE_TO_START), [])
