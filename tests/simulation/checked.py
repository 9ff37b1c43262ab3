"""The real processors and partitions, watched: every step is held against what must be true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from streams import history_processor
from streams.bodies import AddTask, Call
from streams.history import state
from streams.history.evolve import apply
from streams.history.run import Run
from streams.history.step import Step
from streams.history_processor import HistoryProcessor
from streams.matching_processor import MatchingProcessor
from streams.runtime import tables
from streams.runtime.context import Context
from streams.runtime.partition import Outcome, Partition
from streams.runtime.records import Record
from streams.runtime.tables import Entity
from streams.timer_processor import TimerProcessor

if TYPE_CHECKING:
    from tests.simulation.judge import Judge

POISON = b"poison"
POISON_SHARE = 7
"""One task in so many is poison to matching, where there is poison at all."""

Poisoned = Callable[[Record], bool]
"""Whether the code that folds a record now raises on it."""

_finished: list[Step] = []


class PoisonError(Exception):
    """What the pure code raises on a poison record."""


class InvariantError(AssertionError):
    """Something is not as it must be."""


def is_poison(record: Record) -> bool:
    """Whether the record is one that old code cannot fold."""
    body = record.body
    if isinstance(body, Call):
        return POISON in body.request
    return isinstance(body, AddTask) and (body.scheduled_event_id + body.stamp) % POISON_SHARE == 0


@contextmanager
def watching_steps() -> Iterator[None]:
    """Have the history processor's steps noted as they finish."""
    finish = history_processor.finish

    def noting(step: Step) -> None:
        finish(step)
        _finished.append(step)

    history_processor.finish = noting
    try:
        yield
    finally:
        history_processor.finish = finish


class CheckedHistory(HistoryProcessor):
    """Checks every run that a step touched before the step is kept, then raises on poison."""

    def __init__(self, poisoned: Poisoned) -> None:
        super().__init__()
        self._poisoned = poisoned

    def fold(self, context: Context, record: Record) -> None:
        """See Processor."""
        _finished.clear()
        super().fold(context, record)
        check_steps()
        if self._poisoned(record):
            raise PoisonError(repr(record))

    def due(self, context: Context, key: str, payload: int) -> None:
        """See Processor."""
        _finished.clear()
        super().due(context, key, payload)
        check_steps()

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """See Processor."""
        _finished.clear()
        super().judged(context, record, reason)
        check_steps()


class CheckedMatching(MatchingProcessor):
    """Raises on poison, after everything else."""

    def __init__(self, poisoned: Poisoned) -> None:
        self._poisoned = poisoned

    def fold(self, context: Context, record: Record) -> None:
        """See Processor."""
        super().fold(context, record)
        if self._poisoned(record):
            raise PoisonError(repr(record))


def processor(topic: str, poisoned: Poisoned) -> Any:
    """The processor of a topic."""
    if topic == "commands":
        return CheckedHistory(poisoned)
    return CheckedMatching(poisoned) if topic == "tasks" else TimerProcessor()


def check_steps() -> None:
    """Every run touched is what its facts say, and has a timer out for its deadline."""
    for step in _finished:
        for run in step.runs.values():
            try:
                check_facts(run)
                check_deadlines(run)
            except InvariantError as error:
                # Not an Exception of the pure code: that would be taken for a verdict.
                raise Violation(str(error)) from error


class Violation(BaseException):
    """An invariant that does not hold, on its way past everything that catches exceptions."""


def check_facts(run: Run) -> None:
    """The state before the step and its facts give the state after it."""
    entity = run.entity
    if not entity.undo:
        return
    before = Entity(entity.key)
    before.parts = {kind: dict(group) for kind, group in entity.parts.items()}
    for (kind, id), old in entity.undo.items():
        if old is tables._ABSENT:
            before.parts[kind].pop(id, None)
        else:
            before.parts.setdefault(kind, {})[id] = old
    rebuilt = Run(before)
    for fact in run.facts:
        apply(rebuilt, fact)
    held = {kind: group for kind, group in entity.parts.items() if group}
    found = {kind: group for kind, group in before.parts.items() if group}
    if held != found:
        differing = [
            f"{kind} {id}: {field} is {getattr(one, field, None)!r}, by its facts {getattr(other, field, None)!r}"
            for kind in sorted({*held, *found})
            for id in sorted({*held.get(kind, {}), *found.get(kind, {})})
            for one, other in [(held.get(kind, {}).get(id), found.get(kind, {}).get(id))]
            for field in getattr(one or other, "__struct_fields__", ())
            if getattr(one, field, None) != getattr(other, field, None)
        ]
        facts = [fact_name(fact) for fact in run.facts]
        raise InvariantError(f"the facts of {entity.key!r} do not rebuild it: {differing}, facts {facts}")


def fact_name(fact: Any) -> str:
    """What kind of fact it is."""
    if isinstance(fact, HistoryEvent):
        return EventType.Name(fact.event_type).removeprefix("EVENT_TYPE_")
    return type(fact).__name__


def check_deadlines(run: Run) -> None:
    """A timer is out at or before the earliest deadline (fold.md rule 12)."""
    if not run.exists:
        return
    due = [
        part.deadline_ms()
        for kind in state.TIMED
        for part in run.entity.group(kind).values()
        if part.deadline_ms()
    ]
    first = run.deadlines.first()
    if (first[0] if first else 0) != min(due, default=0):
        raise InvariantError(f"the index of deadlines is wrong: {first} for {min(due, default=0)}")
    armed_ms = run.core.armed_due_ms
    if due and not 0 < armed_ms <= min(due):
        raise InvariantError(f"no timer is out: {run.entity.key!r} is due at {min(due)}, armed {armed_ms}")


class CheckedPartition(Partition):
    """Shows the judge what every step leaves."""

    judge: Judge
    owner_name: str = ""

    def step(self, record: Record) -> Outcome:
        """See Partition."""
        outcome = super().step(record)
        self.judge.stepped(self, record, outcome)
        return outcome
