"""Folding a run's stored events again, up to a point, into the state they make: what a reset starts from.

Pure and without a step: whoever can read the events prepares the reset (fold.md rule 23).
"""

from __future__ import annotations

import msgspec
from temporalio.api.enums.v1 import EventType, TimeoutType
from temporalio.api.history.v1 import HistoryEvent

from streams import avro
from streams.bodies import StatePart
from streams.history import handlers, state  # noqa: F401  (handlers registers every applier)
from streams.history.evolve import apply
from streams.history.run import Run
from streams.history.step import run_key
from streams.history.values import duration_ms, timestamp_ms
from streams.runtime.tables import Entity

EVENT = EventType


_TASK_ENDED_BADLY = (EVENT.EVENT_TYPE_WORKFLOW_TASK_FAILED, EVENT.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)


class NoTaskError(Exception):
    """No workflow task is pending at the point: nothing can be reset to it."""


class Refold:
    """The state of the run `run_id`, as events that it has in common with another run make it."""

    def __init__(self, namespace: str, workflow_id: str, run_id: str) -> None:
        self._entity = Entity(run_key(namespace, workflow_id, run_id))
        self._run = Run(self._entity)
        self._size_bytes = 0
        self._attempt = 1
        self._task: state.WorkflowTask | None = None

    def add(self, data: bytes) -> None:
        """Fold the next event, encoded."""
        event = HistoryEvent.FromString(data)
        apply(self._run, event)
        self._size_bytes += len(data)
        self._follow_task(event)

    def _follow_task(self, event: HistoryEvent) -> None:
        """Workflow tasks are not made of events alone: what is pending follows from the last ones."""
        if event.event_type == EVENT.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
            self._task = self._scheduled(event)
        elif event.event_type == EVENT.EVENT_TYPE_WORKFLOW_TASK_STARTED and self._task is not None:
            started = event.workflow_task_started_event_attributes
            self._task = msgspec.structs.replace(
                self._task,
                started_event_id=event.event_id,
                started_ms=timestamp_ms(event.event_time),
                request_id=started.request_id,
                identity=started.identity,
            )
        elif event.event_type == EVENT.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            self._task, self._attempt = None, 1
        elif event.event_type in _TASK_ENDED_BADLY:
            self._task = None
            if _counts(event):
                self._attempt += 1

    def _scheduled(self, event: HistoryEvent) -> state.WorkflowTask:
        attributes = event.workflow_task_scheduled_event_attributes
        scheduled_ms = timestamp_ms(event.event_time)
        return state.WorkflowTask(
            kind=state.NORMAL,
            scheduled_event_id=event.event_id,
            attempt=attributes.attempt,
            stamp=0,
            queue=self._run.core.task_queue,
            sticky=False,
            scheduled_ms=scheduled_ms,
            original_scheduled_ms=scheduled_ms,
            timeout_ms=duration_ms(attributes.start_to_close_timeout),
        )

    def parts(self) -> list[StatePart]:
        """The state. The core comes as a part of its own kind: there is no run before the reset makes one.

        Raises NoTaskError.
        """
        if self._task is None and self._attempt == 1:
            raise NoTaskError
        if self._task is not None:
            self._run.put(state.WORKFLOW_TASK, "", self._task)
        core = self._run.core
        original_start_ms = core.original_start_ms or core.start_ms
        self._run.set_core(
            history_size_bytes=self._size_bytes, first_task_due_ms=0, original_start_ms=original_start_ms
        )
        return [
            StatePart(state.COPIED_CORE if kind == state.CORE else kind, id, avro.encode(part))
            for kind, id, part in self._entity.all_parts()
        ]


def _counts(event: HistoryEvent) -> bool:
    """Whether a task's end makes the next one another attempt: not when it only waited on a sticky queue."""
    timed_out = event.workflow_task_timed_out_event_attributes
    return timed_out.timeout_type != TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
