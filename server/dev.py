"""``odradek dev``: the whole engine in one process over one SQLite file, from start to exit."""

import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path

import uvloop

from gateway.metrics import Registry
from gateway.metrics_endpoint import MetricsEndpoint
from server.ports import address, check_port
from server.process import Server, limits_of, run_to_end, stop_signal, yielding_threads
from server.settings import DevSettings
from streams.limits import Limits

Start = Callable[[DevSettings, Path, Limits, Registry], Awaitable[Server]]
"""Starts a server over the file. Raises :class:`StartupError`."""


def run(settings: DevSettings, start: Start) -> int:
    """Runs a server until it is told to stop; returns the exit code. Raises :class:`StartupError`."""
    limits = limits_of(settings.dynamic_config)
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
        with yielding_threads():
            server = await start(settings, path, limits, registry)
        stack.push_async_callback(server.stop)
        _print_banner(settings, path, server.port, endpoint.port)
        return await run_to_end(stopping, server, "the engine stopped")


async def _serve_metrics(settings: DevSettings, registry: Registry) -> MetricsEndpoint:
    check_port("metrics port", settings.ip, settings.metrics_port)
    endpoint = MetricsEndpoint(registry)
    await endpoint.start(settings.ip, settings.metrics_port)
    return endpoint


def _print_banner(settings: DevSettings, path: Path, port: int, metrics_port: int) -> None:
    database = str(path) if settings.db_filename else f"{path} (temporary)"
    print(f"Odradek {metadata.version('odradek-server')}\n")
    print(f"{'Server:':<10}{address(settings.ip, port)}")
    print(f"{'Metrics:':<10}http://{address(settings.ip, metrics_port)}/metrics")
    print(f"{'Database:':<10}{database}")
    sys.stdout.flush()
