"""When a run is woken: its earliest deadline is armed, with the timer processor or beside the run.

A near one, and the retention of a closed run, is an entry in the due index of the run's own partition. A record to the
timer processor, its fold and its checkpoint would cost more than all that a short run does with them (decision 0012).
"""

from __future__ import annotations

from typing import Final

from streams import bodies
from streams.history.run import Run
from streams.history.state import FAR, FarTimer
from streams.history.step import split_run_key
from streams.runtime.context import Context
from streams.topology import COMMANDS, TIMERS, workflow_key

NEAR_MS: Final = 60_000
"""How far ahead a deadline of an open run may be to be kept beside it."""


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
    version = run.core.armed_version
    if not run.step.saves_records:
        _set_timer(run, due_ms)
    elif core.close_ms:
        run.step.context.wake(run.entity.key, due_ms, version)
        if run.entity.get(FAR) is not None:
            run.set_part(FAR, "", None)
            _set_timer(run, 0)
    elif due_ms - run.step.now_ms <= NEAR_MS:
        run.step.context.wake(run.entity.key, due_ms, version)
    else:
        disarm_near(run.step.context, run.entity.key)
        run.set_part(FAR, "", FarTimer(version))
        _set_timer(run, due_ms)


def _set_timer(run: Run, due_ms: int) -> None:
    core = run.core
    run.step.context.emit(
        TIMERS,
        workflow_key(core.namespace, core.workflow_id),
        bodies.SetTimer(core.namespace, core.workflow_id, core.run_id, due_ms, core.armed_version),
    )


def fired(run: Run, version: int) -> None:
    """A deadline armed with `version` fired: if it was the one out with the timer processor, none is there now."""
    far: FarTimer | None = run.entity.get(FAR)
    if far is not None and far.version == version:
        run.set_part(FAR, "", None)


def is_far(run: Run) -> bool:
    """Whether the timer processor has, or may have, a timer of a run that closed."""
    if not run.step.saves_records or run.entity.get(FAR) is not None:
        return True
    return run.core.armed_due_ms != 0 and run.step.context.due_at(run.entity.key) is None


def disarm_near(context: Context, key: str) -> None:
    """Forget the deadline kept beside the run with this key in its table, if there is one."""
    if context.due_at(key) is not None:
        context.unwake(key)


def fire(context: Context, key: str, version: int) -> None:
    """The deadline kept beside the run with this key is due: a command like the timer processor's says so."""
    namespace, workflow_id, run_id = split_run_key(key)
    context.emit(
        COMMANDS,
        workflow_key(namespace, workflow_id),
        bodies.FireTimer(namespace, workflow_id, run_id, version),
    )
