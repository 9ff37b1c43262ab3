"""When something that failed is tried again: shared by activities and workflows.

Behaviour: the real server's retry rules (service/history/workflow/retry.go, release 1.29.1).
"""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure, ServerFailureInfo, TimeoutFailureInfo

from streams.history.values import backoff_ms, duration_ms

TIMEOUT_NAMES = {
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "StartToClose",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START: "ScheduleToStart",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "ScheduleToClose",
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "Heartbeat",
}

_RETRYABLE_TIMEOUTS = (TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, TimeoutType.TIMEOUT_TYPE_HEARTBEAT)

_TRUNCATED_DEPTH = 20
"""Causes kept of a failure that is cut to size."""


def is_retryable(failure: Failure | None, non_retryable_types: Iterable[str]) -> bool:
    """Whether a failure of this kind may be tried again at all."""
    kind = None if failure is None else failure.WhichOneof("failure_info")
    if failure is None or kind is None:
        return True
    if kind in ("terminated_failure_info", "canceled_failure_info"):
        return False
    if kind == "timeout_failure_info":
        timeout = failure.timeout_failure_info.timeout_type
        name = f"TemporalTimeout:{TIMEOUT_NAMES.get(timeout, '')}"
        return timeout in _RETRYABLE_TIMEOUTS and name not in non_retryable_types
    if kind == "server_failure_info":
        return not failure.server_failure_info.non_retryable
    if kind == "application_failure_info":
        info = failure.application_failure_info
        return not info.non_retryable and info.type not in non_retryable_types
    return True


def requested_delay_ms(failure: Failure | None) -> int | None:
    """The delay that the failure itself asks for before the next attempt, in ms."""
    if failure is None or not failure.HasField("application_failure_info"):
        return None
    info = failure.application_failure_info
    return duration_ms(info.next_retry_delay) if info.HasField("next_retry_delay") else None


def next_interval(
    policy: RetryPolicy, attempt: int, now_ms: int, expires_ms: int, interval_ms: int | None = None
) -> tuple[int, RetryState.ValueType]:
    """The interval before the next attempt in ms, and IN_PROGRESS; or 0 and why there is none.

    `attempt` is the one that failed, `expires_ms` when attempts end (0 for never), `interval_ms` stands in
    for what the policy gives.
    """
    if 0 < policy.maximum_attempts <= attempt:
        return 0, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    if interval_ms is None:
        interval_ms = backoff_ms(policy, attempt)
    elif interval_ms <= 0:
        return 0, RetryState.RETRY_STATE_TIMEOUT
    if expires_ms and now_ms + interval_ms > expires_ms:
        return 0, RetryState.RETRY_STATE_TIMEOUT
    return interval_ms, RetryState.RETRY_STATE_IN_PROGRESS


def timeout_failure(timeout: TimeoutType.ValueType) -> Failure:
    """The failure of an activity attempt that timed out."""
    return Failure(
        message=f"activity {TIMEOUT_NAMES[timeout]} timeout",
        source="Server",
        timeout_failure_info=TimeoutFailureInfo(timeout_type=timeout),
    )


def server_failure(message: str, non_retryable: bool) -> Failure:
    """A failure that the server itself reports."""
    return Failure(message=message, server_failure_info=ServerFailureInfo(non_retryable=non_retryable))


def truncate(failure: Failure, max_bytes: int, depth: int = _TRUNCATED_DEPTH) -> Failure:
    """What fits of a failure: whether it may be retried, its texts and its causes, the first ones first."""
    left = max_bytes
    cut = Failure()

    def take(text: str) -> str:
        nonlocal left
        kept = text.encode()[: max(left, 0)].decode(errors="ignore")
        left -= len(kept.encode()) + (4 if kept else 0)
        return kept

    if failure.HasField("application_failure_info"):
        info = failure.application_failure_info
        cut.application_failure_info.non_retryable = info.non_retryable
        cut.application_failure_info.type = take(info.type)
        left -= 8
    elif failure.HasField("server_failure_info"):
        cut.server_failure_info.non_retryable = failure.server_failure_info.non_retryable
        left -= 4
    cut.source = take(failure.source)
    cut.message = take(failure.message)
    cut.stack_trace = take(failure.stack_trace)
    if failure.HasField("cause") and left > 4 and depth > 0:
        cut.cause.CopyFrom(truncate(failure.cause, left - 4, depth - 1))
    return cut
