"""``odradek serve``: one process of a cluster's member, from start to exit."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import AsyncExitStack
from importlib import metadata
from typing import Final

import structlog
import uvloop

from gateway.metrics import Registry
from gateway.metrics_endpoint import MetricsEndpoint
from server.member import MemberProcess
from server.ports import address, check_port
from server.process import limits_of, run_to_end, stop_signal, yielding_threads
from server.settings import Settings
from server.supervisor import CANNOT_START
from streams.limits import Limits

STOP_TIMEOUT_S: Final = 30.0
"""How long last checkpoints and leaving groups may take."""

_log = structlog.get_logger(__name__)


def run(settings: Settings, index: int) -> int:
    """Runs process ``index`` until it is told to stop; returns the exit code. Raises :class:`StartupError`."""
    return uvloop.run(_run(settings, index, limits_of(settings.serve.dynamic_config)))


async def _run(settings: Settings, index: int, limits: Limits) -> int:
    stopping = stop_signal()
    stuck = threading.Timer(STOP_TIMEOUT_S, _give_up)
    stuck.daemon = True
    serve = settings.serve
    if "gateway" in serve.roles and serve.processes == 1:
        check_port("port", serve.ip, serve.port)
    registry = Registry()
    async with AsyncExitStack() as stack:
        # Here the loop is one thread among several that fold: where it took the core from one of those, that one would
        # keep the interpreter's lock, and both would wait.
        stack.enter_context(yielding_threads())
        member = MemberProcess(settings, index, limits, registry)
        endpoint = await _serve_probes(settings, index, registry, member)
        stack.push_async_callback(endpoint.stop)
        stack.push_async_callback(member.stop)
        stack.callback(stuck.start)
        started = asyncio.create_task(member.start())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((started, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not started.done():
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)
            return 0
        await started
        _print_banner(settings, index, member.port, endpoint.port)
        code = await run_to_end(stopping, member, "the member cannot go on")
        return CANNOT_START if member.lacks_logic else code


def _give_up() -> None:
    """End a process whose cluster does not let it go: nothing is lost without a last checkpoint."""
    _log.error("the member was not let go in time and ends as it is", timeout_s=STOP_TIMEOUT_S)
    os._exit(1)


async def _serve_probes(
    settings: Settings, index: int, registry: Registry, member: MemberProcess
) -> MetricsEndpoint:
    ip, port = settings.serve.ip, settings.serve.metrics_port
    port = port + index if port else 0
    check_port("metrics port", ip, port)
    endpoint = MetricsEndpoint(registry, {"/ready": member.why_not_ready, "/live": member.why_stuck})
    await endpoint.start(ip, port)
    return endpoint


def _print_banner(settings: Settings, index: int, port: int, metrics_port: int) -> None:
    serve = settings.serve
    print(f"Odradek {metadata.version('odradek-server')}, process {index} of {serve.processes}\n")
    print(f"{'Roles:':<10}{', '.join(serve.roles)}")
    print(f"{'Kafka:':<10}{settings.kafka.brokers}")
    if port:
        print(f"{'Server:':<10}{address(serve.ip, port)}")
    print(f"{'Metrics:':<10}http://{address(serve.ip, metrics_port)}/metrics")
    sys.stdout.flush()
