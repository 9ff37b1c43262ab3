"""Checks of worker commands, in the order and words of the real server's command attribute validator.

What the real server refuses as an invalid argument fails the workflow task (BadCommand); what it wraps in a
plain error refuses the call and leaves the task running (Rejected).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Memo, Priority, RetryPolicy, SearchAttributes
from temporalio.api.enums.v1 import TaskQueueKind, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.taskqueue.v1 import TaskQueue

from streams import attribute_values, bodies
from streams.attribute_values import InvalidSearchAttributes
from streams.history import errors
from streams.history.commands import Commands
from streams.history.errors import BadCommand
from streams.limits import Limits

RESERVED_QUEUE_PREFIX: Final = "/_sys/"
MAX_DURATION_S: Final = 100 * 365 * 24 * 3600
FAIRNESS_KEY_BYTES: Final = 64
TIMEOUT_ERROR_PREFIX: Final = "TemporalTimeout:"


def camel(name: str, prefix: str) -> str:
    """An enum value's name as Go prints it: TIMEOUT_TYPE_START_TO_CLOSE is StartToClose."""
    return "".join(part.capitalize() for part in name.removeprefix(prefix).split("_"))


_TIMEOUT_TYPES: Final = frozenset(
    text for name in TimeoutType.keys()[1:] for text in (name, camel(name, "TIMEOUT_TYPE_"))
)


def too_long(text: str, limit: int) -> int:
    """The length of `text` in bytes when that is over the limit, else 0."""
    if len(text) * 4 <= limit:
        return 0
    length = len(text.encode())
    return length if length > limit else 0


def cap_duration(duration: Duration) -> str:
    """Cap a duration at a hundred years. Returns what is wrong with it, or nothing."""
    seconds, nanos = duration.seconds, duration.nanos
    if seconds > 0 > nanos or seconds < 0 < nanos:
        return "duration has seconds and nanos with different signs"
    if seconds < 0 or nanos < 0:
        return "negative duration"
    if seconds > MAX_DURATION_S or (seconds == MAX_DURATION_S and nanos):
        duration.seconds, duration.nanos = MAX_DURATION_S, 0
    return ""


def nanoseconds(duration: Duration) -> int:
    """A duration in ns, for exact comparisons."""
    return duration.seconds * 1_000_000_000 + duration.nanos


def complete_retry_policy(policy: RetryPolicy) -> str:
    """Fill in the defaults of a retry policy. Returns what is wrong with it, or nothing."""
    if not nanoseconds(policy.initial_interval):
        policy.initial_interval.seconds, policy.initial_interval.nanos = 1, 0
    if not nanoseconds(policy.maximum_interval):
        total = min(max(0, 100 * nanoseconds(policy.initial_interval)), MAX_DURATION_S * 1_000_000_000)
        policy.maximum_interval.seconds, policy.maximum_interval.nanos = divmod(total, 1_000_000_000)
    if policy.backoff_coefficient == 0:
        policy.backoff_coefficient = 2.0
    return "" if policy.maximum_attempts == 1 else _wrong_with(policy)


def _wrong_with(policy: RetryPolicy) -> str:
    if wrong := cap_duration(policy.initial_interval):
        return f"invalid InitialInterval set on retry policy: {wrong}"
    if not policy.backoff_coefficient >= 1:
        return "BackoffCoefficient cannot be less than 1 on retry policy."
    if wrong := cap_duration(policy.maximum_interval):
        return f"invalid MaximumInterval set on retry policy: {wrong}"
    if 0 < nanoseconds(policy.maximum_interval) < nanoseconds(policy.initial_interval):
        return "MaximumInterval cannot be less than InitialInterval on retry policy."
    if policy.maximum_attempts < 0:
        return "MaximumAttempts cannot be negative on retry policy."
    for error_type in policy.non_retryable_error_types:
        timeout_type = error_type.removeprefix(TIMEOUT_ERROR_PREFIX)
        if timeout_type != error_type and timeout_type not in _TIMEOUT_TYPES:
            return f"Invalid timeout type value: {timeout_type}."
    return ""


def complete_task_queue(queue: TaskQueue, default: str, id_length: int) -> str:
    """Fill in the kind and, when empty, the name of a task queue. Returns what is wrong, or nothing."""
    if queue.kind == TaskQueueKind.TASK_QUEUE_KIND_UNSPECIFIED:
        queue.kind = TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    if not queue.name:
        if not default:
            return "missing task queue name"
        queue.name = default
    if too_long(queue.name, id_length):
        return "taskQueue length exceeds limit"
    if queue.name.startswith(RESERVED_QUEUE_PREFIX):
        return f"task queue name cannot start with reserved prefix {RESERVED_QUEUE_PREFIX}"
    if queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY and too_long(queue.normal_name, id_length):
        return "taskQueue length exceeds limit"
    return ""


def check_priority(priority: Priority, cause: WorkflowTaskFailedCause.ValueType) -> None:
    """Refuse a priority out of range. Raises BadCommand."""
    if priority.priority_key < 0:
        raise BadCommand(cause, "PriorityKey can't be negative")
    if too_long(priority.fairness_key, FAIRNESS_KEY_BYTES):
        raise BadCommand(cause, "FairnessKey length exceeds limit")
    if priority.fairness_weight < 0:
        raise BadCommand(cause, "FairnessWeight can't be negative")


def check_pending(count: int, limit: int, cause: WorkflowTaskFailedCause.ValueType, what: str) -> None:
    """Refuse one more of something pending. Raises BadCommand."""
    if count >= limit:
        raise BadCommand(
            cause, f"the number of {what}, {count}, has reached the per-workflow limit of {limit}"
        )


def check_run_id(run_id: str, refuse: Callable[[], Exception]) -> None:
    """Refuse a run id that is set and is no uuid, with the error that `refuse` makes."""
    if run_id:
        try:
            uuid.UUID(run_id)
        except ValueError:
            raise refuse() from None


def reject(where: str, wrong: str, suffix: str) -> None:
    """Refuse the call, not the task, when something is wrong. Raises Rejected."""
    if wrong:
        raise errors.invalid(f"{where}: {wrong}.{suffix}")


def target_namespace(commands: Commands, name: str) -> bodies.NamespaceConfig:
    """The namespace that a command names, its workflow's when it names none. Raises Rejected (NOT_FOUND)."""
    config = commands.step.namespace_config(name)
    if config is None:
        raise errors.namespace_missing(name or commands.step.namespace)
    return config


def attribute_types(config: bodies.NamespaceConfig) -> dict[str, int]:
    """The custom search attributes of a namespace, with their IndexedValueType numbers."""
    return {pair.key: pair.value for pair in config.attributes}


def check_attribute_sizes(
    attributes: SearchAttributes, limits: Limits, cause: WorkflowTaskFailedCause.ValueType
) -> None:
    """Refuse search attributes that are too large: the workflow ends, as they cannot shrink.

    Raises BadCommand.
    """
    try:
        attribute_values.check_sizes(attributes, limits)
    except InvalidSearchAttributes as error:
        raise BadCommand(cause, str(error), terminate=True) from error


def check_memo_size(
    commands: Commands, memo: Memo, cause: WorkflowTaskFailedCause.ValueType, message: str
) -> None:
    """Refuse a memo that is too large: the workflow ends. Raises BadCommand."""
    size_bytes, limits = memo.ByteSize(), commands.step.limits
    commands.warn_size(size_bytes, limits.memo_size_warn_bytes, "memo")
    if size_bytes > limits.memo_size_error_bytes:
        raise BadCommand(cause, message, terminate=True)
