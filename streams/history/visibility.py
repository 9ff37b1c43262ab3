"""What lists show of a run: emitted whenever it changes."""

from __future__ import annotations

from streams import bodies, topology
from streams.history import state, telling
from streams.history.run import Run

MS_NS = 1_000_000


def show(run: Run) -> None:
    """Emit the run's row for the visibility store."""
    telling.shown(run)
    core = run.core
    run.change_core(visible_version=core.visible_version + 1)
    memo, search = run.entity.get(state.MEMO), run.entity.get(state.SEARCH)
    closed = core.close_ms != 0
    run.step.context.emit(
        topology.VISIBILITY,
        _key(run),
        bodies.RunVisible(
            namespace=core.namespace,
            workflow_id=core.workflow_id,
            run_id=core.run_id,
            version=core.visible_version,
            workflow_type=core.workflow_type,
            task_queue=core.task_queue,
            status=core.status,
            start_time_ns=core.start_ms * MS_NS,
            execution_time_ns=core.execution_start_ms * MS_NS,
            close_time_ns=core.close_ms * MS_NS,
            history_length=core.next_event_id - 1 if closed else 0,
            history_size_bytes=core.history_size_bytes if closed else 0,
            state_transition_count=core.transition_count if closed else 0,
            parent_workflow_id=core.parent_workflow_id,
            parent_run_id=core.parent_run_id,
            root_workflow_id=core.root_workflow_id,
            root_run_id=core.root_run_id,
            memo=memo.data if memo else b"",
            search_attributes=search.data if search else b"",
        ),
    )


def _key(run: Run) -> str:
    """The key of the run's row: until logic version 2 all runs of a workflow had one, and compaction kept the last."""
    names = (run.core.namespace, run.core.workflow_id)
    if run.step.context.logic_version < 2:
        return topology.workflow_key(*names)
    return topology.run_key(*names, run.core.run_id)


def show_soon(run: Run) -> None:
    """Have the run's row emitted in a moment, unless it is before that."""
    if run.step.saves_records:
        telling.show_soon(run)
    else:
        show(run)
