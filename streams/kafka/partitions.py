"""How many partitions topics have, and where keys belong."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from streams import topology


class Partitions:
    """The partitions of every topic, by its name without prefix."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def count(self, topic: str) -> int:
        """How many partitions a topic has."""
        return self._counts[topic]

    def of(self, topic: str, key: str) -> int:
        """The partition of a topic that a key belongs to."""
        return _of(key, self._counts[topic])


@functools.lru_cache(maxsize=65_536)
def _of(key: str, count: int) -> int:
    """Keys come again and again, and hashing one costs as much as encoding its record."""
    return topology.partition_of(key, count)
