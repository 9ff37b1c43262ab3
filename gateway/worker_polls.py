"""The polls of one worker at one queue: its calls, and what matching was asked for them.

A worker's polls are alike, so that whichever task comes first goes to the call that has waited longest, and a call
need not ask matching when more was asked than calls wait. One may bring more tasks (decision 0016), which are kept for
the worker's next calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec

from streams.runtime.records import Correlation, Reply

SPARES: Final = 3
"""How many more tasks a poll brings at most."""

KEPT_S: Final = 0.25
"""How long a task is kept for a worker that has no call here; then it goes back to its queue."""

DISTRUST_S: Final = 10.0
"""How long a worker that did not come for a task is given none to keep."""


class Ask(msgspec.Struct):
    """A poll in matching, until `deadline_ms`; `spares` has the numbers under which more tasks may still come."""

    correlation: Correlation
    key: str
    task_kind: str
    deadline_ms: int
    worker: WorkerPolls
    spares: set[int]


class Delivered(msgspec.Struct, frozen=True):
    """A reply, the number of the poll that it was for, and what kind of task that was."""

    reply: Reply
    id: int
    task_kind: str


class PollCall(msgspec.Struct, eq=False):
    """A call that waits, until `deadline_ms`; `asked` is the number of the poll that was made for it, if any."""

    future: asyncio.Future[Delivered]
    deadline_ms: int
    asked: int = 0


class WorkerPolls:
    """Belongs to the event loop's thread."""

    __slots__ = ("_distrusted_until_s", "_loop", "asked", "calls", "is_known", "kept")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._distrusted_until_s = 0.0
        self.calls: list[PollCall] = []
        """What waits, the oldest first."""
        self.asked: dict[int, Ask] = {}
        """What matching has, the oldest first."""
        self.kept: deque[Delivered] = deque()
        self.is_known = False
        """Whether it has polled before."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not (self.calls or self.asked or self.kept)

    @property
    def spares(self) -> int:
        """How many tasks beside the first it can be trusted to come for soon."""
        return SPARES if self.is_known and self._loop.time() >= self._distrusted_until_s else 0

    def call(self, deadline_ms: int) -> PollCall:
        """A call that waits from now on; `leave` it when it ends without an answer."""
        call = PollCall(self._loop.create_future(), deadline_ms)
        self.calls.append(call)
        return call

    def needs_ask(self, call: PollCall) -> bool:
        """Whether matching has to be asked for a call: for each that waits, and by the time that it ends."""
        return len(self.asked) < len(self.calls) or any(
            ask.deadline_ms > call.deadline_ms for ask in self.asked.values()
        )

    def leave(self, call: PollCall) -> Ask | None:
        """A call has given up. Returns what matching need not have any more."""
        if call in self.calls:
            self.calls.remove(call)
        if len(self.asked) <= len(self.calls):
            return None
        return self.asked.get(call.asked) or next(reversed(self.asked.values()))

    def take(self, delivered: Delivered) -> bool:
        """A task has come, for the call that has waited longest; False when none waits."""
        while self.calls:
            future = self.calls.pop(0).future
            if not future.done():
                future.set_result(delivered)
                return True
        return False

    def end(self, delivered: Delivered, deadline_ms: int) -> None:
        """A poll ended without a task: so does a call that is to end by then, or has no poll left."""
        call = min(self.calls, key=lambda call: call.deadline_ms, default=None)
        if call is not None and (call.deadline_ms <= deadline_ms or len(self.asked) < len(self.calls)):
            self.calls.remove(call)
            if not call.future.done():
                call.future.set_result(delivered)

    def distrust(self) -> None:
        """It did not come for a task."""
        self._distrusted_until_s = self._loop.time() + DISTRUST_S
