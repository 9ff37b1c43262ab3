"""Small random workflows, and what they command next, worked out of their history alone.

A program is a list of stages; the ops of a stage are issued together, and the next stage begins when those that
are waited for have ended. It travels as the workflow's input.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads, RetryPolicy
from temporalio.api.enums.v1 import CommandType, EventType, ParentClosePolicy
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent

E = EventType
C = CommandType
QUEUE = "queue"
NAMESPACE = "ns"

RETRY_MS = 300
"""The initial interval of retry policies."""

OUTLASTING_MS = 25_000
"""How long some children wait."""


def payloads(value: Any) -> Payloads:
    """A JSON value as payloads."""
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())])


def value_of(message: Payloads) -> Any:
    """The JSON value in payloads."""
    return json.loads(message.payloads[0].data)


def duration(ms: int) -> Duration:
    """A duration of so many ms."""
    return Duration(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def failure(message: str, retryable: bool = True) -> Failure:
    """What a worker says went wrong."""
    return Failure(
        message=message, application_failure_info=ApplicationFailureInfo(non_retryable=not retryable)
    )


# --- programs ---


def random_program(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A program with a few stages; at depth 0 it may have children and continue as new."""
    stages = [
        [_random_op(rng, f"{number}.{i}", depth) for i in range(rng.choice((1, 1, 2, 3)))]
        for number in range(rng.choice((1, 1, 2, 3) if depth == 0 else (1, 1, 2)))
    ]
    left_behind = [op for stage in stages for op in stage if not op["wait"] and op["kind"] != "child"]
    if left_behind:
        stages.append(
            [{"kind": "cancel", "id": f"c{op['id']}", "of": op["id"], "wait": True} for op in left_behind]
        )
    return {
        "stages": stages,
        "again": rng.choice((1, 1, 2)) if depth == 0 and rng.random() < 0.2 else 0,
        "end": rng.choice(("complete", "complete", "complete", "fail")),
        "fails": 0,
        "on_cancel": rng.choice(("cancel", "ignore")),
    }


def small_program(rng: random.Random, fails: int) -> dict[str, Any]:
    """A program of one op, for chains of runs: the first `fails` attempts fail."""
    op = {"kind": "timer", "id": "t", "wait": True, "ms": rng.choice((1, 250))}
    if rng.random() < 0.5:
        op = {"kind": "marker", "id": "m", "wait": True}
    return {
        "stages": [[op]],
        "again": rng.choice((0, 0, 0, 1)),
        "end": rng.choice(("complete", "complete", "complete", "complete", "fail")),
        "fails": fails,
        "on_cancel": "cancel",
    }


def retry_policy(rng: random.Random) -> RetryPolicy:
    """How the runs of a program that fails are retried."""
    policy = RetryPolicy(maximum_attempts=rng.choice((1, 2, 3)))
    policy.initial_interval.CopyFrom(duration(RETRY_MS))
    return policy


def _random_op(rng: random.Random, id: str, depth: int) -> dict[str, Any]:
    pick = rng.random()
    if pick < 0.45 or (depth and pick > 0.75):
        return {
            "kind": "activity",
            "id": f"a{id}",
            "wait": rng.random() < 0.85,
            "close_ms": rng.choice((1_500, 4_000)),
            "beat_ms": rng.choice((0, 0, 900)),
            "attempts": rng.choice((1, 3, 5)),
        }
    if pick < 0.72:
        return {
            "kind": "timer",
            "id": f"t{id}",
            "wait": rng.random() < 0.8,
            "ms": rng.choice((1, 250, 1_800, 6_000)),
        }
    if pick < 0.86:
        return {
            "kind": "child",
            "id": f"k{id}",
            "wait": rng.random() < 0.7,
            "policy": rng.choice((1, 2, 3)),
            "retried": rng.random() < 0.2,
            "program": _child_program(rng, depth + 1),
        }
    if pick < 0.92:
        return {"kind": "signal", "id": f"s{id}", "wait": True, "to": f"w{rng.randint(0, 3)}"}
    if pick < 0.95:
        return {"kind": "ask_cancel", "id": f"x{id}", "wait": True, "to": f"w{rng.randint(0, 3)}"}
    return {"kind": "marker", "id": f"m{id}", "wait": True}


def _child_program(rng: random.Random, depth: int) -> dict[str, Any]:
    """The program of a child: now and then one that outlasts all trouble, unless its parent's end ends it."""
    program = random_program(rng, depth)
    if rng.random() < 0.25:
        program["stages"] = [[{"kind": "timer", "id": "t0.0", "wait": True, "ms": OUTLASTING_MS}]]
    return program


# --- what a history says of a program ---


class Progress:
    """Which ops were issued and which have ended. `task` names the workflow task that asks for commands."""

    def __init__(self, events: Sequence[HistoryEvent], task: str) -> None:
        self.issued: dict[str, int] = {}
        self.ended: set[str] = set()
        self.canceling: set[str] = set()
        self.cancel_requested = False
        self._names: dict[int, str] = {}
        for event in events:
            self._add(event)
        self.started = events[0].workflow_execution_started_event_attributes
        self.program: dict[str, Any] = value_of(self.started.input)
        self.workflow_id = self.started.workflow_id
        self.task = task

    def _issue(self, name: str, event: HistoryEvent) -> None:
        self.issued[name] = event.event_id
        self._names[event.event_id] = name

    def _add(self, event: HistoryEvent) -> None:
        kind = event.event_type
        attributes = getattr(event, event.WhichOneof("attributes"))
        if kind == E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            self._issue(attributes.activity_id, event)
        elif kind == E.EVENT_TYPE_TIMER_STARTED:
            self._issue(attributes.timer_id, event)
        elif kind == E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
            self._issue(attributes.workflow_id.rsplit("/", 1)[1], event)
        elif kind in (
            E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
            E.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        ):
            self._issue(attributes.control, event)
        elif kind == E.EVENT_TYPE_MARKER_RECORDED:
            self._issue(attributes.marker_name, event)
            self.ended.add(attributes.marker_name)
        elif kind in _ENDS_ACTIVITY:
            self.ended.add(self._names[attributes.scheduled_event_id])
        elif kind in (E.EVENT_TYPE_TIMER_FIRED, E.EVENT_TYPE_TIMER_CANCELED):
            self.ended.add(self._names[attributes.started_event_id])
        elif kind in _ENDS_INITIATED:
            self.ended.add(self._names[attributes.initiated_event_id])
        elif kind == E.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
            self.canceling.add(self._names[attributes.scheduled_event_id])
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            self.cancel_requested = True

    def commands(self) -> list[Command]:
        """What the workflow commands now."""
        if self.cancel_requested and self.program["on_cancel"] == "cancel":
            return [_command(C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION)]
        found: list[Command] = []
        for stage in self.program["stages"]:
            waits = False
            for op in stage:
                found += self._commands_of(op)
                waits = waits or (op["wait"] and not self._is_over(op))
            if waits:
                return found
        return [*found, self._closing()]

    def _is_over(self, op: dict[str, Any]) -> bool:
        if op["kind"] == "cancel":
            return op["of"] in self.ended
        return op["id"] in self.ended

    def _commands_of(self, op: dict[str, Any]) -> list[Command]:
        if op["kind"] == "cancel":
            return self._cancel(op["of"])
        if op["id"] in self.issued:
            return []
        if op["kind"] == "marker":
            self.ended.add(op["id"])
        return [_ISSUE[op["kind"]](self, op)]

    def _cancel(self, name: str) -> list[Command]:
        if name in self.ended or name in self.canceling:
            return []
        if name.startswith("a") and name not in self.issued:
            return []  # Issued in this very task: its event has no id yet.
        if name.startswith("t"):
            command = _command(C.COMMAND_TYPE_CANCEL_TIMER)
            command.cancel_timer_command_attributes.timer_id = name
            self.ended.add(name)
        else:
            command = _command(C.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK)
            command.request_cancel_activity_task_command_attributes.scheduled_event_id = self.issued[name]
        return [command]

    def _closing(self) -> Command:
        if self.program["again"]:
            command = _command(C.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION)
            attributes = command.continue_as_new_workflow_execution_command_attributes
            attributes.workflow_type.name = "program"
            attributes.task_queue.name = QUEUE
            attributes.input.CopyFrom(payloads({**self.program, "again": self.program["again"] - 1}))
            if self.started.HasField("retry_policy"):
                attributes.retry_policy.CopyFrom(self.started.retry_policy)
        elif self.program["end"] == "fail" or self.started.attempt <= self.program["fails"]:
            command = _command(C.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
            command.fail_workflow_execution_command_attributes.failure.CopyFrom(failure("as planned"))
        else:
            command = _command(C.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
            command.complete_workflow_execution_command_attributes.SetInParent()
        return command


def _command(kind: CommandType.ValueType) -> Command:
    command = Command(command_type=kind)
    if kind == C.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION:
        command.cancel_workflow_execution_command_attributes.SetInParent()
    return command


def _activity(progress: Progress, op: dict[str, Any]) -> Command:
    command = _command(C.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    attributes = command.schedule_activity_task_command_attributes
    attributes.activity_id = op["id"]
    attributes.activity_type.name = "activity"
    attributes.task_queue.name = QUEUE
    attributes.start_to_close_timeout.CopyFrom(duration(op["close_ms"]))
    if op["beat_ms"]:
        attributes.heartbeat_timeout.CopyFrom(duration(op["beat_ms"]))
    attributes.retry_policy.initial_interval.CopyFrom(duration(300))
    attributes.retry_policy.maximum_attempts = op["attempts"]
    return command


def _timer(progress: Progress, op: dict[str, Any]) -> Command:
    command = _command(C.COMMAND_TYPE_START_TIMER)
    command.start_timer_command_attributes.timer_id = op["id"]
    command.start_timer_command_attributes.start_to_fire_timeout.CopyFrom(duration(op["ms"]))
    return command


def _child(progress: Progress, op: dict[str, Any]) -> Command:
    command = _command(C.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION)
    attributes = command.start_child_workflow_execution_command_attributes
    attributes.namespace = NAMESPACE
    attributes.workflow_id = f"{progress.workflow_id}/{op['id']}"
    attributes.workflow_type.name = "program"
    attributes.task_queue.name = QUEUE
    attributes.input.CopyFrom(payloads(op["program"]))
    attributes.parent_close_policy = ParentClosePolicy.ValueType(op["policy"])
    if op["retried"]:
        attributes.retry_policy.initial_interval.CopyFrom(duration(RETRY_MS))
        attributes.retry_policy.maximum_attempts = 2
    return command


def _signal(progress: Progress, op: dict[str, Any]) -> Command:
    command = _command(C.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION)
    attributes = command.signal_external_workflow_execution_command_attributes
    attributes.namespace = NAMESPACE
    attributes.execution.workflow_id = op["to"]
    attributes.signal_name = f"from-{progress.task}-{op['id']}"
    attributes.control = op["id"]
    return command


def _ask_cancel(progress: Progress, op: dict[str, Any]) -> Command:
    command = _command(C.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION)
    attributes = command.request_cancel_external_workflow_execution_command_attributes
    attributes.namespace = NAMESPACE
    attributes.workflow_id = op["to"]
    attributes.control = op["id"]
    return command


def _marker(progress: Progress, op: dict[str, Any]) -> Command:
    command = _command(C.COMMAND_TYPE_RECORD_MARKER)
    command.record_marker_command_attributes.marker_name = op["id"]
    return command


_ISSUE = {
    "activity": _activity,
    "timer": _timer,
    "child": _child,
    "signal": _signal,
    "ask_cancel": _ask_cancel,
    "marker": _marker,
}

_ENDS_ACTIVITY = frozenset(
    E.Value(f"EVENT_TYPE_ACTIVITY_TASK_{name}") for name in ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELED")
)
_ENDS_INITIATED = frozenset(
    E.Value(f"EVENT_TYPE_{name}")
    for name in (
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
        "CHILD_WORKFLOW_EXECUTION_FAILED",
        "CHILD_WORKFLOW_EXECUTION_TIMED_OUT",
        "CHILD_WORKFLOW_EXECUTION_CANCELED",
        "CHILD_WORKFLOW_EXECUTION_TERMINATED",
        "START_CHILD_WORKFLOW_EXECUTION_FAILED",
        "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED",
        "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED",
        "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED",
        "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED",
    )
)
