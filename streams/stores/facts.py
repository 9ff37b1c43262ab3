"""What stores have to hold, by the facts that folds emitted, kept on disk to be laid beside the stores.

It says nothing of what the stores have yet to be given: compare once nothing is on its way.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rocksdict import Options, Rdict

from streams import avro
from streams.bodies import HistoryBatch, RunDeleted, RunVisible
from streams.stores.damage import StoreDamagedError
from streams.stores.event_blob import join_events, split_events
from streams.stores.history import HistoryReader
from streams.stores.materializers import visibility_row
from streams.stores.search_attributes import SearchAttributes
from streams.stores.visibility import VisibilityReader, VisibilityRow

_EVENTS, _DELETED, _VISIBLE, _END = b"e", b"d", b"v", b"\0"
_EVENT_ID: Final = struct.Struct(">q")
_PAGE_BYTES: Final = 4 * 1024 * 1024
_PAGE_ROWS: Final = 1_000

TypesOf = Callable[[str], Mapping[str, int]]
"""The custom search attributes of a namespace, by name."""


class StoredFacts:
    """Belongs to one thread."""

    def __init__(self, folder: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = Rdict(str(folder), options)

    def add(self, body: Any) -> None:
        """A fold emitted this; what is not for stores is passed over."""
        if isinstance(body, HistoryBatch):
            first = _EVENT_ID.pack(body.first_event_id)
            self._db[_EVENTS + body.run_id.encode() + _END + first] = join_events(body.events)
        elif isinstance(body, RunVisible):
            self._add_visible(body)
        elif isinstance(body, RunDeleted):
            self._db[_DELETED + body.run_id.encode()] = b""

    def _add_visible(self, body: RunVisible) -> None:
        key = _VISIBLE + body.run_id.encode()
        known = self._db.get(key)
        if known is None or avro.decode(RunVisible, known).version < body.version:
            self._db[key] = avro.encode(body)

    # Histories

    async def history_differences(self, store: HistoryReader, run_ids: Iterable[str]) -> list[str]:
        """What is wrong with the histories in a store: a sentence for each run. `run_ids` are those that it has.

        Raises StoreError.
        """
        found = []
        for run_id, batches in itertools.groupby(self._batches(), lambda batch: batch[0]):
            events = [event for _, first, blob in batches for event in enumerate(split_events(blob), first)]
            if not self._is_deleted(run_id) and (wrong := await _compared(store, run_id, events)):
                found.append(f"the history of run {run_id} {wrong}")
        for run_id in run_ids:
            if self._is_deleted(run_id):
                found.append(f"the history of run {run_id} is there, and the run was deleted")
            elif next(self._scan(_EVENTS + run_id.encode() + _END), None) is None:
                found.append(f"the history of run {run_id} is there, and no fold emitted it")
        return found

    def _batches(self) -> Iterator[tuple[str, int, bytes]]:
        """Run, id of the first event, and events of every batch, those of a run together and in order."""
        for key, blob in self._scan(_EVENTS):
            end = len(key) - _EVENT_ID.size
            yield key[len(_EVENTS) : end - len(_END)].decode(), _EVENT_ID.unpack(key[end:])[0], blob

    # Lists

    async def visibility_differences(self, store: VisibilityReader, types_of: TypesOf) -> list[str]:
        """What is wrong with the rows of runs in a store: a sentence for each run. Raises StoreError."""
        wanted: dict[str, dict[str, VisibilityRow]] = {}
        for _, value in self._scan(_VISIBLE):
            body = avro.decode(RunVisible, value)
            rows = wanted.setdefault(body.namespace, {})
            if not self._is_deleted(body.run_id):
                rows[body.run_id] = visibility_row(body, types_of(body.namespace), trust_marks=True)
        found = []
        for namespace, rows in wanted.items():
            async for row in _listed(store, namespace):
                expected = rows.pop(row.run_id, None)
                if expected is None:
                    found.append(f"the row of run {row.run_id} is there and has not to be")
                elif row != expected:
                    found.append(f"the row of run {row.run_id} is {row}, and has to be {expected}")
            found.extend(f"the row of run {run_id} is missing" for run_id in rows)
        return found

    def _is_deleted(self, run_id: str) -> bool:
        return self._db.get(_DELETED + run_id.encode()) is not None

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        entries = self._db.iter()
        entries.seek(prefix)
        while entries.valid() and entries.key().startswith(prefix):
            yield entries.key(), entries.value()
            entries.next()
        entries.status()

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()


async def _compared(store: HistoryReader, run_id: str, events: Sequence[tuple[int, bytes]]) -> str:
    """What is wrong with the history of a run, empty when nothing is."""
    at = 0
    behind = events[-1][0] + 1
    try:
        while at < len(events):
            page = await store.read(run_id, events[at][0], events[-1][0], _PAGE_BYTES)
            if not page:
                return f"has no event {events[at][0]}"
            for event in page:
                if event != events[at]:
                    return f"has another event {events[at][0]} than the folds emitted"
                at += 1
        more = await store.read(run_id, behind, behind, 1)
    except StoreDamagedError as error:
        return f"is damaged: {error}"
    return f"has an event {behind} that no fold emitted" if more else ""


async def _listed(store: VisibilityReader, namespace: str) -> AsyncIterator[VisibilityRow]:
    token = b""
    while True:
        page = await store.list(namespace, "", SearchAttributes(), _PAGE_ROWS, token)
        for row in page.rows:
            yield row
        token = page.next_page_token
        if not token:
            return
