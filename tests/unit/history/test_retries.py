"""A failure that is too large is cut to what tells most."""

from temporalio.api.failure.v1 import Failure

from streams.history.retries import truncate


def chain(depth: int, text: str) -> Failure:
    failure = Failure(message=text, source="Go", stack_trace=text)
    failure.application_failure_info.type = "Type"
    failure.application_failure_info.non_retryable = True
    if depth:
        failure.cause.CopyFrom(chain(depth - 1, text))
    return failure


def test_small_failure_is_kept() -> None:
    failure = chain(3, "why")
    assert truncate(failure, 10_000) == failure


def test_large_failure_fits_and_keeps_its_type() -> None:
    short = truncate(chain(30, "é" * 1000), 3_001)
    assert short.ByteSize() <= 3_100
    assert short.application_failure_info == chain(0, "").application_failure_info
    assert short.message.startswith("é")
    assert short.stack_trace
