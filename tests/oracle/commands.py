"""Short spellings of commands, payloads, failures and retry policies for scripts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType


def payload(value: Any) -> dict[str, Any]:
    """A JSON Payload."""
    return {"metadata": {"encoding": b"json/plain"}, "data": json.dumps(value).encode()}


def payloads(*values: Any) -> dict[str, Any]:
    """JSON Payloads."""
    return {"payloads": [payload(value) for value in values]}


def attribute(value: Any, kind: str) -> dict[str, Any]:
    """A search attribute payload with its type written in, as SDKs send it."""
    return {
        "metadata": {"encoding": b"json/plain", "type": kind.encode()},
        "data": json.dumps(value).encode(),
    }


NIL: dict[str, Any] = {"metadata": {"encoding": b"binary/null"}}


def seconds(value: float) -> timedelta:
    """A Duration field's value."""
    return timedelta(seconds=value)


def application_failure(message: str = "boom", kind: str = "BoomError", **info: Any) -> dict[str, Any]:
    """A Failure as a worker reports it."""
    return {"message": message, "source": "oracle", "application_failure_info": {"type": kind, **info}}


def command(kind: str, user_metadata: Any = None, **attributes: Any) -> Command:
    """A command by the name of its type, e.g. `command("START_TIMER", timer_id=…)`."""
    field = f"{_FIELD.get(kind, kind.lower())}_command_attributes"
    made = Command(command_type=CommandType.Value(f"COMMAND_TYPE_{kind}"), **{field: attributes})
    getattr(made, field).SetInParent()
    if user_metadata is not None:
        made.user_metadata.CopyFrom(Command(user_metadata=user_metadata).user_metadata)
    return made


_FIELD = {"MODIFY_WORKFLOW_PROPERTIES": "modify_workflow_properties"}


def bare(kind: str) -> Command:
    """A command of a type without its attributes."""
    return Command(command_type=CommandType.Value(f"COMMAND_TYPE_{kind}"))


def activity(activity_id: str = "a1", *, queue: str, timeout_s: float | None = 10, **more: Any) -> Command:
    """Schedule an activity of type "Activity"; start-to-close `timeout_s` unless None."""
    more.setdefault("activity_type", {"name": "Activity"})
    if timeout_s is not None:
        more.setdefault("start_to_close_timeout", seconds(timeout_s))
    return command("SCHEDULE_ACTIVITY_TASK", activity_id=activity_id, task_queue={"name": queue}, **more)


def timer(timer_id: str = "t1", timeout_s: float = 1, **more: Any) -> Command:
    """Start a timer."""
    return command("START_TIMER", timer_id=timer_id, start_to_fire_timeout=seconds(timeout_s), **more)


def complete(*result: Any) -> Command:
    """Complete the workflow."""
    return command("COMPLETE_WORKFLOW_EXECUTION", **({"result": payloads(*result)} if result else {}))


def fail(message: str = "boom", kind: str = "BoomError", **info: Any) -> Command:
    """Fail the workflow."""
    return command("FAIL_WORKFLOW_EXECUTION", failure=application_failure(message, kind, **info))


def retry(
    maximum_attempts: int = 0, *, initial_s: float = 1, coefficient: float = 1, **more: Any
) -> dict[str, Any]:
    """A retry policy."""
    return {
        "initial_interval": seconds(initial_s),
        "backoff_coefficient": coefficient,
        "maximum_attempts": maximum_attempts,
        **more,
    }
