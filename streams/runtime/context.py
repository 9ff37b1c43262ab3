"""What a processor may touch while it folds one record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streams.runtime.due import DueIndex
from streams.runtime.records import Correlation, Record, Reply
from streams.runtime.tables import Table, TableSpec


class Context:
    """One step of one partition: its record, the time, the tables, and what the step emits.

    `now_ms` is the partition's time: the highest append time it has folded (fold.md rule 2). `logic_version` is the
    version in force: code that folds otherwise than former releases did asks for it (rule 9).
    """

    __slots__ = (
        "_due",
        "_due_changes",
        "_tables",
        "emissions",
        "logic_version",
        "now_ms",
        "offset",
        "partition",
        "record",
        "replies",
        "warnings",
    )

    def __init__(self, partition: int, tables: dict[str, Table], due: DueIndex) -> None:
        self.partition = partition
        self._tables = tables
        self._due = due
        self.now_ms = 0
        self.logic_version = 0
        self.offset = -1
        self.record: Record | None = None
        self.emissions: list[tuple[str, str, int | None, Any, Correlation | None]] = []
        self.replies: list[tuple[Correlation, Reply]] = []
        self.warnings: list[str] = []
        self._due_changes: dict[str, tuple[int, int] | None] = {}

    def begin(self, record: Record, now_ms: int) -> None:
        """Start a step."""
        self.record = record
        self.offset = record.offset
        self.now_ms = now_ms
        self.emissions = []
        self.replies = []
        self.warnings = []
        self._due_changes = {}

    def table(self, name: str) -> Table:
        """A table of this partition."""
        return self._tables[name]

    def emit(self, topic: str, key: str, body: Any, correlation: Correlation | None = None) -> None:
        """Append `body` to `topic` at the partition of `key`."""
        self.emissions.append((topic, key, None, body, correlation))

    def broadcast(self, topic: str, key: str, body: Any) -> None:
        """Append `body` to every partition of `topic`."""
        self.emissions.append((topic, key, -1, body, None))

    def reply(self, correlation: Correlation | None, reply: Reply) -> None:
        """Answer a gateway's call; nothing happens when nobody waits (no correlation)."""
        if correlation is not None:
            self.replies.append((correlation, reply))

    def warn(self, sentence: str) -> None:
        """Have the owner log a sentence for its operator: nothing else depends on it, nor is it in any log."""
        self.warnings.append(sentence)

    def wake(self, key: str, due_ms: int, payload: int = 0) -> None:
        """Have the processor's `due` called for `key` at the first tick at or after `due_ms`."""
        self._due_changes[key] = (due_ms, payload)

    def unwake(self, key: str) -> None:
        """Take back what `wake` asked for."""
        self._due_changes[key] = None

    def due_at(self, key: str) -> tuple[int, int] | None:
        """(due_ms, payload) that `key` is waiting for, or None."""
        if key in self._due_changes:
            return self._due_changes[key]
        return self._due.get(key)

    def keep(self) -> None:
        """End a step that succeeded."""
        for key, entry in self._due_changes.items():
            if entry is None:
                self._due.cancel(key)
            else:
                self._due.set(key, *entry)
        for table in self._tables.values():
            table.keep()

    def revert(self) -> None:
        """End a step that failed: no change, no emission."""
        self.emissions = []
        self.replies = []
        self.warnings = []
        self._due_changes = {}
        for table in self._tables.values():
            table.revert()


class Processor(Protocol):
    """The pure code of a partition: no clock, no random, no I/O (design rule 1)."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def input_topic(self) -> str:
        """The topic it folds."""

    @property
    def tables(self) -> Sequence[TableSpec]:
        """Its tables."""

    def fold(self, context: Context, record: Record) -> None:
        """Apply one record."""

    def due(self, context: Context, key: str, payload: int) -> None:
        """Apply the falling due of `key`."""

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """Note on what the record was for that it could not be applied (fold.md rule 7)."""


Partitioner = Callable[[str, str], int]
"""The partition of a topic that a key belongs to."""
