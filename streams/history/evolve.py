"""Facts and what they do: appliers change a run's state, emitters turn a fact into what leaves the partition.

Each concern registers its own. Only appliers change state; a run rebuilt from its facts equals the run held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

if TYPE_CHECKING:
    from streams.history.run import Run

Applier = Callable[["Run", Any], None]
Emitter = Callable[["Run", Any], None]

_appliers: dict[int, Applier] = {}
_fact_appliers: dict[type, Applier] = {}
_emitters: dict[int, Emitter] = {}
_fact_emitters: dict[type, Emitter] = {}


def applies(*event_types: int) -> Callable[[Applier], Applier]:
    """Register the applier of history events of these types."""

    def register(function: Applier) -> Applier:
        for event_type in event_types:
            assert event_type not in _appliers, EventType.Name(event_type)  # type: ignore[arg-type]
            _appliers[event_type] = function
        return function

    return register


def applies_fact(cls: type) -> Callable[[Applier], Applier]:
    """Register the applier of an internal fact."""

    def register(function: Applier) -> Applier:
        assert cls not in _fact_appliers, cls
        _fact_appliers[cls] = function
        return function

    return register


def emits(*event_types: int) -> Callable[[Emitter], Emitter]:
    """Register what leaves the partition because of events of these types."""

    def register(function: Emitter) -> Emitter:
        for event_type in event_types:
            assert event_type not in _emitters, EventType.Name(event_type)  # type: ignore[arg-type]
            _emitters[event_type] = function
        return function

    return register


def emits_fact(cls: type) -> Callable[[Emitter], Emitter]:
    """Register what leaves the partition because of an internal fact."""

    def register(function: Emitter) -> Emitter:
        assert cls not in _fact_emitters, cls
        _fact_emitters[cls] = function
        return function

    return register


def apply(run: Run, fact: Any) -> None:
    """Change the run's state by one fact."""
    if isinstance(fact, HistoryEvent):
        run.note_event_id(fact.event_id)
        applier = _appliers.get(fact.event_type)
        if applier is not None:
            applier(run, fact)
    else:
        _fact_appliers[type(fact)](run, fact)


def emit(run: Run, fact: Any) -> None:
    """Emit what follows from one fact."""
    if isinstance(fact, HistoryEvent):
        emitter = _emitters.get(fact.event_type)
    else:
        emitter = _fact_emitters.get(type(fact))
    if emitter is not None:
        emitter(run, fact)
