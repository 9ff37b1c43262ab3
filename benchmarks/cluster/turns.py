"""Servers and their drivers that take turns on the machine: one pair runs, the others are stopped.

The speed of a machine that is shared swings by half within minutes, and windows of a minute each compare the moments
more than the servers. Turns of less than a second see the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import load, proc
from benchmarks.cluster.servers import ClusterServer

TURN_S = 0.7
"""Less than the second after which an SDK takes a workflow that does not get on for a deadlock."""


async def run(
    servers: Sequence[ClusterServer], scenario: str, arguments: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Run the scenario on all the servers by turns, with arguments for each; returns what `load.run` does for each.

    Each has its share of the machine as if it had it alone, for as long as the arguments say: its clock and its
    driver's stand still while another runs. The first error ends all. Raises LoadError.
    """
    with contextlib.ExitStack() as stack:
        turns = [stack.enter_context(_turn(server)) for server in servers]
        if len(turns) == 1:
            return [await turns[0].load(scenario, *arguments[0])]
        for turn in turns[1:]:
            turn.pause()
        loads = [
            asyncio.create_task(turn.load(scenario, *own)) for turn, own in zip(turns, arguments, strict=True)
        ]
        try:
            while not all(task.done() for task in loads):
                for turn, task in zip(turns, loads, strict=True):
                    if not task.done():
                        turn.resume()
                        await asyncio.wait([task], timeout=TURN_S)
                        turn.pause()
                    if task.done():
                        task.result()
        finally:
            for task in loads:
                task.cancel()
            await asyncio.gather(*loads, return_exceptions=True)
        return [task.result() for task in loads]


@contextlib.contextmanager
def _turn(server: ClusterServer) -> Iterator[_Turn]:
    with tempfile.TemporaryDirectory() as directory:
        stops = Path(directory, "stops")
        stops.write_bytes(bytes(8))
        with stops.open("r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
            turn = _Turn(server, stops, shared)
            try:
                yield turn
            finally:
                turn.resume()


class _Turn:
    """A server as it is measured in its own turns alone: `load.Measured`."""

    def __init__(self, server: ClusterServer, stops: Path, shared: mmap.mmap) -> None:
        self.name = server.name
        self.address = server.address
        self.log = server.log
        self._server = server
        self._stops = stops
        self._shared = shared
        self._driver: int | None = None
        self._paused: proc.Usage | None = None
        self._pauses: list[tuple[proc.Usage, proc.Usage]] = []

    async def load(self, scenario: str, *arguments: str) -> dict[str, Any]:
        """Run the driver, which has this turn's clock."""
        try:
            return await load.run(
                self, scenario, *arguments, "-stops", str(self._stops), began=self._have_driver
            )
        finally:
            self._driver = None

    def usage(self) -> proc.Usage:
        """What the server and its parts used in its turns."""
        reading = self._paused or self._server.usage()
        for before, after in self._pauses:
            reading = proc.without(reading, before, after)
        return reading

    def pause(self) -> None:
        """Stop the server and its driver."""
        if self._paused is None:
            self._signal(signal.SIGSTOP)
            self._paused = self._server.usage()

    def resume(self) -> None:
        """Let them go on."""
        if self._paused is not None:
            self._pauses.append((self._paused, self._server.usage()))
            self._paused = None
            stopped_s = sum(after.at_s - before.at_s for before, after in self._pauses)
            self._shared[:] = struct.pack("=q", int(stopped_s * 1e9))
            self._signal(signal.SIGCONT)

    def _have_driver(self, pid: int) -> None:
        self._driver = pid
        if self._paused is not None:
            os.kill(pid, signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._server.processes:
            if process.returncode is None:
                process.send_signal(number)
        if self._driver is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._driver, number)
