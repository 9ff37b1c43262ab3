"""What reads the topics that no processor folds and keeps them for readers: recent events, store rows, the registry.

In the embedded engine a sink takes each record at once and hands its rows to the transaction of the next checkpoint.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from temporalio.api.common.v1 import SearchAttributes as SearchAttributesMessage

from streams import avro, bodies
from streams.runtime.tables import StorageError
from streams.stores.history import EventBatch, HistoryStore
from streams.stores.run_key import RunKey
from streams.stores.search_attributes import SearchValue
from streams.stores.search_payloads import decode_search_values
from streams.stores.visibility import VisibilityRow, VisibilityStore

Write = Callable[[sqlite3.Connection], None]

RECENT_RUN_BYTES = 1024 * 1024
"""Events of one run kept in memory once they are in the store."""

RECENT_TOTAL_BYTES = 8 * 1024 * 1024
"""Events of all runs kept in memory once they are in the store."""


class Sink(Protocol):
    """Takes the records of a topic and gives their rows to checkpoints."""

    def accept(self, body: Any) -> None:
        """Take a record, in order."""

    def freeze(self) -> Write | None:
        """What writes everything accepted so far, or None."""

    def written(self) -> None:
        """What the last freeze gave is committed."""


class _Recent:
    """Events of one run from `first_id` on, in memory."""

    __slots__ = ("events", "first_id", "size_bytes", "stored_id")

    def __init__(self, first_id: int) -> None:
        self.first_id = first_id
        self.events: list[bytes] = []
        self.size_bytes = 0
        self.stored_id = 0

    @property
    def last_id(self) -> int:
        return self.first_id + len(self.events) - 1


class HistorySink:
    """Events on their way to the history store; those not there yet, and recent ones, are read from memory."""

    def __init__(self, store: HistoryStore[sqlite3.Connection]) -> None:
        self._store = store
        self._pending: list[Any] = []
        self._writing: list[Any] = []
        self._recent: dict[str, _Recent] = {}
        self._recent_bytes = 0
        self._held: dict[str, tuple[int, tuple[bytes, ...]]] = {}

    def hold(self, run_id: str, first_event_id: int, events: tuple[bytes, ...]) -> None:
        """Know the last events of a run, which came beside an answer, until the record that tells of them comes."""
        self._held[run_id] = (first_event_id, events)

    def accept(self, body: Any) -> None:
        """Take a HistoryBatch or RunDeleted."""
        self._pending.append(body)
        self._held.pop(body.run_id, None)
        if isinstance(body, bodies.RunDeleted):
            self._forget(body.run_id)
            return
        recent = self._recent.pop(body.run_id, None)
        if recent is None or recent.last_id + 1 != body.first_event_id:
            if recent is not None:
                self._recent_bytes -= recent.size_bytes
            recent = _Recent(body.first_event_id)
        self._recent[body.run_id] = recent
        recent.events.extend(body.events)
        size = sum(map(len, body.events))
        recent.size_bytes += size
        self._recent_bytes += size

    def _forget(self, run_id: str) -> None:
        recent = self._recent.pop(run_id, None)
        if recent is not None:
            self._recent_bytes -= recent.size_bytes

    def freeze(self) -> Write | None:
        """See Sink."""
        if not self._pending:
            return None
        self._writing, self._pending = self._pending, []
        taken = self._writing

        def write(tx: sqlite3.Connection) -> None:
            for deletions, group in grouped(taken):
                if deletions:
                    self._store.delete_runs(tx, list(map(run_key, group)))
                else:
                    self._store.write(tx, list(map(event_batch, group)))

        return write

    def written(self) -> None:
        """See Sink. Events in the store may leave memory: the oldest of long runs, and runs longest untouched."""
        for body in self._writing:
            recent = self._recent.get(body.run_id)
            if recent is not None and isinstance(body, bodies.HistoryBatch):
                recent.stored_id = max(recent.stored_id, body.last_event_id)
                self._trim(recent)
        self._writing = []
        if self._recent_bytes > RECENT_TOTAL_BYTES:
            for run_id in list(self._recent):
                if self._recent[run_id].stored_id >= self._recent[run_id].last_id:
                    self._forget(run_id)
                if self._recent_bytes <= RECENT_TOTAL_BYTES:
                    break

    def _trim(self, recent: _Recent) -> None:
        dropped = 0
        while recent.size_bytes > RECENT_RUN_BYTES and recent.first_id + dropped <= recent.stored_id:
            size = len(recent.events[dropped])
            recent.size_bytes -= size
            self._recent_bytes -= size
            dropped += 1
        if dropped:
            del recent.events[:dropped]
            recent.first_id += dropped

    def recent(self, run_id: str, first_id: int, last_id: int) -> tuple[int, list[bytes]]:
        """The events in memory at the end of `first_id`..`last_id`: the id of the first and the events."""
        held_id, held = self._held.get(run_id, (last_id + 1, ()))
        start, events = self._written(run_id, first_id, min(last_id, held_id - 1))
        if held_id > last_id:
            return start, events
        if not events:
            start = max(first_id, held_id)
        return start, [*events, *held[max(0, first_id - held_id) : last_id - held_id + 1]]

    def _written(self, run_id: str, first_id: int, last_id: int) -> tuple[int, list[bytes]]:
        recent = self._recent.get(run_id)
        if recent is None or recent.first_id > last_id:
            return last_id + 1, []
        start = max(first_id, recent.first_id)
        return start, recent.events[start - recent.first_id : last_id - recent.first_id + 1]

    async def read(self, run_id: str, first_id: int, last_id: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """Events `first_id`..`last_id` of a run, contiguous, at least one if any, else up to `max_bytes`."""
        start, events = self.recent(run_id, first_id, last_id)
        found: list[tuple[int, bytes]] = []
        if start > first_id:
            found = await self._store.read(run_id, first_id, start - 1, max_bytes)
            if not found and first_id <= last_id:
                # One event alone may be over the limit: a page is never empty while there are events.
                found = await self._store.read(run_id, first_id, first_id, 1 << 30)
            if len(found) < start - first_id:
                return found
        size = sum(len(event) for _, event in found)
        for event_id, event in enumerate(events, start):
            size += len(event)
            if size > max_bytes and found:
                break
            found.append((event_id, event))
        return found


class VisibilitySink:
    """Rows on their way to the visibility store."""

    def __init__(
        self, store: VisibilityStore[sqlite3.Connection], types: Callable[[str], Mapping[str, int]]
    ) -> None:
        self._store = store
        self._types = types
        self._pending: list[Any] = []

    def accept(self, body: Any) -> None:
        """Take a RunVisible or RunDeleted."""
        self._pending.append(body)

    def freeze(self) -> Write | None:
        """See Sink."""
        if not self._pending:
            return None
        taken, self._pending = self._pending, []
        prepared = [(deletions, list(self._prepare(deletions, group))) for deletions, group in grouped(taken)]

        def write(tx: sqlite3.Connection) -> None:
            for deletions, rows in prepared:
                if deletions:
                    self._store.delete(tx, rows)
                else:
                    self._store.write(tx, rows)

        return write

    def _prepare(self, deletions: bool, group: list[Any]) -> Iterable[Any]:
        if deletions:
            return map(run_key, group)
        newest = {b.run_id: b for b in group}
        return (visibility_row(b, self._types(b.namespace)) for b in newest.values())

    def written(self) -> None:
        """See Sink."""


def event_batch(body: bodies.HistoryBatch) -> EventBatch:
    """The store's batch of what the log says became part of a history."""
    return EventBatch(
        body.namespace,
        body.workflow_id,
        body.run_id,
        body.first_event_id,
        body.last_event_id,
        body.events,
        body.time_ms,
    )


def visibility_row(
    body: bodies.RunVisible, types: Mapping[str, int], *, trust_marks: bool = False
) -> VisibilityRow:
    """The store's row of what the log says of a run; `types` are the namespace's custom attributes.

    `trust_marks` as of `decode_search_values`.
    """
    values: Mapping[str, SearchValue] = {}
    if body.search_attributes:
        message = SearchAttributesMessage.FromString(body.search_attributes)
        values = decode_search_values(message, types, trust_marks=trust_marks)
    closed = body.close_time_ns != 0
    return VisibilityRow(
        namespace_id=body.namespace,
        workflow_id=body.workflow_id,
        run_id=body.run_id,
        workflow_type=body.workflow_type,
        status=body.status,
        start_time_ns=body.start_time_ns,
        execution_time_ns=body.execution_time_ns,
        close_time_ns=body.close_time_ns if closed else None,
        task_queue=body.task_queue,
        history_length=body.history_length if closed else None,
        history_size_bytes=body.history_size_bytes if closed else None,
        execution_duration_ns=max(body.close_time_ns - body.execution_time_ns, 0) if closed else None,
        state_transition_count=body.state_transition_count if closed else None,
        parent_workflow_id=body.parent_workflow_id or None,
        parent_run_id=body.parent_run_id or None,
        root_workflow_id=body.root_workflow_id,
        root_run_id=body.root_run_id,
        memo=body.memo,
        search_attributes=values,
        version=body.version,
    )


class RegistrySink:
    """The namespaces: as folded, and `namespaces` as gateways see them, which waits for the commit.

    `types_of` gives a namespace's custom search attributes, as folded.
    """

    def __init__(self, stored: Iterable[bytes]) -> None:
        try:
            configs = [avro.decode(bodies.NamespaceConfig, data) for data in stored]
        except avro.DecodeError as error:
            raise StorageError(f"a namespace's configuration is damaged: {error}") from error
        self.namespaces: dict[str, bodies.NamespaceConfig] = {config.name: config for config in configs}
        self._folded = dict(self.namespaces)
        self._pending: dict[str, bodies.NamespaceConfig | None] = {}
        self._uncommitted: dict[str, bodies.NamespaceConfig | None] = {}

    def accept(self, body: Any) -> None:
        """Take a NamespaceChanged or NamespaceRemoved."""
        if isinstance(body, bodies.NamespaceChanged):
            self._folded[body.config.name] = body.config
            self._pending[body.config.name] = self._uncommitted[body.config.name] = body.config
        else:
            self._folded.pop(body.name, None)
            self._pending[body.name] = self._uncommitted[body.name] = None

    def take_uncommitted(self) -> dict[str, bodies.NamespaceConfig | None]:
        """What changed since this was last called, None standing for removed."""
        taken, self._uncommitted = self._uncommitted, {}
        return taken

    def show(self, changes: Mapping[str, bodies.NamespaceConfig | None]) -> None:
        """Let gateways see changes, which are durable by now."""
        for name, config in changes.items():
            if config is None:
                self.namespaces.pop(name, None)
            else:
                self.namespaces[name] = config

    def types_of(self, namespace: str) -> Mapping[str, int]:
        """Custom search attributes of a namespace, by name."""
        config = self._folded.get(namespace)
        return {} if config is None else {pair.key: pair.value for pair in config.attributes}

    def freeze(self) -> Write | None:
        """See Sink."""
        if not self._pending:
            return None
        taken, self._pending = self._pending, {}

        def write(tx: sqlite3.Connection) -> None:
            for name, config in taken.items():
                if config is None:
                    tx.execute("DELETE FROM registry WHERE name = ?", (name,))
                else:
                    tx.execute("INSERT OR REPLACE INTO registry VALUES (?, ?)", (name, avro.encode(config)))

        return write

    def written(self) -> None:
        """See Sink."""


class DeadLetterSink:
    """Records that changed nothing, kept with their reason."""

    def __init__(self) -> None:
        self._pending: list[Any] = []

    def accept(self, body: Any) -> None:
        """Take a DeadLetter."""
        self._pending.append(body)

    def freeze(self) -> Write | None:
        """See Sink."""
        if not self._pending:
            return None
        taken, self._pending = self._pending, []

        def write(tx: sqlite3.Connection) -> None:
            for letter in taken:
                tx.execute(
                    "INSERT OR REPLACE INTO dead_letters VALUES (?, ?)", (letter.offset, avro.encode(letter))
                )

        return write

    def written(self) -> None:
        """See Sink."""


def grouped(items: Iterable[Any]) -> Iterator[tuple[bool, list[Any]]]:
    """Bodies that follow one another and are deletions, or are not, in order."""
    for deletions, group in itertools.groupby(items, lambda body: isinstance(body, bodies.RunDeleted)):
        yield deletions, list(group)


def run_key(body: bodies.RunDeleted) -> RunKey:
    """The stores' name of the run that a deletion is of."""
    return RunKey(body.namespace, body.workflow_id, body.run_id)
