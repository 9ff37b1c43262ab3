"""API values as the state machine counts them: integer milliseconds, saturating."""

from __future__ import annotations

from fractions import Fraction

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import RetryPolicy

MAX_MS = 2**53
"""Beyond any real time: sums of two such values still fit."""


def duration_ms(duration: Duration) -> int:
    """A protobuf duration in ms, rounded down; 0 when unset."""
    return max(-MAX_MS, min(duration.seconds * 1000 + duration.nanos // 1_000_000, MAX_MS))


def timestamp_ms(timestamp: Timestamp) -> int:
    """A protobuf timestamp in ms since 1970, rounded down; 0 when unset."""
    return max(-MAX_MS, min(timestamp.seconds * 1000 + timestamp.nanos // 1_000_000, MAX_MS))


def backoff_ms(policy: RetryPolicy, attempt: int) -> int:
    """How long a retry policy waits after `attempt` failed, in ms.

    The initial interval times the coefficient to the power of (attempt - 1), at most the maximum interval.
    """
    initial_ms = duration_ms(policy.initial_interval) or 1000
    maximum_ms = duration_ms(policy.maximum_interval) or MAX_MS
    coefficient = Fraction(policy.backoff_coefficient or 2.0)
    interval = Fraction(initial_ms)
    for _ in range(attempt - 1):
        interval *= coefficient
        if interval >= maximum_ms or coefficient == 1:
            break
    whole_ms = interval.numerator // interval.denominator
    return min(whole_ms, maximum_ms)


def copy_fields(source: Message, target: Message, *fields: str) -> None:
    """Copy the message fields that are set, and no others: an empty one that is set stays set."""
    for field in fields:
        if source.HasField(field):
            getattr(target, field).CopyFrom(getattr(source, field))


def to_timestamp(time_ms: int) -> Timestamp:
    """A protobuf timestamp of ms since 1970."""
    seconds, ms = divmod(time_ms, 1000)
    return Timestamp(seconds=seconds, nanos=ms * 1_000_000)


def to_duration(time_ms: int) -> Duration:
    """A protobuf duration of ms."""
    seconds, ms = divmod(time_ms, 1000)
    return Duration(seconds=seconds, nanos=ms * 1_000_000)
