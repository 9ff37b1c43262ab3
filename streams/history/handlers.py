"""Every concern of the state machine, loaded, and the way from a record to its handler."""

from __future__ import annotations

from typing import Any

from streams import bodies
from streams.history import (  # noqa: F401  (each registers its handlers and appliers)
    activities,
    activity_results,
    activity_retries,
    cancel_terminate,
    child_runs,
    children,
    commands,
    deletion,
    describe,
    dispatch,
    external,
    lifetime,
    markers,
    queries,
    reset,
    signals,
    start,
    update_messages,
    update_with_start,
    updates,
    user_timers,
    waiters,
    workflow_commands,
)
from streams.history.calls import BODIES, CALLS
from streams.history.commands import fail_for_bad_command
from streams.history.errors import UNIMPLEMENTED, Rejected
from streams.history.step import Step

__all__ = ["decide", "fail_for_bad_command"]


def decide(step: Step, body: Any) -> None:
    """Decide on a record of `commands`. Raises Rejected, BadCommand."""
    if isinstance(body, bodies.Call):
        handler = CALLS.get(body.method)
        if handler is None:
            raise Rejected(UNIMPLEMENTED, f"{body.method} is not supported")
        handler(step, body)
    else:
        BODIES[type(body)](step, body)
