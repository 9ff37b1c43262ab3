"""The timer processor: keeps the armed deadline of every run and fires it as a command when it is due.

Late by as long as the next tick takes; never early. It has no table: the due index is all its state.
"""

from __future__ import annotations

from streams.bodies import FireTimer, SetTimer
from streams.runtime.context import Context
from streams.runtime.records import Record
from streams.runtime.tables import TableSpec
from streams.topology import COMMANDS, TIMERS, workflow_key

_SEPARATOR = "\x1f"
"""Stands between namespace, workflow id and run id; the run id is last and never contains it."""


class TimerProcessor:
    """Folds `timers`; see streams.runtime.context.Processor."""

    name = "timer"
    input_topic = TIMERS
    tables: tuple[TableSpec, ...] = ()

    def fold(self, context: Context, record: Record) -> None:
        """Arm or disarm a run's deadline. Raises TypeError for a body that does not belong on this topic."""
        body = record.body
        if not isinstance(body, SetTimer):
            raise TypeError(f"{type(body).__name__} does not belong on {TIMERS}")
        key = timer_key(body.namespace, body.workflow_id, body.run_id)
        if body.due_ms == 0:
            context.unwake(key)
        else:
            context.wake(key, body.due_ms, body.version)

    def due(self, context: Context, key: str, payload: int) -> None:
        """Fire a run's deadline; `payload` is the version it was armed with."""
        workflow, run_id = key.rsplit(_SEPARATOR, 1)
        namespace, workflow_id = workflow.split(_SEPARATOR, 1)
        context.emit(
            COMMANDS, workflow_key(namespace, workflow_id), FireTimer(namespace, workflow_id, run_id, payload)
        )

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """Nothing to note: there is no state beside the due index."""


def timer_key(namespace: str, workflow_id: str, run_id: str) -> str:
    """The due index's key of a run. Namespaces hold no control characters, workflow ids may hold anything."""
    return f"{namespace}{_SEPARATOR}{workflow_id}{_SEPARATOR}{run_id}"
