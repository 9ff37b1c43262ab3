"""The history store on Cassandra.

Append-only: a row a batch, clustered by event ids, in partitions of a thousand event ids of a run. A batch that
crosses into the next thousand is cut there, so that a read finds an event in its own partition and nowhere else.
Rows are written with the time of their record, so that a replay writes the same cells; a delete stands above any
write (fold.md rule 22). No TTL, no lightweight transactions; the only tombstones are those of whole partitions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from cassandra.query import BatchStatement, BatchType, SimpleStatement, Statement

from streams import avro
from streams.runtime.partition import Position
from streams.stores.cassandra_connection import CassandraConnection, Row
from streams.stores.damage import StoreDamagedError
from streams.stores.event_blob import join_events
from streams.stores.event_pages import EventPage, NumberedEvent, numbered_events
from streams.stores.history import EventBatch
from streams.stores.run_key import RunKey
from streams.stores.settings import CassandraSettings

CHUNK_EVENTS: Final = 1_000
"""Event ids of a run in one partition. What is stored rests on it: it never changes."""

DELETE_TIMESTAMP: Final = 2**62
"""Above the time of any record, in microseconds. Run ids are never used again: nothing follows a delete."""

REQUEST_BYTES: Final = 1024 * 1024
"""Events written with one request, unless a batch alone is larger."""

PAGE_ROWS: Final = 64
"""Rows fetched at a time; most are of a few events."""

_OFFSET_BYTES: Final = 8

_STATEMENTS: Final = {
    "insert": "INSERT INTO history (run_id, chunk, first_event_id, last_event_id, events)"
    " VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    "delete": "DELETE FROM history USING TIMESTAMP ? WHERE run_id = ? AND chunk = ?",
    "probe": "SELECT first_event_id FROM history WHERE run_id = ? AND chunk = ? LIMIT 1",
    # The row that an event in mid-chunk lies in is the last one that begins at or before it.
    "before": "SELECT first_event_id, last_event_id, events FROM history"
    " WHERE run_id = ? AND chunk = ? AND first_event_id <= ?"
    " ORDER BY first_event_id DESC, last_event_id DESC LIMIT 1",
    "from": "SELECT first_event_id, last_event_id, events FROM history"
    " WHERE run_id = ? AND chunk = ? AND first_event_id >= ? AND first_event_id <= ?",
    "positions": "SELECT partition, position FROM positions WHERE topic = ?",
    "move": "INSERT INTO positions (topic, partition, position) VALUES (?, ?, ?) USING TIMESTAMP ?",
    "back": "SELECT first_event_id, last_event_id, events FROM history"
    " WHERE run_id = ? AND chunk = ? AND first_event_id <= ?"
    " ORDER BY first_event_id DESC, last_event_id DESC",
}


class CassandraHistoryStore:
    """Implements `streams.stores.history.HistoryReader` on asyncio; writes block their thread.

    What is written again changes nothing, so that whoever is not sure that a write came through repeats it.
    """

    def __init__(self, settings: CassandraSettings) -> None:
        self._connection = CassandraConnection(settings, _STATEMENTS)

    def close(self) -> None:
        """Close every connection; idempotent."""
        self._connection.close()

    # Writing

    def write(self, batches: Sequence[EventBatch]) -> None:
        """Write batches, of any runs. Blocks. Raises StoreError, and then any part of them may be written."""
        by_partition: dict[tuple[str, int], list[Row]] = {}
        for batch in batches:
            for chunk, first, events in _cut(batch):
                values = (batch.run_id, chunk, first, first + len(events) - 1, join_events(events))
                by_partition.setdefault((batch.run_id, chunk), []).append((*values, batch.time_ms * 1000))
        insert = self._connection.connect().statements["insert"]
        requests: list[Statement] = []
        for rows in by_partition.values():
            for group in _groups(rows):
                statements = [insert.bind(values) for values in group]
                requests.append(statements[0] if len(statements) == 1 else _together(statements))
        if requests:
            self._connection.run(requests)

    def delete_runs(self, runs: Sequence[RunKey]) -> None:
        """Delete every event of `runs`; a run without events is no error. Blocks. Raises StoreError."""
        last_chunks = self._last_chunks([run.run_id for run in runs])
        delete = self._connection.connect().statements["delete"]
        # From the last chunk down: what a failure leaves still begins with the first, so that it is found again.
        for chunk in range(max(last_chunks.values(), default=-1), -1, -1):
            self._connection.run(
                [
                    delete.bind((DELETE_TIMESTAMP, run_id, chunk))
                    for run_id, last in last_chunks.items()
                    if last >= chunk
                ]
            )

    def _last_chunks(self, run_ids: Iterable[str]) -> dict[str, int]:
        """The last chunk of each run; chunks are filled in order, and most runs have only the first."""
        probe = self._connection.connect().statements["probe"]
        last_chunks = dict.fromkeys(run_ids, 0)
        growing = list(last_chunks)
        while growing:
            found = self._connection.run(
                [probe.bind((run_id, last_chunks[run_id] + 1)) for run_id in growing]
            )
            growing = [run_id for run_id, rows in zip(growing, found, strict=True) if rows]
            for run_id in growing:
                last_chunks[run_id] += 1
        return last_chunks

    # Positions

    def positions(self, topic: str) -> dict[int, Position]:
        """How far each partition of a topic was written. Blocks. Raises StoreError."""
        select = self._connection.connect().statements["positions"]
        (rows,) = self._connection.run([select.bind((topic,))])
        try:
            return {partition: avro.decode(Position, data[_OFFSET_BYTES:]) for partition, data in rows}
        except avro.DecodeError as error:
            raise StoreDamagedError(f"a position of {topic} in Cassandra is damaged: {error}") from error

    def move(self, topic: str, positions: Mapping[int, Position]) -> None:
        """Tell how far partitions of a topic were written: after that, and never back. Blocks. Raises StoreError.

        The timestamp is the log's time, so that what a former writer still sends comes in below; of positions of
        the same millisecond Cassandra keeps the greater value, which is why it begins with the offset.
        """
        move = self._connection.connect().statements["move"]
        requests = []
        for partition, position in positions.items():
            value = position.offset.to_bytes(_OFFSET_BYTES) + avro.encode(position)
            requests.append(move.bind((topic, partition, value, position.now_ms * 1000)))
        if requests:
            self._connection.run(requests)

    # Reading

    async def read(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[NumberedEvent]:
        """See `HistoryReader.read`."""
        page = EventPage(range(first_event_id, last_event_id + 1), max_bytes)
        while (wanted := page.next_id) is not None and wanted > 0:
            async with aclosing(self._rows_from(run_id, wanted, last_event_id)) as rows:
                async for row in rows:
                    if page.next_id is None or row[0] > page.next_id:
                        break  # complete, or the next event is missing
                    page.take(numbered_events(run_id, *row))
            if page.next_id is None or _chunk(page.next_id) == _chunk(wanted):
                break
        return page.events

    async def read_reverse(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[NumberedEvent]:
        """See `HistoryReader.read_reverse`."""
        page = EventPage(range(last_event_id, first_event_id - 1, -1), max_bytes)
        while (wanted := page.next_id) is not None and wanted > 0:
            async with aclosing(self._rows("back", run_id, _chunk(wanted), wanted)) as rows:
                async for row in rows:
                    if page.next_id is None or row[1] < page.next_id:
                        break
                    page.take(reversed(numbered_events(run_id, *row)))
            if page.next_id is None or _chunk(page.next_id) == _chunk(wanted):
                break
        return page.events

    def run_ids(self) -> list[str]:
        """Every run that has events, in order; looks at every partition. Blocks. Raises StoreError."""
        select = SimpleStatement("SELECT DISTINCT run_id, chunk FROM history")
        (rows,) = self._connection.run([select])
        return sorted({run_id for run_id, _ in rows})

    async def _rows_from(self, run_id: str, first: int, last: int) -> AsyncGenerator[Row, None]:
        """Rows of the chunk that `first` is in, ascending, from the one that holds it, up to event `last`."""
        chunk = _chunk(first)
        if first != chunk * CHUNK_EVENTS + 1:
            async with aclosing(self._rows("before", run_id, chunk, first)) as rows:
                async for row in rows:
                    yield row
                    first = row[1] + 1
        if first <= last and _chunk(first) == chunk:
            async with aclosing(self._rows("from", run_id, chunk, first, last)) as rows:
                async for row in rows:
                    yield row

    async def _rows(self, name: str, *values: object) -> AsyncGenerator[Row, None]:
        statement = (await self._connection.connected()).statements[name].bind(values)
        statement.fetch_size = PAGE_ROWS
        async with aclosing(self._connection.pages(statement)) as pages:
            async for rows in pages:
                for row in rows:
                    yield row


def _chunk(event_id: int) -> int:
    return (event_id - 1) // CHUNK_EVENTS


def _cut(batch: EventBatch) -> Iterable[tuple[int, int, Sequence[bytes]]]:
    """The parts of a batch in each chunk: its number, the first event's id, the events."""
    first = batch.first_event_id
    while first <= batch.last_event_id:
        chunk = _chunk(first)
        end = min((chunk + 1) * CHUNK_EVENTS, batch.last_event_id)
        yield chunk, first, batch.events[first - batch.first_event_id : end - batch.first_event_id + 1]
        first = end + 1


def _groups(rows: Sequence[Row]) -> Iterable[list[Row]]:
    """Rows of one partition, as many together as a request may hold."""
    group: list[Row] = []
    size = 0
    for row in rows:
        size += len(row[4])
        if group and size > REQUEST_BYTES:
            yield group
            group, size = [], len(row[4])
        group.append(row)
    if group:
        yield group


def _together(statements: Sequence[Statement]) -> BatchStatement:
    """One request for rows of one partition, which a replica writes as one mutation, without a batch log."""
    batch = BatchStatement(BatchType.UNLOGGED)
    for statement in statements:
        batch.add(statement)
    batch.is_idempotent = True
    return batch
