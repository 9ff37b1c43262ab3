"""The sizes of payloads and memos that calls bring: refused over a limit, logged over a lower one."""

from __future__ import annotations

from typing import Final

import structlog
from google.protobuf.message import Message

from gateway import errors
from streams.limits import Limits

_log: Final = structlog.get_logger(__name__)


def check_blob(message: Message, limits: Limits, namespace: str, workflow_id: str) -> None:
    """A payload of a call about a workflow. Raises ApiError."""
    if is_over(message.ByteSize(), limits, namespace, workflow_id):
        raise errors.invalid("Blob data size exceeds limit.")


def is_over(size_bytes: int, limits: Limits, namespace: str, workflow_id: str) -> bool:
    """Whether a payload is over the limit."""
    _warn("payload", size_bytes, limits.blob_size_warn_bytes, namespace, workflow_id)
    return size_bytes > limits.blob_size_error_bytes


def check_memo(memo: Message, limits: Limits, namespace: str, workflow_id: str) -> None:
    """The memo of a workflow to start. Raises ApiError."""
    size_bytes = memo.ByteSize()
    _warn("memo", size_bytes, limits.memo_size_warn_bytes, namespace, workflow_id)
    if size_bytes > limits.memo_size_error_bytes:
        raise errors.invalid("Memo size exceeds limit.")


def _warn(what: str, size_bytes: int, warn_bytes: int, namespace: str, workflow_id: str) -> None:
    if size_bytes > warn_bytes:
        _log.warning(
            f"large {what}",
            namespace=namespace,
            workflow_id=workflow_id,
            size_bytes=size_bytes,
            warn_bytes=warn_bytes,
        )
