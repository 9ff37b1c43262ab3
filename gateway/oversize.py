"""What becomes of a worker's answer whose payload is over the limit: a failure that says so."""

from __future__ import annotations

from typing import Final

from temporalio.api.failure.v1 import Failure

HEARTBEAT: Final = "Heartbeat details exceed size limit."
RESULT: Final = "Complete result exceeds size limit."
FAILURE: Final = "Failure exceeds size limit."
CANCEL_DETAILS: Final = "Cancel details exceed size limit."

_MAX_DEPTH: Final = 20
_TAG_BYTES: Final = 4


def server_failure(message: str, cause: Failure | None = None) -> Failure:
    """A failure by the server that is not retried."""
    failure = Failure(message=message, cause=cause)
    failure.server_failure_info.non_retryable = True
    return failure


def truncated(failure: Failure, max_bytes: int) -> Failure:
    """The parts of a failure that fit into about `max_bytes`, the most telling first."""
    short, _ = _truncated(failure, max_bytes, _MAX_DEPTH)
    return short


def _truncated(failure: Failure, left: int, depth: int) -> tuple[Failure, int]:
    short = Failure()

    def cut(text: str) -> str:
        nonlocal left
        data = text.encode()[: max(left, 0)]
        kept = data.decode(errors="ignore")
        left -= len(kept.encode()) + (_TAG_BYTES if kept else 0)
        return kept

    if failure.HasField("application_failure_info"):
        info = failure.application_failure_info
        short.application_failure_info.non_retryable = info.non_retryable
        short.application_failure_info.type = cut(info.type)
        left -= 2 * _TAG_BYTES
    elif failure.HasField("server_failure_info"):
        short.server_failure_info.non_retryable = failure.server_failure_info.non_retryable
        left -= _TAG_BYTES
    short.source = cut(failure.source)
    short.message = cut(failure.message)
    short.stack_trace = cut(failure.stack_trace)
    if failure.HasField("cause") and left > _TAG_BYTES and depth:
        cause, left = _truncated(failure.cause, left - _TAG_BYTES, depth - 1)
        short.cause.CopyFrom(cause)
    return short, left
