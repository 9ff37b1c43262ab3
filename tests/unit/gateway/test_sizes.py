"""Payloads and memos that are too large are refused, and large ones are logged."""

import pytest
from structlog.testing import capture_logs
from temporalio.api.common.v1 import Memo, Payload, Payloads

from gateway import sizes
from gateway.errors import INVALID_ARGUMENT, ApiError
from streams.limits import Limits

LIMITS = Limits(
    blob_size_warn_bytes=100,
    blob_size_error_bytes=120,
    memo_size_warn_bytes=100,
    memo_size_error_bytes=120,
)


def blob(size_bytes: int) -> Payloads:
    made = Payloads(payloads=[Payload(data=b"x" * (size_bytes - 4))])
    assert made.ByteSize() == size_bytes
    return made


def memo(size_bytes: int) -> Memo:
    made = Memo(fields={"n": Payload(data=b"x" * (size_bytes - 9))})
    assert made.ByteSize() == size_bytes
    return made


def test_sizes_within_the_limits_are_silent() -> None:
    with capture_logs() as logs:
        sizes.check_blob(blob(100), LIMITS, "ns", "wf")
        sizes.check_memo(memo(100), LIMITS, "ns", "wf")
    assert logs == []


def test_a_large_payload_or_memo_is_logged_with_its_workflow() -> None:
    with capture_logs() as logs:
        sizes.check_blob(blob(101), LIMITS, "ns", "wf")
        sizes.check_memo(memo(101), LIMITS, "ns", "wf")
    where = {"namespace": "ns", "workflow_id": "wf", "warn_bytes": 100, "log_level": "warning"}
    assert logs == [
        {"event": "large payload", "size_bytes": 101, **where},
        {"event": "large memo", "size_bytes": 101, **where},
    ]


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(ApiError, match="Blob data size exceeds limit") as caught:
        sizes.check_blob(blob(121), LIMITS, "ns", "wf")
    assert caught.value.code == INVALID_ARGUMENT
    with pytest.raises(ApiError, match="Memo size exceeds limit") as caught:
        sizes.check_memo(memo(121), LIMITS, "ns", "wf")
    assert caught.value.code == INVALID_ARGUMENT
