"""The thread that commits: takes one transaction at a time off the event loop and tells the loop when it is done."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

Done = Callable[[BaseException | None], None]


class Committer:
    """Runs `commit(transaction)` on a thread of its own.

    A hand-over costs a queue entry and one wake-up of the loop; an executor would add futures on both sides.
    """

    def __init__(self, commit: Callable[[Any], None]) -> None:
        self._commit = commit
        self._waiting: queue.SimpleQueue[tuple[Any, asyncio.AbstractEventLoop, Done] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def submit(self, transaction: Any, done: Done) -> None:
        """Commit a transaction; `done(error or None)` is called on the running loop afterwards."""
        self._waiting.put((transaction, asyncio.get_running_loop(), done))

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            transaction, loop, done = entry
            error: BaseException | None = None
            try:
                self._commit(transaction)
            except BaseException as caught:
                error = caught
            loop.call_soon_threadsafe(done, error)
