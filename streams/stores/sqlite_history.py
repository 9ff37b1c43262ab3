"""The history store on SQLite."""

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any

from streams.stores.event_blob import join_events
from streams.stores.event_pages import EventPage, NumberedEvent, numbered_events
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
    ) -> list[NumberedEvent]:
        """See `HistoryStore.read`."""
        return await self._readers.run(
            lambda connection: read_events(connection, run_id, first_event_id, last_event_id, max_bytes)
        )

    async def read_reverse(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[NumberedEvent]:
        """See `HistoryStore.read_reverse`."""
        return await self._readers.run(
            lambda connection: read_events_reverse(
                connection, run_id, first_event_id, last_event_id, max_bytes
            )
        )


def read_events(
    connection: sqlite3.Connection, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
) -> list[NumberedEvent]:
    """Read as `HistoryStore.read` does, in the calling thread."""
    page = EventPage(range(first_event_id, last_event_id + 1), max_bytes)
    parameters = {"run_id": run_id, "first": first_event_id, "last": last_event_id}
    with contextlib.closing(connection.execute(_SELECT, parameters)) as batches:
        while page.next_id is not None and (batch := batches.fetchone()) is not None:
            page.take(numbered_events(run_id, *batch))
    return page.events


def read_events_reverse(
    connection: sqlite3.Connection, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
) -> list[NumberedEvent]:
    """Read as `HistoryStore.read_reverse` does, in the calling thread."""
    page = EventPage(range(last_event_id, first_event_id - 1, -1), max_bytes)
    parameters = {"run_id": run_id, "last": last_event_id}
    with contextlib.closing(connection.execute(_SELECT_REVERSE, parameters)) as batches:
        while page.next_id is not None and (batch := batches.fetchone()) is not None:
            page.take(reversed(numbered_events(run_id, *batch)))
    return page.events
