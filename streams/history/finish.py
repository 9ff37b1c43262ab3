"""The end of a step: facts become emissions, history batches are written, deadlines armed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from temporalio.api.enums.v1 import EventType

from streams import bodies
from streams.history import arming, size_limits, state, waiters, workflow_tasks
from streams.history.evolve import emit
from streams.history.run import Run
from streams.history.step import Step
from streams.topology import HISTORY, workflow_key

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
    _send_held(step)


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
        arming.arm(run)
        if run.is_open:
            size_limits.warn(run, history_size_bytes)


def _write_history(run: Run) -> None:
    encoded = tuple(event.SerializeToString(deterministic=True) for event in run.history)
    core = run.core
    run.change_core(
        history_size_bytes=core.history_size_bytes + sum(map(len, encoded)),
        transition_count=core.transition_count + 1,
    )
    held: state.Blob | None = run.entity.get(state.HELD)
    if held is None and _can_wait(run):
        run.set_part(state.HELD, "", state.Blob(encoded[0]))
        return
    first_event_id = run.history[0].event_id
    if held is not None:
        first_event_id -= 1
        encoded = (held.data, *encoded)
        run.set_part(state.HELD, "", None)
    first = 0
    for end in _ends(encoded):
        batch = bodies.HistoryBatch(
            core.namespace,
            core.workflow_id,
            core.run_id,
            first_event_id + first,
            first_event_id + end - 1,
            run.step.now_ms,
            encoded[first:end],
        )
        run.step.context.emit(HISTORY, workflow_key(core.namespace, core.workflow_id), batch)
        first = end


def _can_wait(run: Run) -> bool:
    """Whether what is to be written is no more than that a worker has the workflow task.

    Its end is not far, and takes this with it: readers get it beside answers until then (fold.md rules 12 and 21).
    """
    started = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
    return run.step.saves_records and len(run.history) == 1 and run.history[0].event_type == started


def _send_held(step: Step) -> None:
    """Put events that are held back beside the answers that they belong to: they are in no store."""
    replies = step.context.replies
    for index, (correlation, reply) in enumerate(replies):
        run = step.runs.get(reply.attach_run)
        held: state.Blob | None = None if run is None else run.entity.get(state.HELD)
        if held is not None:
            replies[index] = (correlation, msgspec.structs.replace(reply, held=(held.data,)))


def _ends(encoded: tuple[bytes, ...]) -> Iterator[int]:
    """Where to cut the events of a step so that no record grows with their number (fold.md rule 8)."""
    size = 0
    for index, event in enumerate(encoded):
        if size and size + len(event) > BATCH_BYTES:
            yield index
            size = 0
        size += len(event)
    yield len(encoded)
