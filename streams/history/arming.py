"""When a run is woken: its earliest deadline is armed, with the timer processor or, if it is near, right here.

A near one is kept in the due index of the run's own partition. A record to the timer processor, its fold and its
checkpoint would cost more than all that a short run does with them (decision 0012).
"""

from __future__ import annotations

from typing import Final

from streams import bodies
from streams.history.run import Run
from streams.history.step import Step, split_run_key
from streams.runtime.context import Context
from streams.topology import COMMANDS, TIMERS, workflow_key

NEAR_MS: Final = 60_000
"""How far ahead a deadline may be to be kept here."""


def arm(run: Run) -> None:
    """Keep the run due at or before its earliest deadline (fold.md rule 12).

    A closed run is due at its retention at once: firing and arming it again would cost more.
    """
    first = run.deadlines.first()
    if first is None:
        return
    core, due_ms = run.core, first[0]
    if (
        core.armed_due_ms
        and due_ms >= core.armed_due_ms
        and (not core.close_ms or due_ms == core.armed_due_ms)
    ):
        return
    run.change_core(armed_due_ms=due_ms, armed_version=core.armed_version + 1)
    if run.step.saves_records:
        if run.is_open and due_ms - run.step.now_ms <= NEAR_MS:
            run.step.context.wake(run.entity.key, due_ms, run.core.armed_version)
            return
        disarm_near(run.step, run.entity.key)
    run.step.context.emit(
        TIMERS,
        workflow_key(core.namespace, core.workflow_id),
        bodies.SetTimer(core.namespace, core.workflow_id, core.run_id, due_ms, run.core.armed_version),
    )


def disarm_near(step: Step, key: str) -> None:
    """Forget the near deadline of the run with this key in its table, if there is one."""
    if step.saves_records and step.context.due_at(key) is not None:
        step.context.unwake(key)


def fire(context: Context, key: str, version: int) -> None:
    """The near deadline of the run with this key is due: a command like the timer processor's says so."""
    namespace, workflow_id, run_id = split_run_key(key)
    context.emit(
        COMMANDS,
        workflow_key(namespace, workflow_id),
        bodies.FireTimer(namespace, workflow_id, run_id, version),
    )
