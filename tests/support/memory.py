"""A store of checkpoints in memory: RowStore and DueStore."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from streams.runtime.due import DueRow
from streams.runtime.partition import Partition
from streams.runtime.tables import Row


class MemoryStore:
    """What the last committed checkpoints hold, of any number of partitions."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int, str], dict[tuple[str, str], bytes]] = {}
        self.dues: dict[str, dict[str, tuple[int, int]]] = {}

    def load(self, table: str, partition: int, key: str) -> list[tuple[str, str, bytes]]:
        """All (kind, id, value) rows of one entity."""
        rows = self.rows.get((table, partition, key), {})
        return [(kind, id, value) for (kind, id), value in sorted(rows.items())]

    def keys(self, table: str, partition: int, prefix: str) -> list[str]:
        """Keys of entities that start with `prefix`, in order."""
        return sorted(
            key
            for name, number, key in self.rows
            if (name, number) == (table, partition) and key.startswith(prefix)
        )

    def load_due(self, partition_name: str, after_ms: int, until_ms: int) -> list[tuple[str, int, int]]:
        """Stored (key, due_ms, payload) with after_ms < due_ms <= until_ms."""
        dues = self.dues.get(partition_name, {})
        return sorted(
            (key, due, payload) for key, (due, payload) in dues.items() if after_ms < due <= until_ms
        )

    def due_row(self, partition_name: str, key: str) -> tuple[int, int] | None:
        """The stored (due_ms, payload) of one key."""
        return self.dues.get(partition_name, {}).get(key)

    def commit(
        self, partition_number: int, rows: Iterable[Row], partition_name: str, dues: Iterable[DueRow]
    ) -> None:
        """Write the rows of one checkpoint."""
        for table, key, kind, id, value in rows:
            place = (table, partition_number, key)
            if value is not None:
                self.rows.setdefault(place, {})[kind, id] = value
            else:
                del self.rows[place][kind, id]
                if not self.rows[place]:
                    del self.rows[place]
        stored = self.dues.setdefault(partition_name, {})
        for key, due_ms, payload in dues:
            if due_ms is None:
                stored.pop(key, None)
            else:
                stored[key] = (due_ms, payload)

    def checkpoint(self, partition: Partition) -> None:
        """Freeze a partition and commit what changed."""
        assert partition.parked_count == 0
        rows = [row for name in sorted(partition.tables) for row in partition.tables[name].freeze()]
        self.commit(partition.number, rows, partition.name, partition.due.freeze())
        for table in partition.tables.values():
            table.written()
        partition.due.written()

    def copy(self) -> MemoryStore:
        """An independent store with the same content."""
        return copy.deepcopy(self)
