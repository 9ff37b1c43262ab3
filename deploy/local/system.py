"""The processes of this machine: from /proc where there is one, else from `ps`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_ENDED = (b"Z", b"X")
# Of /proc/PID/stat, counted from the state: proc(5).
_STATE, _PARENT, _THREADS = 0, 1, 17


class SystemProcess(NamedTuple):
    """A process that has not ended; `arguments` is its command line."""

    pid: int
    parent: int
    arguments: str


def processes() -> Iterator[SystemProcess]:
    """Every process there is now."""
    if not Path(_PROC, "self/stat").exists():
        yield from _from_ps("-A")
        return
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            found = _from_proc(int(entry.name))
            if found is not None:
                yield found


def command_line(pid: int) -> str:
    """The arguments of a process, empty when there is none or it has ended and only waits to be collected."""
    if Path(_PROC, "self/stat").exists():
        found = _from_proc(pid)
    else:
        found = next(_from_ps("-p", str(pid)), None)
    return "" if found is None else found.arguments


def has_ended(pid: int) -> bool:
    """Whether a process is gone with all it held.

    On Linux its first thread, and with it the command line, goes before the last one, which frees memory and only then
    closes files: its ports stay taken for tens of milliseconds after.
    """
    if not Path(_PROC, "self/stat").exists():
        return not command_line(pid)
    stat = _stat(pid)
    return stat is None or (stat[_STATE] in _ENDED and int(stat[_THREADS]) <= 1)


def _from_proc(pid: int) -> SystemProcess | None:
    try:
        arguments = Path(_PROC, str(pid), "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    stat = _stat(pid)
    if stat is None or stat[_STATE] in _ENDED:
        return None
    return SystemProcess(pid, int(stat[_PARENT]), arguments.decode(errors="replace"))


def _stat(pid: int) -> list[bytes] | None:
    """What stands in /proc/PID/stat after the name of the program, which is in brackets and may hold anything."""
    try:
        return Path(_PROC, str(pid), "stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _from_ps(*which: str) -> Iterator[SystemProcess]:
    command = ["ps", "-ww", "-o", "pid=,ppid=,stat=,args=", *which]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in listing.stdout.splitlines():
        pid, parent, state, arguments = line.split(maxsplit=3)
        if not state.startswith("Z"):
            yield SystemProcess(int(pid), int(parent), arguments)
