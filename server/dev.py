"""``odradek dev``: the whole engine in one process over one SQLite file, from start to exit."""

import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

import structlog
import uvloop

from gateway.metrics import Registry
from gateway.metrics_endpoint import MetricsEndpoint
from server.errors import StartupError
from server.ports import address, check_port
from server.settings import DevSettings
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


Start = Callable[[DevSettings, Path, Limits, Registry], Awaitable[Server]]
"""Starts a server over the file. Raises :class:`StartupError`."""


def run(settings: DevSettings, start: Start) -> int:
    """Runs a server until it is told to stop; returns the exit code. Raises :class:`StartupError`."""
    try:
        limits, warnings = limits_from_dynamic_config(settings.dynamic_config)
    except ValueError as error:
        raise StartupError(str(error)) from None
    for warning in warnings:
        _log.warning(warning)
    with tempfile.TemporaryDirectory(prefix="odradek-") as directory:
        path = settings.db_filename or Path(directory) / "odradek.db"
        return uvloop.run(_run(settings, path, limits, start))


async def _run(settings: DevSettings, path: Path, limits: Limits, start: Start) -> int:
    stopping = stop_signal()
    check_port("port", settings.ip, settings.port)
    registry = Registry()
    async with AsyncExitStack() as stack:
        endpoint = await _serve_metrics(settings, registry)
        stack.push_async_callback(endpoint.stop)
        server = await start(settings, path, limits, registry)
        stack.push_async_callback(server.stop)
        _print_banner(settings, path, server.port, endpoint.port)
        # What the imports made lives as long as the process: the collector need not look at it again.
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, 20, 100)
        gc.enable()
        failure = await wait_for_end(stopping, server)
        if failure is not None:
            _log.error("the engine stopped", reason=str(failure), exc_info=failure)
            return 1
        print("Stopping server...", flush=True)
        try:
            await asyncio.wait_for(server.drain(), DRAIN_TIMEOUT_S)
        except TimeoutError:
            _log.warning("calls were cut off that did not end in time", timeout_s=DRAIN_TIMEOUT_S)
    return 0


def stop_signal() -> asyncio.Event:
    """Returns what the first SIGINT or SIGTERM sets; a second one ends the process at once."""
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            # All that was answered is durable: nothing is lost without a checkpoint.
            os._exit(128 + number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return stopping


async def _serve_metrics(settings: DevSettings, registry: Registry) -> MetricsEndpoint:
    check_port("metrics port", settings.ip, settings.metrics_port)
    endpoint = MetricsEndpoint(registry)
    await endpoint.start(settings.ip, settings.metrics_port)
    return endpoint


async def wait_for_end(stopping: asyncio.Event, server: Server) -> BaseException | None:
    """Waits for the signal or the engine's failure, and returns the latter."""
    signalled = asyncio.create_task(stopping.wait())
    failed = asyncio.create_task(server.failed())
    await asyncio.wait((signalled, failed), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    failed.cancel()
    return failed.result() if failed.done() and not failed.cancelled() else None


def _print_banner(settings: DevSettings, path: Path, port: int, metrics_port: int) -> None:
    database = str(path) if settings.db_filename else f"{path} (temporary)"
    print(f"Odradek {metadata.version('odradek-server')}\n")
    print(f"{'Server:':<10}{address(settings.ip, port)}")
    print(f"{'Metrics:':<10}http://{address(settings.ip, metrics_port)}/metrics")
    print(f"{'Database:':<10}{database}")
    sys.stdout.flush()
