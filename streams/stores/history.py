"""The interfaces of a history store: the durable, append-only events of every run."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from streams.stores.run_key import RunKey

TxT_contra = TypeVar("TxT_contra", contravariant=True)


class EventBatch(msgspec.Struct, frozen=True):
    """Consecutive events of one run that one fold step emitted together.

    `events` are encoded ``temporal.api.history.v1.HistoryEvent`` messages, the first of which has the id
    `first_event_id`; `time_ms` is the batch's time in milliseconds since the epoch.
    """

    namespace_id: str
    workflow_id: str
    run_id: str
    first_event_id: int
    last_event_id: int
    events: tuple[bytes, ...]
    time_ms: int

    def __post_init__(self) -> None:
        if self.first_event_id < 1 or len(self.events) != self.last_event_id - self.first_event_id + 1:
            raise ValueError(
                f"run {self.run_id}: {len(self.events)} events cannot be "
                f"{self.first_event_id} to {self.last_event_id}"
            )


class HistoryReader(Protocol):
    """What gateways and sinks read events from."""

    async def read(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """Read committed events, ids ascending, without a gap, from `first_event_id` to `last_event_id`.

        Returns less when the next event would exceed `max_bytes` in total, or is not in the store: the
        result is empty only when `first_event_id` is not there. Raises StoreError.
        """

    async def read_reverse(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """As `read`, ids descending from `last_event_id` down to `first_event_id`."""


class HistoryStore(HistoryReader, Protocol[TxT_contra]):
    """Where events rest for as long as their run is retained, in a database with transactions.

    Batches are keyed by run and first event id. Folding is deterministic, so a batch that is written again
    holds the same events: it replaces itself, and where batches overlap any of them may serve a read.

    `TxT_contra` is the transaction that a write joins.
    """

    def write(self, tx: TxT_contra, batches: Sequence[EventBatch]) -> None:
        """Write batches, of any runs, in `tx`; never commits."""

    def delete_runs(self, tx: TxT_contra, runs: Sequence[RunKey]) -> None:
        """Delete every event of `runs` in `tx`; a run without events is no error."""
