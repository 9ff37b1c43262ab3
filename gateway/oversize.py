"""What becomes of a worker's answer whose payload is over the limit: a failure that says so."""

from __future__ import annotations

from typing import Final

from temporalio.api.failure.v1 import Failure

HEARTBEAT: Final = "Heartbeat details exceed size limit."
RESULT: Final = "Complete result exceeds size limit."
FAILURE: Final = "Failure exceeds size limit."
CANCEL_DETAILS: Final = "Cancel details exceed size limit."


def server_failure(message: str, cause: Failure | None = None) -> Failure:
    """A failure by the server that is not retried."""
    failure = Failure(message=message, cause=cause)
    failure.server_failure_info.non_retryable = True
    return failure
