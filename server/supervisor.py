"""Several processes of a member under one: each is started, started again when it dies, and told to drain."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

import structlog

from server.errors import StartupError
from server.ports import check_port
from server.process import stop_signal

CANNOT_START: Final = 78
"""Exit code of a process that cannot start as it is configured: starting it again does not help."""

BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SETTLED_S: Final = 60.0
"""A process that lived so long is started again at once."""
DRAIN_TIMEOUT_S: Final = 60.0

_log = structlog.get_logger(__name__)


def supervise(arguments: Sequence[str], processes: int) -> int:
    """Runs ``processes`` children of ``odradek`` with ``arguments`` and ``--process I``; returns the exit code."""
    return asyncio.run(_Supervisor(arguments).run(processes))


class _Supervisor:
    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._children: dict[int, asyncio.subprocess.Process] = {}

    async def run(self, processes: int) -> int:
        self._stopping = stop_signal(self._kill)
        keepers = [asyncio.create_task(self._keep(index)) for index in range(processes)]
        await self._stopping.wait()
        self._tell(signal.SIGTERM)
        _, late = await asyncio.wait(keepers, timeout=DRAIN_TIMEOUT_S)
        if late:
            _log.error("processes are killed that did not stop in time", timeout_s=DRAIN_TIMEOUT_S)
            self._kill()
            await asyncio.wait(late)
        codes = [keeper.result() for keeper in keepers]
        return next((code for code in codes if code), 0)

    def _kill(self) -> None:
        self._tell(signal.SIGKILL)

    def _tell(self, number: int) -> None:
        for child in self._children.values():
            _signal(child, number)

    async def _keep(self, index: int) -> int:
        """Keep one process running until all are to stop; returns the exit code of the last one."""
        failures = 0
        while True:
            began_s = time.monotonic()
            code = await self._run_one(index)
            if code == CANNOT_START:
                self._stopping.set()
            if self._stopping.is_set():
                return code
            failures = 0 if time.monotonic() - began_s > SETTLED_S else failures + 1
            delay_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)] if failures else 0.0
            _log.error("a process ended and is started again", process=index, exit_code=code, delay_s=delay_s)
            try:
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            except TimeoutError:
                continue
            return code

    async def _run_one(self, index: int) -> int:
        command = (sys.executable, "-m", "server.cli", *self._arguments, "--process", str(index))
        # A process group of its own: Ctrl-C reaches it through here, once.
        child = await asyncio.create_subprocess_exec(*command, start_new_session=True)
        self._children[index] = child
        if self._stopping.is_set():
            _signal(child, signal.SIGTERM)
        code = await child.wait()
        del self._children[index]
        return code


def _signal(child: asyncio.subprocess.Process, number: int) -> None:
    if child.returncode is None:
        os.kill(child.pid, number)


def check_shared_port(ip: str, port: int) -> None:
    """Raises :class:`StartupError` for a port that the processes cannot share."""
    if port == 0:
        raise StartupError("several processes need serve.port to be a port that they can share, not 0")
    check_port("port", ip, port)
