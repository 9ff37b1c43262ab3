"""The history store on SQLite."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from temporalio.api.history.v1 import HistoryEvent

from streams.stores.damage import StoreDamagedError
from streams.stores.event_blob import join_events, split_events
from streams.stores.history import EventBatch
from streams.stores.run_key import RunKey
from streams.stores.sqlite_batches import RowsStatement
from streams.stores.sqlite_readers import SqliteReaders

_INSERT = RowsStatement(
    "INSERT INTO history (run_id, first_event_id, last_event_id, events) VALUES",
    columns=4,
    tail="ON CONFLICT (run_id, first_event_id)"
    " DO UPDATE SET last_event_id = excluded.last_event_id, events = excluded.events",
)
_DELETE = RowsStatement("DELETE FROM history WHERE run_id IN (VALUES", columns=1, tail=")")

# A range may begin inside a batch, so reading starts at the last batch that begins at or before it.
_SELECT = """
    SELECT first_event_id, last_event_id, events FROM history
    WHERE run_id = :run_id AND first_event_id <= :last
      AND first_event_id >= coalesce(
        (SELECT max(first_event_id) FROM history WHERE run_id = :run_id AND first_event_id <= :first), :first)
    ORDER BY first_event_id
"""
_SELECT_REVERSE = """
    SELECT first_event_id, last_event_id, events FROM history
    WHERE run_id = :run_id AND first_event_id <= :last
    ORDER BY first_event_id DESC
"""


class SqliteHistoryStore:
    """Implements `streams.stores.history.HistoryStore` in the engine's SQLite file.

    Writes execute on the engine's connection, inside the transaction it has open.
    """

    def __init__(self, readers: SqliteReaders) -> None:
        self._readers = readers

    def write(self, tx: sqlite3.Connection, batches: Sequence[EventBatch]) -> None:
        """Write batches, of any runs, in the open transaction of `tx`."""
        values: list[Any] = []
        for batch in batches:
            values += (batch.run_id, batch.first_event_id, batch.last_event_id, join_events(batch.events))
        _INSERT.run(tx, values)

    def delete_runs(self, tx: sqlite3.Connection, runs: Sequence[RunKey]) -> None:
        """Delete every event of `runs` in the open transaction of `tx`."""
        _DELETE.run(tx, [run.run_id for run in runs])

    async def read(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """See `HistoryStore.read`."""
        return await self._readers.run(
            lambda connection: read_events(connection, run_id, first_event_id, last_event_id, max_bytes)
        )

    async def read_reverse(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """See `HistoryStore.read_reverse`."""
        return await self._readers.run(
            lambda connection: read_events_reverse(
                connection, run_id, first_event_id, last_event_id, max_bytes
            )
        )


def read_events(
    connection: sqlite3.Connection, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
) -> list[tuple[int, bytes]]:
    """Read as `HistoryStore.read` does, in the calling thread."""
    parameters = {"run_id": run_id, "first": first_event_id, "last": last_event_id}
    wanted = iter(range(first_event_id, last_event_id + 1))
    with contextlib.closing(connection.execute(_SELECT, parameters)) as batches:
        return _page(_ascending(run_id, batches), wanted, max_bytes)


def read_events_reverse(
    connection: sqlite3.Connection, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
) -> list[tuple[int, bytes]]:
    """Read as `HistoryStore.read_reverse` does, in the calling thread."""
    parameters = {"run_id": run_id, "last": last_event_id}
    wanted = iter(range(last_event_id, first_event_id - 1, -1))
    with contextlib.closing(connection.execute(_SELECT_REVERSE, parameters)) as batches:
        return _page(_descending(run_id, batches), wanted, max_bytes)


def _ascending(run_id: str, batches: sqlite3.Cursor) -> Iterator[tuple[int, bytes]]:
    for first, last, blob in batches:
        yield from _numbered(run_id, first, last, blob)


def _descending(run_id: str, batches: sqlite3.Cursor) -> Iterator[tuple[int, bytes]]:
    for first, last, blob in batches:
        yield from reversed(_numbered(run_id, first, last, blob))


def _numbered(run_id: str, first: int, last: int, blob: bytes) -> list[tuple[int, bytes]]:
    """The events of a batch with their ids. Raises StoreDamagedError unless they are the events they should be."""
    try:
        events = split_events(blob)
        ids = [HistoryEvent.FromString(event).event_id for event in events]
        wanted = list(range(first, last + 1))
    except (ValueError, TypeError, DecodeError) as error:
        raise StoreDamagedError(f"events {first} to {last} of run {run_id} are damaged: {error}") from error
    if ids != wanted:
        raise StoreDamagedError(
            f"events {first} to {last} of run {run_id} are damaged: they say they are {ids}"
        )
    return list(zip(wanted, events, strict=True))


def _page(
    events: Iterator[tuple[int, bytes]], wanted: Iterator[int], max_bytes: int
) -> list[tuple[int, bytes]]:
    """Take the wanted ids, in their order, until one is missing or the bytes are used up."""
    page: list[tuple[int, bytes]] = []
    size = 0
    for event_id in wanted:
        # Passes over what lies before the range, and over ids that overlapping batches repeat.
        event = next((found for at, found in events if at == event_id), None)
        if event is None:
            break
        size += len(event)
        if page and size > max_bytes:
            break
        page.append((event_id, event))
    return page
