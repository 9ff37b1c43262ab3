"""The end of a step: facts become emissions, history batches are written, timers armed."""

from __future__ import annotations

from collections.abc import Iterator

from streams import bodies
from streams.history import size_limits, waiters, workflow_tasks
from streams.history.evolve import emit
from streams.history.run import Run
from streams.history.step import Step
from streams.topology import HISTORY, TIMERS, workflow_key

BATCH_BYTES = 2_000_000
"""About how many bytes of events a record of history has at most, unless a single event has more."""


def finish(step: Step) -> None:
    """Turn the facts of every run touched into emissions."""
    done = 0
    while done < len(step.runs):
        for run in list(step.runs.values())[done:]:
            done += 1
            if run.facts:
                _finish(run)


def _finish(run: Run) -> None:
    history_size_bytes = 0
    if run.exists:
        history_size_bytes = run.core.history_size_bytes
        workflow_tasks.relieve_buffer(run)
    position = 0
    while position < len(run.facts):
        emit(run, run.facts[position])
        position += 1
    if run.history:
        _write_history(run)
        waiters.grown(run)
    if run.exists:
        _arm(run)
        if run.is_open:
            size_limits.warn(run, history_size_bytes)


def _write_history(run: Run) -> None:
    encoded = tuple(event.SerializeToString(deterministic=True) for event in run.history)
    core = run.core
    run.change_core(
        history_size_bytes=core.history_size_bytes + sum(map(len, encoded)),
        transition_count=core.transition_count + 1,
    )
    first = 0
    for end in _ends(encoded):
        batch = bodies.HistoryBatch(
            core.namespace,
            core.workflow_id,
            core.run_id,
            run.history[first].event_id,
            run.history[end - 1].event_id,
            run.step.now_ms,
            encoded[first:end],
        )
        run.step.context.emit(HISTORY, workflow_key(core.namespace, core.workflow_id), batch)
        first = end


def _ends(encoded: tuple[bytes, ...]) -> Iterator[int]:
    """Where to cut the events of a step so that no record grows with their number (fold.md rule 8)."""
    size = 0
    for index, event in enumerate(encoded):
        if size and size + len(event) > BATCH_BYTES:
            yield index
            size = 0
        size += len(event)
    yield len(encoded)


def _arm(run: Run) -> None:
    """Keep a timer out at or before the earliest deadline (fold.md rule 12).

    A closed run's timer is moved out to its retention at once: firing and arming it again would cost more.
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
    run.step.context.emit(
        TIMERS,
        workflow_key(core.namespace, core.workflow_id),
        bodies.SetTimer(core.namespace, core.workflow_id, core.run_id, due_ms, run.core.armed_version),
    )
