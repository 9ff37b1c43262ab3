"""What a process tree and the machine used, read from /proc."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True)
class Usage:
    """A moment's reading: CPU seconds since the start of each, resident memory now.

    `parts_cpu_s` and `parts_rss_mib` divide the same among the parts of a cluster, by name.
    """

    at_s: float
    tree_cpu_s: float
    tree_rss_mib: float
    machine_cpu_s: float
    parts_cpu_s: Mapping[str, float] = field(default_factory=dict)
    parts_rss_mib: Mapping[str, float] = field(default_factory=dict)


def without(reading: Usage, before: Usage, after: Usage) -> Usage:
    """The reading less the time and the CPU that passed from one moment to another, as if those were one."""
    return dataclasses.replace(
        reading,
        at_s=reading.at_s - (after.at_s - before.at_s),
        tree_cpu_s=reading.tree_cpu_s - (after.tree_cpu_s - before.tree_cpu_s),
        machine_cpu_s=reading.machine_cpu_s - (after.machine_cpu_s - before.machine_cpu_s),
        parts_cpu_s={
            name: cpu_s - (after.parts_cpu_s[name] - before.parts_cpu_s[name])
            for name, cpu_s in reading.parts_cpu_s.items()
        },
    )


def usage(pid: int) -> Usage:
    """Read the tree under `pid`: user and system time of the living and of the children already reaped.

    Raises ProcessLookupError when `pid` is gone.
    """
    cpu_s, rss_mib = _of_tree(pid, _all_stats())
    return Usage(time.monotonic(), cpu_s, rss_mib, _machine_cpu_s())


def usage_of(parts: Mapping[str, Sequence[int]]) -> Usage:
    """The same for the trees under the pids of each part. Raises ProcessLookupError when one is gone."""
    stats = _all_stats()
    read = {name: [_of_tree(pid, stats) for pid in pids] for name, pids in parts.items()}
    cpu_s = {name: sum(cpu for cpu, _ in trees) for name, trees in read.items()}
    rss_mib = {name: sum(rss for _, rss in trees) for name, trees in read.items()}
    return Usage(
        time.monotonic(), sum(cpu_s.values()), sum(rss_mib.values()), _machine_cpu_s(), cpu_s, rss_mib
    )


def _of_tree(pid: int, stats: dict[int, list[str]]) -> tuple[float, float]:
    """CPU seconds and resident MiB of the tree under `pid`."""
    if pid not in stats:
        raise ProcessLookupError(pid)
    ticks = pages = 0
    for member in _tree(pid, stats):
        fields = stats[member]
        ticks += sum(int(fields[n]) for n in (11, 12, 13, 14))  # utime, stime, cutime, cstime
        pages += int(fields[21])  # rss
    return ticks / TICKS_PER_S, pages * PAGE_BYTES / 2**20


def _all_stats() -> dict[int, list[str]]:
    """The fields after the command name of each /proc/<pid>/stat; index 0 is the state, 1 the parent."""
    stats = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            stats[int(name)] = text.rpartition(")")[2].split()
    return stats


def _tree(root: int, stats: dict[int, list[str]]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    members = [root]
    for member in members:
        members += children.get(member, [])
    return members


def _machine_cpu_s() -> float:
    """CPU time of everything on the machine, idle and waiting for the disk left out."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, such as ext4."""
    best, kind = "", "unknown"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            mount_point = before.split()[4]
            if path.resolve().is_relative_to(mount_point) and len(mount_point) >= len(best):
                best, kind = mount_point, after.split()[0]
    return kind


def machine(data: Path) -> dict[str, object]:
    """What a figure depends on, for the result files."""
    model = "unknown"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES // 2**20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": file_system(data),
        "commit": _commit(),
    }


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
