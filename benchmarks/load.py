"""Build the load driver and run one scenario of it against one server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks import proc
from benchmarks.servers import WORK

SOURCE = Path(__file__).parent / "driver"
BINARY = WORK / "driver"


class Measured(Protocol):
    """A server under load."""

    @property
    def name(self) -> str:
        """Which one it is."""

    @property
    def address(self) -> str:
        """Where it listens, host:port."""

    @property
    def log(self) -> Path:
        """Where its output goes."""

    def usage(self) -> proc.Usage:
        """What it has used so far."""


class LoadError(RuntimeError):
    """The driver could not be built or run, or an operation failed: the run has no figures."""


def build() -> None:
    """Build the driver with the Go toolchain on PATH. Raises LoadError."""
    if shutil.which("go") is None:
        raise LoadError("Go is needed to build the load driver: install it, or put `go` on PATH")
    built = subprocess.run(
        ["go", "build", "-o", str(BINARY), "."], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise LoadError(f"go build failed:\n{built.stderr[-2000:]}")


async def run(
    server: Measured, scenario: str, *arguments: str, began: Callable[[int], None] = lambda pid: None
) -> dict[str, Any]:
    """Run the driver and add the server's side of the measured window to its result. `began` is told its pid.

    Adds `server_cpu_s`, `server_cpu_ms_per_operation`, `driver_cpu_ms_per_operation`, `rss_mib` (at the end
    of the window) and `other_cpu_share`: the part of the machine that neither server nor driver used, which
    says how far to trust the rest. A server of several parts also gets `parts_cpu_ms_per_operation`, which is
    all of them together, and `<part>_cpu_ms_per_operation` and `<part>_rss_mib` of each, "server" being its
    own processes. Raises LoadError when any operation failed.
    """
    command = [str(BINARY), "-json", "-address", server.address, "-scenario", scenario, *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        began(process.pid)
        marks, complaints, output = await _follow(process, server)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not output:
        raise LoadError(f"{scenario} on {server.name}: {'; '.join(complaints)}; see {server.log}")
    result: dict[str, Any] = json.loads(output)
    if process.returncode != 0 or result["error_count"]:
        failures = f"{result['error_count']} errors: {result['errors']}"
        raise LoadError(f"{scenario} on {server.name}: {failures}; see {server.log}")
    result.update(_server_side(marks["window-start"], marks["window-end"], result))
    return result


async def _follow(
    process: asyncio.subprocess.Process, server: Measured
) -> tuple[dict[str, proc.Usage], list[str], bytes]:
    """Read the driver to its end; read the server's usage at each mark, as it comes."""
    assert process.stdout is not None
    assert process.stderr is not None
    output = asyncio.create_task(process.stdout.read())
    marks: dict[str, proc.Usage] = {}
    complaints: list[str] = []
    while line := (await process.stderr.readline()).decode().strip():
        if line.startswith("mark "):
            marks[line.removeprefix("mark ")] = server.usage()
        else:
            complaints.append(line)
    await process.wait()
    return marks, complaints, await output


def _server_side(start: proc.Usage, end: proc.Usage, result: dict[str, Any]) -> dict[str, float]:
    operations = result["operations"]
    cpu_s = end.tree_cpu_s - start.tree_cpu_s
    others_s = end.machine_cpu_s - start.machine_cpu_s - cpu_s - result["driver_cpu_s"]
    figures = {
        "server_cpu_s": cpu_s,
        "server_cpu_ms_per_operation": cpu_s * 1000 / operations,
        "driver_cpu_ms_per_operation": result["driver_cpu_s"] * 1000 / operations,
        "rss_mib": end.tree_rss_mib,
        "other_cpu_share": max(0.0, others_s / (end.at_s - start.at_s) / (os.cpu_count() or 1)),
    }
    if end.parts_cpu_s:
        figures["parts_cpu_ms_per_operation"] = cpu_s * 1000 / operations
        for part, until_s in end.parts_cpu_s.items():
            part_s = until_s - start.parts_cpu_s[part]
            figures[f"{part}_cpu_ms_per_operation"] = part_s * 1000 / operations
            figures[f"{part}_rss_mib"] = end.parts_rss_mib[part]
        figures["server_cpu_s"] = end.parts_cpu_s["server"] - start.parts_cpu_s["server"]
    return figures
