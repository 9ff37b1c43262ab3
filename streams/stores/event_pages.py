"""Pages of events out of stored batches: each looked at before it is shown, none passed over."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError
from temporalio.api.history.v1 import HistoryEvent

from streams.stores.damage import StoreDamagedError
from streams.stores.event_blob import split_events

NumberedEvent = tuple[int, bytes]
"""The id of an event, and the event encoded."""


def numbered_events(run_id: str, first: int, last: int, blob: bytes) -> list[NumberedEvent]:
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


class EventPage:
    """Collects wanted events, in their order, until one is missing or the bytes are used up.

    It holds at least one event where the first wanted one is there, however large that is. `next_id` is the id
    that comes next, None once the page is complete.
    """

    def __init__(self, wanted: range, max_bytes: int) -> None:
        self.events: list[NumberedEvent] = []
        self._wanted = iter(wanted)
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self.next_id = next(self._wanted, None)

    def take(self, events: Iterable[NumberedEvent]) -> None:
        """Take what is wanted of the events of a batch, which come in the page's order.

        Passes over what lies before the range, and over ids that overlapping batches repeat.
        """
        for event_id, event in events:
            if event_id != self.next_id:
                continue
            self._size_bytes += len(event)
            if self.events and self._size_bytes > self._max_bytes:
                self.next_id = None
                return
            self.events.append((event_id, event))
            self.next_id = next(self._wanted, None)
