"""Internal facts: what happened to a run besides its history events.

A run's state is rebuilt from its facts, events and these, in order. `apply` lives with the concern each belongs to.
"""

from __future__ import annotations

from typing import Any

import msgspec


class PartSet(msgspec.Struct, frozen=True):
    """An operational part (a waiter, a query, a dispatch) is now `value`, or gone when None.

    For parts that no event tells of; what events tell of is changed by their appliers alone.
    """

    kind: str
    id: str
    value: Any


class CoreChanged(msgspec.Struct, frozen=True):
    """Operational fields of the core that no event tells of."""

    changes: dict[str, Any]


class TaskScheduled(msgspec.Struct, frozen=True):
    """A workflow task waits for a worker; `dispatch` is False when it is handed over with a response instead.

    `at_head` when one comes back undelivered.
    """

    task: Any
    dispatch: bool
    at_head: bool = False


class ActivityDispatched(msgspec.Struct, frozen=True):
    """An activity's attempt is for its task queue now; `at_head` when it comes back undelivered."""

    activity: Any
    at_head: bool = False


class EventBuffered(msgspec.Struct, frozen=True):
    """An event waits for the running workflow task to end. Its effect on state is immediate."""

    event: Any


class BufferFlushed(msgspec.Struct, frozen=True):
    """The buffered events became part of the history, in this order, with these ids."""

    events: tuple[Any, ...]
