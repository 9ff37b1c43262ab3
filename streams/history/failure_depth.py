"""How deep the causes of a failure may lie.

Protobuf readers, those of the SDKs and our own, refuse a message that is nested more than a hundred levels deep. What
carries a failure, such as a page of a history, adds a few levels of its own, so that a failure which could be read when
it came might make the history unreadable.
"""

from __future__ import annotations

from typing import Final

from temporalio.api.failure.v1 import Failure

MAX_CAUSES: Final = 80
"""Causes below each other that are kept."""

CUT_OFF: Final = "Causes of this failure are cut off here: they were nested too deep."


def cut_causes(failure: Failure) -> None:
    """Replace, in place, what lies more than `MAX_CAUSES` causes deep by a note of that."""
    for _ in range(MAX_CAUSES):
        if not failure.HasField("cause"):
            return
        failure = failure.cause
    if failure.HasField("cause"):
        failure.cause.Clear()
        failure.cause.message = CUT_OFF
