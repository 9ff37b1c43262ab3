"""Finding the run that a call is about."""

from __future__ import annotations

from streams.history import errors
from streams.history.run import Run
from streams.history.step import Step


def find_run(step: Step, run_id: str) -> Run:
    """The run named, or the current one when `run_id` is empty. Raises Rejected (NOT_FOUND)."""
    if not run_id:
        current = step.current
        if current is None:
            raise errors.workflow_missing(step.workflow_id)
        run_id = current.run_id
    run = step.run(run_id)
    if not run.exists:
        raise errors.run_missing(step.workflow_id, run_id)
    return run


def find_open_run(step: Step, run_id: str, first_run_id: str = "") -> Run:
    """Like `find_run`, for calls that only an open run can take.

    `first_run_id`, when given, names a chain of runs instead of one: the current run must be of it. Raises
    Rejected (NOT_FOUND); a run that closed is told before one of another chain, as the real server does.
    """
    run = find_run(step, "" if first_run_id else run_id)
    if not run.is_open:
        raise errors.completed()
    if first_run_id and run.core.first_run_id != first_run_id:
        raise errors.not_found("workflow execution not found")
    return run
