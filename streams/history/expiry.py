"""What happens to each kind of part at its deadline."""

from __future__ import annotations

from collections.abc import Callable

from streams.history import activity_retries, lifetime, state, user_timers, workflow_tasks
from streams.history.run import Run


def _workflow_task(run: Run, id: str) -> None:
    workflow_tasks.time_out(run)


EXPIRE: dict[str, Callable[[Run, str], None]] = {
    state.CORE: lifetime.expire,
    state.WORKFLOW_TASK: _workflow_task,
    state.ACTIVITY: activity_retries.expire,
    state.TIMER: user_timers.fire,
}
