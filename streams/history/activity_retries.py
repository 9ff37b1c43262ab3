"""Activities that are tried again, and those whose time is over.

Behaviour: RetryActivity and the activity timeouts of the real server (release 1.29.1).
"""

from __future__ import annotations

import msgspec
from temporalio.api.enums.v1 import EventType, RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import ActivityTaskTimedOutEventAttributes

from streams.history import activities, facts, retries
from streams.history.run import Run
from streams.history.state import ACTIVITY, Activity

IN_PROGRESS = RetryState.RETRY_STATE_IN_PROGRESS

_ORDER = (
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START,
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE,
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT,
)
"""Which of the timeouts that end in the same ms is first. An activity that starts in the ms in which it was
scheduled has started after that, as the real server's finer clock tells."""

FAILURE_TOO_LARGE = "Failure exceeds size limit."


def retry(run: Run, activity: Activity, failure: Failure | None) -> RetryState.ValueType:
    """Have a failed attempt followed by another. Returns IN_PROGRESS then, else why there is none."""
    policy = activities.scheduled_attributes(activity).retry_policy
    if activity.cancel_requested_event_id:
        return RetryState.RETRY_STATE_CANCEL_REQUESTED
    if not retries.is_retryable(failure, policy.non_retryable_error_types):
        return RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    now_ms = run.step.now_ms
    to_close_ms = activity.schedule_to_close_ms
    interval_ms, verdict = retries.next_interval(
        policy,
        activity.attempt,
        now_ms,
        activity.first_scheduled_ms + to_close_ms if to_close_ms else 0,
        retries.requested_delay_ms(failure),
    )
    if verdict == IN_PROGRESS:
        activities.change(
            run,
            activity,
            attempt=activity.attempt + 1,
            attempt_scheduled_ms=now_ms + interval_ms,
            retry_due_ms=now_ms + interval_ms,
            retry_interval_ms=interval_ms,
            started_ms=0,
            request_id="",
            poll_id=0,
            failure=_kept(failure, run.step.limits.activity_failure_bytes),
            last_worker_identity=activity.started_identity,
        )
    return verdict


def _kept(failure: Failure | None, max_bytes: int) -> bytes:
    """A failure as the run remembers it until the next attempt ends."""
    if failure is None:
        return b""
    if failure.ByteSize() > max_bytes:
        cut = retries.server_failure(FAILURE_TOO_LARGE, non_retryable=False)
        cut.cause.CopyFrom(retries.truncate(failure, max_bytes))
        failure = cut
    return failure.SerializeToString(deterministic=True)


def expire(run: Run, id: str) -> None:
    """A timeout of the activity, or its next attempt, is due."""
    activity: Activity = run.entity.get(ACTIVITY, id)
    timeout = _due_timeout(activity, run.step.now_ms)
    if timeout:
        _time_out(run, activity, timeout)
    elif activity.retry_due_ms:
        run.note(facts.ActivityDispatched(msgspec.structs.replace(activity, retry_due_ms=0)))


def _due_timeout(activity: Activity, now_ms: int) -> TimeoutType.ValueType:
    """The first timeout that is due, of several at once the first in `_ORDER`; 0 for none."""
    due: list[tuple[int, int]] = []

    def add(since_ms: int, timeout_ms: int, timeout: TimeoutType.ValueType) -> None:
        if timeout_ms and since_ms + timeout_ms <= now_ms:
            due.append((since_ms + timeout_ms, _ORDER.index(timeout)))

    add(
        activity.first_scheduled_ms, activity.schedule_to_close_ms, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE
    )
    if activity.started_ms:
        alive_ms = max(activity.started_ms, activity.heartbeat_at_ms)
        add(activity.started_ms, activity.start_to_close_ms, TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE)
        add(alive_ms, activity.heartbeat_ms, TimeoutType.TIMEOUT_TYPE_HEARTBEAT)
    elif not activity.retry_due_ms:
        to_start_ms = activity.schedule_to_start_ms
        add(activity.attempt_scheduled_ms, to_start_ms, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START)
    return _ORDER[min(due)[1]] if due else TimeoutType.TIMEOUT_TYPE_UNSPECIFIED


def _time_out(run: Run, activity: Activity, timeout: TimeoutType.ValueType) -> None:
    failure = retries.timeout_failure(timeout)
    verdict = retry(run, activity, failure)
    if verdict == IN_PROGRESS:
        return
    if verdict == RetryState.RETRY_STATE_TIMEOUT:
        failure = retries.timeout_failure(TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE)
    if activity.details:
        failure.timeout_failure_info.last_heartbeat_details.ParseFromString(activity.details)
    cause = activities.last_failure(activity)
    if cause is not None:
        failure.cause.CopyFrom(cause)
    started_event_id = activities.record_started(run, activity)
    activities.record_end(
        run,
        EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
        ActivityTaskTimedOutEventAttributes(
            failure=failure,
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            retry_state=verdict,
        ),
    )
