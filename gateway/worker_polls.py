"""The polls of one worker at one queue: its calls, and what matching was asked for them.

A worker's polls are alike, so that whichever task comes first goes to the call that has waited longest, and a call
need not ask matching when more was asked than calls wait. One may bring more tasks (decision 0016), which are kept for
the worker's next calls, as are those that it offered to take (decision 0017).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from streams.bodies import WORKFLOW_TASK
from streams.runtime.records import Correlation, Reply

SPARES: Final = 3
"""How many more tasks a poll brings at most."""

KEPT_S: Final = 0.25
"""How long a task is kept for a worker that has no call here, and a poll stays in matching that no call needs."""

PROMPT_S: Final = 0.1
"""A worker is trusted with tasks to keep if it called again within so long of an answer."""

DISTRUST_S: Final = 10.0
"""How long a worker that did not come for a task is given none to keep."""


OFFER_S: Final = 0.5
"""How long a worker's offer to take a run's next task stands."""


class Ask(msgspec.Struct):
    """A poll in matching, until `deadline_ms`; `spares` has the numbers under which more tasks may still come."""

    correlation: Correlation
    asked_ms: int
    deadline_ms: int
    worker: WorkerPolls
    spares: set[int]


class Offer(msgspec.Struct):
    """A run's next task may start for the worker until `deadline_ms`, and come under the number `id`."""

    id: int
    deadline_ms: int
    worker: WorkerPolls


class Delivered(msgspec.Struct, frozen=True):
    """A reply, the number of the poll that it was for, and what kind of task that was.

    `offered` tells that the worker had offered to take it, `kept` that it was kept, `behind` how many more were then.
    """

    reply: Reply
    id: int
    task_kind: str
    offered: bool = False
    kept: bool = False
    behind: int = 0

    @property
    def has_task(self) -> bool:
        """Whether a task has come, not an error and not the end of a poll."""
        return bool(self.reply.body) and not self.reply.code


class PollCall(msgspec.Struct, eq=False):
    """A call that waits, until `deadline_ms`; `asked` is the number of the poll that was made for it, if any."""

    future: asyncio.Future[Delivered]
    deadline_ms: int
    asked: int = 0


class WorkerPolls:
    """Belongs to the event loop's thread. `key` is that of the queue for tasks of `task_kind`."""

    def __init__(self, key: str, task_kind: str, identity: str) -> None:
        self.key = key
        self.task_kind = task_kind
        self.identity = identity
        self._loop = asyncio.get_running_loop()
        self._answered_s = -PROMPT_S
        self._is_prompt = False
        self._distrusted_until_s = 0.0
        self._taken_s: deque[float] = deque()
        self.seen_s = self._loop.time()
        """When it called last, by the loop's clock."""
        self.calls: list[PollCall] = []
        """What waits, the oldest first."""
        self.asked: dict[int, Ask] = {}
        """What matching has, the oldest first."""
        self.kept: deque[Delivered] = deque()
        """Tasks that came for nobody, the oldest first."""
        self.offers: dict[int, Offer] = {}
        """What it has offered to take, the oldest first."""
        self.looks_for_surplus = False
        """Whether it will be looked soon for polls that no call needs."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not (self.calls or self.asked or self.kept)

    @property
    def spares(self) -> int:
        """How many tasks beside the first it can be trusted to come for soon; never activities, which may take long."""
        trusted = self._is_prompt and not self._is_distrusted
        return SPARES if trusted and self.task_kind == WORKFLOW_TASK else 0

    @property
    def _is_distrusted(self) -> bool:
        return self._loop.time() < self._distrusted_until_s

    def may_offer(self, now_ms: int) -> bool:
        """Whether it will come soon for one more task than it has and has offered to take.

        It has so many calls that wait, or has come for so many within the time that a task is kept.
        """
        while self.offers and (oldest := next(iter(self.offers.values()))).deadline_ms < now_ms:
            del self.offers[oldest.id]
        if self._is_distrusted:
            return False
        self._forget_taken()
        room = len(self.calls) + (2 * len(self._taken_s) if self._is_prompt else 0)
        return len(self.offers) + len(self.kept) < room

    def seen(self) -> None:
        """It calls."""
        self.seen_s = self._loop.time()
        self._is_prompt = self.seen_s - self._answered_s < PROMPT_S

    def next_kept(self) -> Delivered | None:
        """The task for a call that was kept longest, if any is."""
        if not self.kept:
            return None
        self._answer()
        return msgspec.structs.replace(self.kept.popleft(), behind=len(self.kept))

    def _answer(self) -> None:
        self._answered_s = self._loop.time()
        self._taken_s.append(self._answered_s)
        self._forget_taken()

    def _forget_taken(self) -> None:
        """What it came for longer ago than a task is kept says nothing of how soon it comes."""
        before_s = self._loop.time() - KEPT_S
        while self._taken_s and self._taken_s[0] < before_s:
            self._taken_s.popleft()

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

    def surplus(self) -> Sequence[Ask]:
        """What was asked of matching for more calls than wait: what ends last."""
        count = len(self.asked) - len(self.calls)
        if count <= 0:
            return ()
        return sorted(self.asked.values(), key=_deadline_ms, reverse=True)[:count]

    def leave(self, call: PollCall) -> Sequence[Ask]:
        """A call has given up. Returns what matching need not have any more."""
        if call in self.calls:
            self.calls.remove(call)
        own = self.asked.get(call.asked)
        return [own] if own is not None and len(self.asked) > len(self.calls) else self.surplus()

    def take(self, delivered: Delivered) -> bool:
        """A task has come, for the call that ends first: that which waits longest, as a rule. False when none waits."""
        while self.calls:
            call = min(self.calls, key=_deadline_ms)
            self.calls.remove(call)
            if not call.future.done():
                self._answer()
                call.future.set_result(delivered)
                return True
        return False

    def end(self, delivered: Delivered, deadline_ms: int) -> None:
        """A poll ended without a task: so does a call that is to end by then, or has no poll left."""
        call = min(self.calls, key=_deadline_ms, default=None)
        if call is not None and (call.deadline_ms <= deadline_ms or len(self.asked) < len(self.calls)):
            self.calls.remove(call)
            if not call.future.done():
                call.future.set_result(delivered)

    def distrust(self) -> None:
        """It did not come for a task."""
        self._distrusted_until_s = self._loop.time() + DISTRUST_S


def _deadline_ms(of: Ask | PollCall) -> int:
    return of.deadline_ms
