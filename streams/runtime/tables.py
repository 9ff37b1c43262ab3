"""Tables of a partition: entities made of typed parts, with undo for a failed step and rows for a checkpoint.

An entity is everything a processor keeps under one key: parts, each an immutable struct under a (kind, id). Parts
are rows of their own in a checkpoint, so that no row grows with the number of things pending, and a checkpoint
writes only what changed. Entities are loaded whole when first touched and evicted once clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from streams import avro


class StorageError(Exception):
    """The store under a table failed: ends ownership, never blamed on a record (fold.md rule 7)."""


class RowStore(Protocol):
    """Where checkpoints keep rows; reads see the last committed checkpoint."""

    def load(self, table: str, partition: int, key: str) -> list[tuple[str, str, bytes]]:
        """All (kind, id, value) rows of one entity. Raises StorageError."""

    def keys(self, table: str, partition: int, prefix: str) -> list[str]:
        """Keys of entities that start with `prefix`, in order. Raises StorageError."""


Row = tuple[str, str, str, str, bytes | None]
"""A row of a checkpoint: table, key, kind, id, and the value or None for a deletion."""

_ABSENT: Any = object()
_EMPTY: Mapping[str, Any] = {}


class Entity:
    """The parts under one key. Changes apply at once and are undone when the step fails.

    `observer`, when set, is told of every change of a part, undone ones included, so that what is derived from
    parts (an index of deadlines) stays true: observer(kind, id, new value or None). `ended`, when set, is called at
    the end of every step that touched the entity.
    """

    __slots__ = ("dirty", "ended", "key", "observer", "parts", "stored", "undo", "view")

    def __init__(self, key: str) -> None:
        self.key = key
        self.parts: dict[str, dict[str, Any]] = {}
        self.undo: dict[tuple[str, str], Any] = {}
        self.dirty: set[tuple[str, str]] = set()
        self.stored: set[tuple[str, str]] = set()
        self.observer: Callable[[str, str, Any], None] | None = None
        self.view: Any = None
        self.ended: Callable[[], None] | None = None

    def get(self, kind: str, id: str = "") -> Any:
        """The part, or None."""
        group = self.parts.get(kind)
        return None if group is None else group.get(id)

    def put(self, kind: str, id: str, value: msgspec.Struct) -> None:
        """Set a part."""
        group = self.parts.get(kind)
        if group is None:
            group = self.parts[kind] = {}
        slot = (kind, id)
        if slot not in self.undo:
            self.undo[slot] = group.get(id, _ABSENT)
        group[id] = value
        if self.observer is not None:
            self.observer(kind, id, value)

    def drop(self, kind: str, id: str = "") -> None:
        """Remove a part; nothing happens when it is not there."""
        group = self.parts.get(kind)
        if group is None or id not in group:
            return
        slot = (kind, id)
        old = group.pop(id)
        if slot not in self.undo:
            self.undo[slot] = old
        if self.observer is not None:
            self.observer(kind, id, None)

    def group(self, kind: str) -> Mapping[str, Any]:
        """The parts of a kind by id, in no particular order: iterate `items` where order matters."""
        return self.parts.get(kind, _EMPTY)

    def items(self, kind: str) -> list[tuple[str, Any]]:
        """The parts of a kind in order of id. Ids that are numbers are written so that they sort as numbers."""
        return sorted(self.parts.get(kind, _EMPTY).items())

    def count(self, kind: str) -> int:
        """How many parts of a kind there are."""
        return len(self.parts.get(kind, _EMPTY))

    def clear(self) -> None:
        """Remove every part."""
        for kind in sorted(self.parts):
            for id in sorted(self.parts[kind]):
                self.drop(kind, id)

    @property
    def empty(self) -> bool:
        """Whether no part is left."""
        return not any(self.parts.values())

    def all_parts(self) -> Iterator[tuple[str, str, Any]]:
        """Every part in order of (kind, id)."""
        for kind in sorted(self.parts):
            for id in sorted(self.parts[kind]):
                yield kind, id, self.parts[kind][id]

    def forget(self) -> None:
        """Let go of what was derived: the cycle would keep an evicted entity in memory for long."""
        self.view = self.observer = self.ended = None

    def keep(self) -> bool:
        """End a step that succeeded; True when something changed."""
        if not self.undo:
            return False
        self.dirty.update(self.undo)
        self.undo.clear()
        return True

    def revert(self) -> None:
        """End a step that failed: every part is as it was before."""
        for (kind, id), old in reversed(self.undo.items()):
            group = self.parts.setdefault(kind, {})
            if old is _ABSENT:
                group.pop(id, None)
            else:
                group[id] = old
            if self.observer is not None:
                self.observer(kind, id, None if old is _ABSENT else old)
        self.undo.clear()


class TableSpec(msgspec.Struct, frozen=True):
    """A table: its name and the struct class of each kind of part."""

    name: str
    kinds: dict[str, type[msgspec.Struct]]


class Table:
    """One table of one partition.

    `cache_parts` bounds the parts kept in memory for entities that are clean; dirty ones and those of a
    checkpoint being written stay.
    """

    def __init__(self, spec: TableSpec, partition: int, store: RowStore, cache_parts: int = 20_000) -> None:
        self.spec = spec
        self.name = spec.name
        self._partition = partition
        self._store = store
        self._cache_parts = cache_parts
        self._cached: dict[str, Entity] = {}
        self._touched: dict[str, Entity] = {}
        self._dirty: dict[str, Entity] = {}
        self._writing: dict[str, Entity] = {}

    def entity(self, key: str) -> Entity:
        """The entity under `key`, empty when there is none. Raises StorageError."""
        entity = self._touched.get(key)
        if entity is None:
            entity = self._cached.pop(key, None) or self._load(key)
            self._cached[key] = entity
            self._touched[key] = entity
        return entity

    def peek(self, key: str) -> Entity:
        """Like `entity`, for looking only: a step may not change what it peeked at."""
        return self._touched.get(key) or self._cached.get(key) or self.entity(key)

    def _load(self, key: str) -> Entity:
        entity = Entity(key)
        for kind, id, value in self._store.load(self.name, self._partition, key):
            try:
                entity.parts.setdefault(kind, {})[id] = avro.decode(self.spec.kinds[kind], value)
            except (KeyError, avro.DecodeError) as error:
                raise StorageError(
                    f"the row {kind} {id!r} of {key!r} in {self.name} is damaged: {error}"
                ) from error
            entity.stored.add((kind, id))
        return entity

    def loaded(self) -> list[Entity]:
        """The entities in memory, for looking only."""
        return list(self._cached.values())

    def keys(self, prefix: str) -> list[str]:
        """Keys of non-empty entities that start with `prefix`, in order. Raises StorageError."""
        found = set(self._store.keys(self.name, self._partition, prefix))
        for pool in (self._writing, self._dirty, self._touched):
            for key, entity in pool.items():
                if key.startswith(prefix):
                    found.discard(key) if entity.empty else found.add(key)
        return sorted(found)

    def keep(self) -> None:
        """End a step that succeeded."""
        for key, entity in self._touched.items():
            if entity.keep():
                self._dirty[key] = entity
            if entity.ended is not None:
                entity.ended()
        self._touched.clear()

    def revert(self) -> None:
        """End a step that failed."""
        for entity in self._touched.values():
            entity.revert()
            if entity.ended is not None:
                entity.ended()
        self._touched.clear()

    @property
    def dirty_count(self) -> int:
        """Entities changed since the last freeze."""
        return len(self._dirty)

    def freeze(self) -> list[Row]:
        """The rows of everything that changed since the last freeze, encoded, in order of (key, kind, id).

        The entities stay in memory until `written` says that the rows are committed.
        """
        rows: list[Row] = []
        for key in sorted(self._dirty):
            entity = self._dirty[key]
            for kind, id in sorted(entity.dirty):
                value = entity.get(kind, id)
                if value is not None:
                    rows.append((self.name, key, kind, id, avro.encode(value)))
                    entity.stored.add((kind, id))
                elif (kind, id) in entity.stored:
                    rows.append((self.name, key, kind, id, None))
                    entity.stored.discard((kind, id))
            entity.dirty.clear()
        self._writing = self._dirty
        self._dirty = {}
        return rows

    def written(self) -> None:
        """The rows of the last freeze are committed: what is clean may leave memory."""
        self._writing = {}
        self._evict()

    def _evict(self) -> None:
        total = sum(len(entity.stored) + 1 for entity in self._cached.values())
        for key in list(self._cached):
            if total <= self._cache_parts:
                return
            entity = self._cached[key]
            if key not in self._dirty and key not in self._touched:
                total -= len(entity.stored) + 1
                del self._cached[key]
                entity.forget()
