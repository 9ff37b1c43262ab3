"""One run while it is decided on: a view over its parts that records facts and applies them."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import msgspec
from google.protobuf.message import Message
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from streams.history import facts, state
from streams.history.deadlines import Deadlines
from streams.history.evolve import applies_fact, apply
from streams.history.part_sizes import StateSize
from streams.history.task_events import keep_speculative
from streams.runtime.tables import Entity

if TYPE_CHECKING:
    from streams.history.step import Step

ATTRIBUTES: dict[int, str] = {
    number: name.removeprefix("EVENT_TYPE_").lower() + "_event_attributes"
    for name, number in EventType.items()
}
"""The field of HistoryEvent that holds the attributes of an event type."""

_UNBUFFERED_NAMES = """
WORKFLOW_EXECUTION_STARTED WORKFLOW_EXECUTION_COMPLETED WORKFLOW_EXECUTION_FAILED WORKFLOW_EXECUTION_TIMED_OUT
WORKFLOW_EXECUTION_TERMINATED WORKFLOW_EXECUTION_CONTINUED_AS_NEW WORKFLOW_EXECUTION_CANCELED
WORKFLOW_TASK_SCHEDULED WORKFLOW_TASK_STARTED WORKFLOW_TASK_COMPLETED WORKFLOW_TASK_FAILED WORKFLOW_TASK_TIMED_OUT
ACTIVITY_TASK_SCHEDULED ACTIVITY_TASK_CANCEL_REQUESTED TIMER_STARTED TIMER_CANCELED
REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED MARKER_RECORDED START_CHILD_WORKFLOW_EXECUTION_INITIATED
SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED UPSERT_WORKFLOW_SEARCH_ATTRIBUTES WORKFLOW_PROPERTIES_MODIFIED
WORKFLOW_EXECUTION_UPDATE_ACCEPTED WORKFLOW_EXECUTION_UPDATE_COMPLETED
"""
UNBUFFERED = frozenset(EventType.Value(f"EVENT_TYPE_{name}") for name in _UNBUFFERED_NAMES.split())
"""Events that take their place in the history even while a workflow task runs: those of the task itself, of its
commands, and of the run's own beginning and end."""

_COMPLETION_NAMES = """
ACTIVITY_TASK_COMPLETED ACTIVITY_TASK_FAILED ACTIVITY_TASK_TIMED_OUT ACTIVITY_TASK_CANCELED
CHILD_WORKFLOW_EXECUTION_COMPLETED CHILD_WORKFLOW_EXECUTION_FAILED CHILD_WORKFLOW_EXECUTION_TIMED_OUT
CHILD_WORKFLOW_EXECUTION_CANCELED CHILD_WORKFLOW_EXECUTION_TERMINATED
"""
_COMPLETIONS = frozenset(EventType.Value(f"EVENT_TYPE_{name}") for name in _COMPLETION_NAMES.split())
"""Buffered events that come after the others when the buffer is flushed, as the real server orders them."""


_CORE = (state.CORE, "")


class Run:
    """A run within a step. `step` is set while one is in progress; `facts` are those of the step, in order.

    `new` says that it did not exist before the step.
    """

    __slots__ = ("deadlines", "entity", "facts", "history", "new", "state_size", "step")

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.step: Step = None  # type: ignore[assignment]
        self.facts: list[Any] = []
        self.history: list[HistoryEvent] = []
        self.deadlines = Deadlines()
        for kind in state.TIMED:
            for id, part in entity.group(kind).items():
                self.deadlines.set(kind, id, part.deadline_ms())
        self.new = not self.exists
        self.state_size = StateSize()
        for kind, parts in entity.parts.items():
            for id, part in parts.items():
                self.state_size.set(kind, id, part)
        entity.observer = self._observe
        entity.ended = self._step_ended
        entity.view = self

    def _step_ended(self) -> None:
        """What belongs to the step goes with it: events and their messages are many times the state."""
        self.step = None  # type: ignore[assignment]
        self.facts = []
        self.history = []

    def _observe(self, kind: str, id: str, value: Any) -> None:
        if kind in state.TIMED:
            self.deadlines.set(kind, id, 0 if value is None else value.deadline_ms())
        self.state_size.set(kind, id, value)

    @property
    def exists(self) -> bool:
        """Whether there is such a run."""
        return bool(self.entity.parts.get(state.CORE))

    @property
    def core(self) -> state.Core:
        """What every run has."""
        core: state.Core = self.entity.parts[state.CORE][""]
        return core

    @property
    def is_open(self) -> bool:
        """Whether the run has not closed."""
        return self.core.close_ms == 0

    @property
    def task(self) -> state.WorkflowTask | None:
        """The pending workflow task."""
        task: state.WorkflowTask | None = self.entity.get(state.WORKFLOW_TASK)
        return task

    @property
    def task_running(self) -> bool:
        """Whether a worker has a workflow task of this run: events wait in the buffer until it ends."""
        task = self.task
        return task is not None and task.started_event_id != 0

    # What appliers use.

    def set_core(self, **changes: Any) -> None:
        """Change fields of the core. A step's first change makes the copy that it works on: a step has many."""
        entity = self.entity
        if _CORE in entity.undo:
            core = self.core
        else:
            core = copy(self.core)
            entity.put(state.CORE, "", core)
        for name, value in changes.items():
            setattr(core, name, value)
        if not state.CORE_DEADLINES.isdisjoint(changes):
            self.deadlines.set(state.CORE, "", core.deadline_ms())

    def put(self, kind: str, id: str, part: msgspec.Struct | None) -> None:
        """Set or remove a part."""
        if part is None:
            self.entity.drop(kind, id)
        else:
            self.entity.put(kind, id, part)

    def note_event_id(self, event_id: int) -> None:
        """An event took its id."""
        if event_id and self.exists:
            self.set_core(next_event_id=event_id + 1)

    # What deciders use.

    def record(self, event_type: int, attributes: Message, **extra: Any) -> HistoryEvent:
        """Add an event: to the history, or to the buffer while a workflow task runs. `extra` are event fields."""
        if event_type not in UNBUFFERED:
            keep_speculative(self)
        extra.setdefault("event_time", self.step.timestamp)
        extra[ATTRIBUTES[event_type]] = attributes
        event = HistoryEvent(event_type=event_type, **extra)  # type: ignore[arg-type]
        if event_type not in UNBUFFERED and self.task_running:
            self.note(facts.EventBuffered(event))
        else:
            event.event_id = self.core.next_event_id if self.exists else 1
            self.history.append(event)
            self.note(event)
        return event

    def note(self, fact: Any) -> None:
        """Record a fact and apply it."""
        self.facts.append(fact)
        apply(self, fact)

    def set_part(self, kind: str, id: str, part: msgspec.Struct | None) -> None:
        """Record that an operational part changed."""
        self.note(facts.PartSet(kind, id, part))

    def change_core(self, **changes: Any) -> None:
        """Record that operational fields of the core changed."""
        self.note(facts.CoreChanged(changes))

    @property
    def has_buffered(self) -> bool:
        """Whether events wait for the running workflow task to end."""
        return self.entity.count(state.BUFFERED) > 0

    def flush(self) -> None:
        """Give the buffered events their ids and places in the history, completions last."""
        if not self.has_buffered:
            return
        waiting = [HistoryEvent.FromString(part.event) for _, part in self.entity.items(state.BUFFERED)]
        ordered = [e for e in waiting if e.event_type not in _COMPLETIONS]
        ordered += [e for e in waiting if e.event_type in _COMPLETIONS]
        event_id = self.core.next_event_id
        started: dict[tuple[bool, int], int] = {}
        for event in ordered:
            event.event_id = event_id
            event_id += 1
            _wire(event, started)
        self.history.extend(ordered)
        self.note(facts.BufferFlushed(tuple(ordered)))


def _wire(event: HistoryEvent, started: dict[tuple[bool, int], int]) -> None:
    """Give a completion the id of its started event when both were buffered."""
    kind = event.event_type
    attributes = getattr(event, ATTRIBUTES[kind])
    if kind == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
        started[True, attributes.scheduled_event_id] = event.event_id
    elif kind == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
        started[False, attributes.initiated_event_id] = event.event_id
    elif kind in _COMPLETIONS:
        activity = hasattr(attributes, "scheduled_event_id")
        key = attributes.scheduled_event_id if activity else attributes.initiated_event_id
        if (activity, key) in started:
            attributes.started_event_id = started[activity, key]


@applies_fact(facts.PartSet)
def _part_set(run: Run, fact: facts.PartSet) -> None:
    run.put(fact.kind, fact.id, fact.value)


@applies_fact(facts.CoreChanged)
def _core_changed(run: Run, fact: facts.CoreChanged) -> None:
    run.set_core(**fact.changes)


@applies_fact(facts.EventBuffered)
def _event_buffered(run: Run, fact: facts.EventBuffered) -> None:
    data = fact.event.SerializeToString(deterministic=True)
    core = run.core
    run.put(state.BUFFERED, state.number_id(core.buffered_count), state.BufferedEvent(data))
    run.set_core(buffered_count=core.buffered_count + 1, buffered_bytes=core.buffered_bytes + len(data))
    apply(run, fact.event)


@applies_fact(facts.BufferFlushed)
def _buffer_flushed(run: Run, fact: facts.BufferFlushed) -> None:
    for id, _ in run.entity.items(state.BUFFERED):
        run.put(state.BUFFERED, id, None)
    for event in fact.events:
        if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            key = state.number_id(event.child_workflow_execution_started_event_attributes.initiated_event_id)
            child = run.entity.get(state.CHILD, key)
            if child is not None:
                run.put(state.CHILD, key, msgspec.structs.replace(child, started_event_id=event.event_id))
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED:
            attached = event.workflow_execution_options_updated_event_attributes.attached_request_id
            if attached:
                run.put(state.ATTACHED, attached, state.Signaled(event.event_id))
    run.set_core(next_event_id=fact.events[-1].event_id + 1, buffered_count=0, buffered_bytes=0)
