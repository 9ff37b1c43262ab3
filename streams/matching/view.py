"""What is derived from the parts of a queue, kept in memory so that a fold need not sort or search.

Built from the parts when a queue is first touched, then kept true by the entity's observer, undone changes
included. Nothing here is in a checkpoint, and nothing here may decide what the parts alone would not.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from streams.bodies import AddTask, Poll
from streams.matching.rates import NEVER
from streams.matching.state import POLL, TASK, QueuedTask
from streams.runtime.tables import Entity

PollName = tuple[str, int, int]
"""What identifies a poll: gateway, epoch, call id."""

_MIDDLE = 10**15
_URGENT_MIDDLE = _MIDDLE // 2
_URGENT_END = f"{_MIDDLE // 4 * 3:016d}"
"""Places in the line of urgent tasks are below this one, the others above."""

HEAD_START_MS = 500
"""An urgent task goes ahead of the others that came up to so long before it (decision 0009)."""


def place_after(place: str | None, middle: int = _MIDDLE) -> str:
    """The place in line behind `place`; places sort as text."""
    return f"{middle if place is None else int(place) + 1:016d}"


def place_before(place: str | None, middle: int = _MIDDLE) -> str:
    """The place in line ahead of `place`."""
    return f"{middle if place is None else int(place) - 1:016d}"


class Line:
    """Places in order. Those left empty in the middle stay listed until they come to an end of the line."""

    __slots__ = ("_live", "_places")

    def __init__(self, live: Mapping[str, Any], places: Iterable[str] = ()) -> None:
        """`live` maps the places that are taken; it changes before the line is told."""
        self._live = live
        self._places = deque(sorted(places))

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def first(self) -> str:
        """The place at the head. Raises IndexError when the line is empty."""
        return self._places[0]

    @property
    def last(self) -> str:
        """The place at the end. Raises IndexError when the line is empty."""
        return self._places[-1]

    def enter(self, place: str) -> None:
        """Take note of a place that was taken."""
        places = self._places
        if not places or place > places[-1]:
            places.append(place)
        elif place < places[0]:
            places.appendleft(place)
        else:  # Undoing a step gives back a place from the middle.
            self._places = deque(sorted({*places, place}))

    def leave(self, place: str) -> None:
        """Take note of a place that was left; nothing happens when it was not taken."""
        places, live = self._places, self._live
        if not places:
            return
        if places[0] == place:
            places.popleft()
            while places and places[0] not in live:
                places.popleft()
        elif places[-1] == place:
            places.pop()
            while places and places[-1] not in live:
                places.pop()


class Backlog:
    """The tasks in two lines, the urgent ones in a line of their own; which one is next follows from both."""

    __slots__ = ("_plain", "_tasks", "_urgent")

    def __init__(self, tasks: Mapping[str, QueuedTask]) -> None:
        self._tasks = tasks
        self._urgent = Line(tasks, (place for place in tasks if place < _URGENT_END))
        self._plain = Line(tasks, (place for place in tasks if place > _URGENT_END))

    def __bool__(self) -> bool:
        return bool(self._plain) or bool(self._urgent)

    @property
    def first(self) -> str:
        """The place whose turn it is. Raises IndexError when nothing waits."""
        if not self._urgent:
            return self._plain.first
        if not self._plain:
            return self._urgent.first
        urgent, plain = self._urgent.first, self._plain.first
        late = self._tasks[urgent].added_ms - HEAD_START_MS > self._tasks[plain].added_ms
        return plain if late else urgent

    @property
    def oldest_ms(self) -> int:
        """When the task was added that has waited longest. Raises ValueError when nothing waits."""
        return min(self._tasks[line.first].added_ms for line in (self._plain, self._urgent) if line)

    def place_for(self, task: AddTask) -> str:
        """The place that a task gets: the end of its line, or its head if that is where it came from."""
        line, middle = (self._urgent, _URGENT_MIDDLE) if task.urgent else (self._plain, _MIDDLE)
        if task.at_head:
            return place_before(line.first if line else None, middle)
        return place_after(line.last if line else None, middle)

    def enter(self, place: str) -> None:
        """Take note of a place that was taken."""
        self._line(place).enter(place)

    def leave(self, place: str) -> None:
        """Take note of a place that was left; nothing happens when it was not taken."""
        self._line(place).leave(place)

    def _line(self, place: str) -> Line:
        return self._urgent if place < _URGENT_END else self._plain


class QueueView:
    """The backlog in order, the waiting polls in order by gateway and by name, and their deadlines.

    `armed_ms` is when the queue is next due, NEVER when it is not.
    """

    __slots__ = ("_deadlines", "armed_ms", "places", "polls", "tasks", "waiting")

    def __init__(self, entity: Entity, armed_ms: int) -> None:
        tasks = entity.parts.setdefault(TASK, {})
        self.tasks = Backlog(tasks)
        self.waiting: dict[str, Poll] = {}
        self.polls: dict[str, Line] = {}
        self.places: dict[PollName, str] = {}
        self._deadlines: list[tuple[int, str]] = []
        self.armed_ms = armed_ms
        for place, poll in entity.items(POLL):
            self._poll_entered(place, poll)

    def changed(self, kind: str, id: str, value: Any) -> None:
        """The entity's observer."""
        if kind == TASK:
            if value is None:
                self.tasks.leave(id)
            else:
                self.tasks.enter(id)
        elif kind == POLL:
            if value is None:
                self._poll_left(id)
            else:
                self._poll_entered(id, value)

    def _poll_entered(self, place: str, poll: Poll) -> None:
        if place in self.waiting:  # Undoing a step that gave the place to another poll.
            self._poll_left(place)
        self.waiting[place] = poll
        self.places[(poll.gateway, poll.epoch, poll.id)] = place
        line = self.polls.get(poll.gateway)
        if line is None:
            line = self.polls[poll.gateway] = Line(self.waiting)
        line.enter(place)
        if len(self._deadlines) > 2 * len(self.waiting) + 64:
            self._deadlines = [(waiting.deadline_ms, at) for at, waiting in self.waiting.items()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (poll.deadline_ms, place))

    def _poll_left(self, place: str) -> None:
        poll = self.waiting.pop(place, None)
        if poll is None:  # Undoing a step that gave the place and took it away again.
            return
        del self.places[(poll.gateway, poll.epoch, poll.id)]
        line = self.polls[poll.gateway]
        line.leave(place)
        if not line:
            del self.polls[poll.gateway]

    def next_lapse(self) -> tuple[int, str] | None:
        """(deadline in ms, place) of the waiting poll that lapses first, or None."""
        deadlines = self._deadlines
        while deadlines:
            deadline_ms, place = deadlines[0]
            poll = self.waiting.get(place)
            if poll is not None and poll.deadline_ms == deadline_ms:
                return deadlines[0]
            heapq.heappop(deadlines)
        return None

    def end_of_polls(self) -> str | None:
        """The last place taken by a poll."""
        return max((line.last for line in self.polls.values()), default=None)

    def head_of_polls(self) -> str | None:
        """The first place taken by a poll."""
        return min((line.first for line in self.polls.values()), default=None)


def view_of(entity: Entity, armed: tuple[int, int] | None) -> QueueView:
    """Build the entity's view and have it kept true; `armed` is what the due index has for the queue."""
    view = QueueView(entity, NEVER if armed is None else armed[0])
    entity.view = view
    entity.observer = view.changed
    return view
