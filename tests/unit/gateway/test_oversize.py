"""A failure that is too large is cut to what tells most."""

from temporalio.api.failure.v1 import Failure

from gateway import oversize


def chain(depth: int, text: str) -> Failure:
    failure = Failure(message=text, source="Go", stack_trace=text)
    failure.application_failure_info.type = "Type"
    failure.application_failure_info.non_retryable = True
    if depth:
        failure.cause.CopyFrom(chain(depth - 1, text))
    return failure


def test_small_failure_is_kept() -> None:
    failure = chain(3, "why")
    assert oversize.truncated(failure, 10_000) == failure


def test_large_failure_fits_and_keeps_its_type() -> None:
    short = oversize.truncated(chain(30, "é" * 1000), 3_001)
    assert short.ByteSize() <= 3_100
    assert short.application_failure_info == chain(0, "").application_failure_info
    assert short.message.startswith("é")
    assert short.stack_trace


def test_server_failure_is_not_retried() -> None:
    failure = oversize.server_failure(oversize.RESULT)
    assert failure.server_failure_info.non_retryable
    assert not failure.HasField("cause")
