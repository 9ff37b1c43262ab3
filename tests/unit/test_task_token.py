"""Tokens of tasks: what comes back is what went out, and nothing else is taken for one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.avro import DecodeError
from streams.task_token import TaskToken

TOKEN = TaskToken("namespace", "workflow-é", "run", "workflow", 2**40, 1, started_event_id=3, queue="q")


def test_a_token_comes_back_whole() -> None:
    assert TaskToken.decode(TOKEN.encode()) == TOKEN


@pytest.mark.parametrize(
    "data", [b"", b"\xa8", b"\x92\xa2\xff\xfe", TOKEN.encode() + b"x", TOKEN.encode()[:-1]]
)
def test_what_is_no_token_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        TaskToken.decode(data)


def test_numbers_that_do_not_fit_are_refused() -> None:
    data = TOKEN.encode().replace((2**40).to_bytes(8, "big"), (2**63).to_bytes(8, "big"))
    with pytest.raises(DecodeError):
        TaskToken.decode(data)


@given(at=st.integers(0, len(TOKEN.encode()) - 1), value=st.integers(0, 255))
def test_a_damaged_token_is_another_or_refused(at: int, value: int) -> None:
    data = bytearray(TOKEN.encode())
    data[at] = value
    with contextlib.suppress(DecodeError):
        TaskToken.decode(bytes(data))
