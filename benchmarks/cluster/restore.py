"""How fast an owner restores its partitions from their changelogs alone, with no local store to go on from."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster import bulk
from benchmarks.cluster.parts import Parts, Site
from benchmarks.cluster.scenarios import ClusterSizes
from benchmarks.cluster.servers import Choices
from server.process import collect_seldom
from streams.kafka.member import Member
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings

ROUNDS: Final = 3
_LIMIT_S: Final = 600.0
_POLL_S: Final = 0.01


async def measure(parts: Parts, port: int, sizes: ClusterSizes, choices: Choices) -> dict[str, Any]:
    """Restore `sizes.restore_workflows` open workflows a few times over, each time from nothing; the median counts."""
    site = Site("odradek_restore", parts)
    await asyncio.to_thread(site.make)
    try:
        await bulk.fill(site, port, choices, range(sizes.restore_workflows))
        kafka = bulk.loader_settings(site, choices)
        collect_seldom()  # as `odradek serve` does
        rounds = [
            await asyncio.to_thread(_restored_s, kafka, site.directory / f"cold-{n}") for n in range(ROUNDS)
        ]
        size_bytes = _changelog_bytes(parts, kafka)
    finally:
        await asyncio.to_thread(site.remove)
    seconds = sorted(rounds)[ROUNDS // 2]
    workflows = sizes.restore_workflows
    return {
        "workflows": workflows,
        "restored_per_s": workflows / seconds,
        "restored_gb_s": seconds / (size_bytes / 1e9),
        "restored_mb": size_bytes / 1e6,
        "bytes_per_workflow": size_bytes / workflows,
        "rounds_s": rounds,
        "version": "",
    }


def _restored_s(kafka: KafkaSettings, state: Path) -> float:
    """Seconds from the moment a member has its partitions until it owns them all; fencing is part of it."""
    settings = kafka.model_copy(update={"state_directory": state})
    count = settings.partitions
    member = Member("history", settings)
    member.start()
    try:
        deadline_s = time.monotonic() + _LIMIT_S
        _until(lambda: len(member.status.partitions) == count, deadline_s, member)
        began_s = time.monotonic()
        _until(lambda: len(member.owned) == count, deadline_s, member)
        return time.monotonic() - began_s
    finally:
        member.stop(release=False)


def _until(true: Any, deadline_s: float, member: Member) -> None:
    while not true():
        if not member.is_alive or time.monotonic() > deadline_s:
            raise RuntimeError(f"the member does not own its partitions: {member.status}")
        time.sleep(_POLL_S)


def _changelog_bytes(parts: Parts, kafka: KafkaSettings) -> int:
    """Bytes of the changelog's segments on the broker's disk."""
    topic = Names(kafka.prefix).changelog("history")
    folders = parts.kafka.brokers[0].process.directory.glob(f"data/{topic}-*")
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*.log"))
