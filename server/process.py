"""What every serving process does, whatever it is made of: limits, signals, and the way to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

import structlog

from server.errors import StartupError
from streams.limits import Limits, limits_from_dynamic_config

DRAIN_TIMEOUT_S: Final = 10.0
GC_ALLOCATIONS: Final = 50_000
"""Allocations between looks for garbage cycles: a step makes hundreds, and hardly a cycle among them."""

_log = structlog.get_logger(__name__)


class Server(Protocol):
    """The engine and its gateway, running."""

    @property
    def port(self) -> int:
        """The port in use."""

    async def failed(self) -> BaseException:
        """Waits until the engine cannot go on, and returns the reason."""

    async def drain(self) -> None:
        """Takes no more calls and ends the waiting polls with empty answers."""

    async def stop(self) -> None:
        """Writes a checkpoint and closes the file."""


def limits_of(dynamic_config: Mapping[str, str]) -> Limits:
    """The limits that settings ask for, with a warning for each key that is not known. Raises :class:`StartupError`."""
    try:
        limits, warnings = limits_from_dynamic_config(dynamic_config)
    except ValueError as error:
        raise StartupError(str(error)) from None
    for warning in warnings:
        _log.warning(warning)
    return limits


@contextlib.contextmanager
def yielding_threads() -> Iterator[None]:
    """Threads that start in the block, and those that these start, do not interrupt the others when they wake.

    Under Linux they get SCHED_BATCH (sched(7)): the HTTP/2 server's and the log's threads wake for each call, and
    where cores are few each would take the loop's from it in the middle of a step (decision 0011). Elsewhere, where a
    policy was set already, and where none may be set, nothing changes.
    """
    changed = False
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
                changed = True
    try:
        yield
    finally:
        if changed:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def stop_signal(before_end: Callable[[], None] = lambda: None) -> asyncio.Event:
    """Returns what the first SIGINT or SIGTERM sets; a second one ends the process at once, after ``before_end``."""
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            # All that was answered is durable: nothing is lost without a checkpoint.
            before_end()
            os._exit(128 + number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return stopping


def collect_seldom() -> None:
    """Look for garbage as seldom as suits a server, and never in what the imports made, which lives as long as it."""
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    gc.enable()


async def run_to_end(stopping: asyncio.Event, server: Server, on_failure: str) -> int:
    """Serves until a signal comes, then drains, or a failure, logged as ``on_failure``; returns the exit code."""
    collect_seldom()
    failure = await _wait_for_end(stopping, server)
    if failure is not None:
        _log.error(on_failure, reason=str(failure), exc_info=failure)
        return 1
    print("Stopping server...", flush=True)
    try:
        await asyncio.wait_for(server.drain(), DRAIN_TIMEOUT_S)
    except TimeoutError:
        _log.warning("calls were cut off that did not end in time", timeout_s=DRAIN_TIMEOUT_S)
    return 0


async def _wait_for_end(stopping: asyncio.Event, server: Server) -> BaseException | None:
    """Waits for the signal or the engine's failure, and returns the latter."""
    signalled = asyncio.create_task(stopping.wait())
    failed = asyncio.create_task(server.failed())
    await asyncio.wait((signalled, failed), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    failed.cancel()
    return failed.result() if failed.done() and not failed.cancelled() else None
