"""How large a run may get. Over a limit the server terminates it; over a lower one an operator is told, once.

Behaviour: enforceHistorySizeCheck, enforceHistoryCountCheck and enforceMutableStateSizeCheck of the real server
(service/history/workflow/context.go): the step that would go over the limit is undone, the run is terminated in
its place, and the caller is told. The history's bytes are those before the step.
"""

from __future__ import annotations

from typing import Final

from streams.history import facts, state
from streams.history.run import Run
from streams.history.step import Step

TERMINATED_BY: Final = "history-service"
"""Who terminates a run that is too large."""

_LOOKED_AT: Final = (state.WAITER, state.QUERY)
"""Parts of those who only look at a run."""

_UPDATE_FIELDS: Final = {"update_count"}
"""Fields of the core that change with an update's admission."""


class RunTooLargeError(Exception):
    """The step took a run over a limit: it has to be undone, and the run terminated."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(reason)
        self.run_id = run_id
        self.reason = reason


def check(step: Step) -> None:
    """Look at every open run that the decision changed, before it takes effect. Raises RunTooLargeError.

    Not at a run that began in this step: undone, there would be nothing to terminate.
    """
    for run in step.runs.values():
        if not run.facts or run.new or not run.exists or not run.is_open:
            continue
        reason = _over(run)
        if reason and _changed(run):
            raise RunTooLargeError(run.core.run_id, reason)


def _over(run: Run) -> str:
    limits, core = run.step.limits, run.core
    if core.history_size_bytes > limits.history_size_error_bytes:
        return "Workflow history size exceeds limit."
    if core.next_event_id - 1 > limits.history_count_error:
        return "Workflow history count exceeds limit."
    if run.state_size.size_bytes > limits.state_size_error_bytes:
        return "Workflow mutable state size exceeds limit."
    return ""


def _changed(run: Run) -> bool:
    """Whether anything changed that the real server stores: it looks at sizes when it does.

    Admitted updates and the speculative tasks that bring them are in its memory only.
    """
    return not all(map(_is_passing, run.facts))


def _is_passing(fact: object) -> bool:
    if isinstance(fact, facts.PartSet):
        speculative = fact.kind == state.WORKFLOW_TASK and fact.value and fact.value.kind == state.SPECULATIVE
        return fact.kind in _LOOKED_AT or fact.kind == state.UPDATE or bool(speculative)
    if isinstance(fact, facts.TaskScheduled):
        return bool(fact.task.kind == state.SPECULATIVE)
    return isinstance(fact, facts.CoreChanged) and fact.changes.keys() == _UPDATE_FIELDS


def warn(run: Run, history_size_before_bytes: int) -> None:
    """Tell an operator when the step took the run over a lower limit."""
    limits, core = run.step.limits, run.core
    if run.history:
        count, size_bytes = core.next_event_id - 1, core.history_size_bytes
        if run.history[0].event_id <= limits.history_count_warn < count:
            _tell(run, f"history has {count} events", limits.history_count_warn)
        if history_size_before_bytes <= limits.history_size_warn_bytes < size_bytes:
            _tell(run, f"history has {size_bytes} bytes", limits.history_size_warn_bytes)
    size = run.state_size
    if size.at_start_bytes <= limits.state_size_warn_bytes < size.size_bytes:
        _tell(run, f"state has {size.size_bytes} bytes", limits.state_size_warn_bytes)


def _tell(run: Run, what: str, limit: int) -> None:
    core = run.core
    run.step.context.warn(
        f"workflow {core.workflow_id} of namespace {core.namespace}, run {core.run_id}: "
        f"its {what}, above the limit of {limit} for warnings"
    )
