"""What workers are told of answers that are too large."""

from gateway import oversize


def test_server_failure_is_not_retried() -> None:
    failure = oversize.server_failure(oversize.RESULT)
    assert failure.server_failure_info.non_retryable
    assert not failure.HasField("cause")
