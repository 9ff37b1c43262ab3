"""Replies of the engine, and the calls that await them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streams.runtime.records import Correlation, Reply

NotAwaited = Callable[[int, Reply], bool]
"""Takes a reply that no future awaits: not_awaited(call id, reply). False when nobody awaits it."""


class Replies:
    """Futures of calls by their number in the gateway's epoch. Belongs to the event loop's thread."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._epoch = 0
        self._last = 0
        self._awaited: dict[int, asyncio.Future[Reply]] = {}
        self.not_awaited: NotAwaited | None = None
        self.not_awaited_total = 0
        """Replies that nobody awaited any more."""

    def begin(self, epoch: int) -> None:
        """Start numbering under `epoch`, in milliseconds."""
        self._epoch = epoch
        self._loop = asyncio.get_running_loop()

    def expect(self) -> tuple[Correlation, asyncio.Future[Reply]]:
        """A new call's correlation and the future of its reply; `forget` it if it is no longer awaited."""
        self._last = id = self._last + 1
        self._awaited[id] = future = self._loop.create_future()
        return Correlation(self._gateway, self._epoch, id), future

    def time_out(self, future: asyncio.Future[Reply], timeout_s: float) -> asyncio.TimerHandle:
        """Fail a call that has no reply by then with TimeoutError."""
        return self._loop.call_later(timeout_s, _time_out, future)

    def number(self, count: int = 1) -> Correlation:
        """The correlation of a call whose reply `not_awaited` takes, and `count` - 1 more under the next numbers."""
        first = self._last + 1
        self._last += count
        return Correlation(self._gateway, self._epoch, first)

    def forget(self, id: int) -> None:
        """Await a reply no longer."""
        self._awaited.pop(id, None)

    def deliver(self, id: int, reply: Reply) -> None:
        """Resolve a call; called by the engine on the loop."""
        future = self._awaited.pop(id, None)
        if future is not None and not future.done():
            future.set_result(reply)
            return
        if self.not_awaited is None or not self.not_awaited(id, reply):
            self.not_awaited_total += 1

    def __len__(self) -> int:
        return len(self._awaited)


def _time_out(future: asyncio.Future[Reply]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
