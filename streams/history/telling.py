"""What stores are told of a run, and when: a run that moves on fast is told of in few records (decision 0012).

Its events become part of the history at once, with their ids, and wait in its state for those that follow: for a
moment, until they are many, or until the run closes. Whoever asks for events asks the owner, and gets them beside the
answer (fold.md rule 21).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from streams import bodies
from streams.history.run import Run
from streams.history.state import UNTOLD, Untold
from streams.history.step import SEPARATOR
from streams.topology import HISTORY, workflow_key

BATCH_BYTES = 2_000_000
"""About how many bytes of events a record of history has at most, unless a single event has more."""

WAIT_MS: Final = 1_000
"""How long events may wait, and lists lack what the server itself has added to a run."""

TOGETHER_MS: Final = 100
"""Runs are due at multiples of this: one tick does for many."""

WAIT_BYTES: Final = 16_384
WAIT_EVENTS: Final = 64
"""How many events may wait, and how many bytes of them."""

DUE: Final = SEPARATOR
"""What keys of the due index begin with that say when the rest is to be told of a run: no namespace does."""


def add(run: Run, first_event_id: int, events: tuple[bytes, ...]) -> None:
    """Tell of events that became part of the history, with those that wait, now or soon."""
    if not run.step.saves_records:
        _write(run, first_event_id, events)
        return
    untold = _untold(run)
    if untold.events:
        first_event_id, events = untold.first_event_id, untold.events + events
    if run.is_open and len(events) <= WAIT_EVENTS and sum(map(len, events)) <= WAIT_BYTES:
        _wait(run, Untold(first_event_id, events, untold.show))
    else:
        _write(run, first_event_id, events)
        _wait(run, Untold(show=untold.show and run.is_open))


def show_soon(run: Run) -> None:
    """Have the run's row told of with the rest."""
    untold = _untold(run)
    _wait(run, Untold(untold.first_event_id, untold.events, True))


def shown(run: Run) -> None:
    """The run's row is told of now."""
    untold = _untold(run)
    if untold.show:
        _wait(run, Untold(untold.first_event_id, untold.events))


def take(run: Run) -> Untold:
    """What is due to be told: its events are written now, and nothing is left."""
    untold = _untold(run)
    run.set_part(UNTOLD, "", None)
    if untold.events:
        _write(run, untold.first_event_id, untold.events)
    return untold


def _untold(run: Run) -> Untold:
    untold: Untold | None = run.entity.get(UNTOLD)
    return untold or Untold()


def _wait(run: Run, untold: Untold) -> None:
    """Keep what has yet to be told; the run is due as long as there is anything."""
    waits, waited = bool(untold.events) or untold.show, run.entity.get(UNTOLD) is not None
    context, key = run.step.context, DUE + run.entity.key
    if waits and not waited:
        due_ms = run.step.now_ms + WAIT_MS
        context.wake(key, due_ms + -due_ms % TOGETHER_MS)
    elif waited and not waits:
        context.unwake(key)
    if waits or waited:
        run.set_part(UNTOLD, "", untold if waits else None)


def _write(run: Run, first_event_id: int, events: tuple[bytes, ...]) -> None:
    core = run.core
    first = 0
    for end in _ends(events):
        batch = bodies.HistoryBatch(
            core.namespace,
            core.workflow_id,
            core.run_id,
            first_event_id + first,
            first_event_id + end - 1,
            run.step.now_ms,
            events[first:end],
        )
        run.step.context.emit(HISTORY, workflow_key(core.namespace, core.workflow_id), batch)
        first = end


def _ends(events: Sequence[bytes]) -> Iterator[int]:
    """Where to cut events so that no record grows with their number (fold.md rule 8)."""
    size = 0
    for index, event in enumerate(events):
        if size and size + len(event) > BATCH_BYTES:
            yield index
            size = 0
        size += len(event)
    yield len(events)
