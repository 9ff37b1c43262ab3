"""The end of a step: facts become emissions, events are told of, deadlines armed."""

from __future__ import annotations

import msgspec

from streams.history import arming, offers, size_limits, state, telling, waiters, workflow_tasks
from streams.history.evolve import emit
from streams.history.run import Run
from streams.history.step import Step


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
        offers.take(run)
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
    telling.add(run, run.history[0].event_id, encoded)


def _send_held(step: Step) -> None:
    """Put events of which no record has told beside the answers that they belong to: they are in no store."""
    replies = step.context.replies
    for index, (correlation, reply) in enumerate(replies):
        run = step.runs.get(reply.attach_run)
        untold: state.Untold | None = None if run is None else run.entity.get(state.UNTOLD)
        if untold is not None and untold.events:
            replies[index] = (
                correlation,
                msgspec.structs.replace(reply, held_first_id=untold.first_event_id, held=untold.events),
            )
