"""Events that are in the `history` topic and in no store yet, read where they stand (fold.md rule 21).

Everything up to a store's position is in the store, so what is not there lies behind it. How far that is depends on
how late the materializer is: within a bound, or the answer is that it takes longer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams import topology
from streams.bodies import HistoryBatch
from streams.kafka.log import LASTING
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import record_of
from streams.runtime.codec import Codec
from streams.runtime.partition import Position
from streams.stores.damage import StoreError

LOG = logging.getLogger(__name__)

SCAN_S: Final = 3.0
"""How long the topic is read for requests that came together."""
TOGETHER: Final = 64
"""Requests that are served by reading the topic once."""
WAITING_LIMIT: Final = 1_000
"""Requests that may wait; more are refused."""
RECORDS_LIMIT: Final = 500_000
"""How far behind the store may be for its missing events to be looked for."""

_BATCH: Final = 2_000
_POLL_S: Final = 0.1
_METADATA_TIMEOUT_S: Final = 5.0

Events = list[tuple[int, bytes]]


class _Request:
    """Events `first_id` to `last_id` of a run, up to `max_bytes` but at least one."""

    def __init__(self, run_id: str, first_id: int, last_id: int, max_bytes: int) -> None:
        self.run_id = run_id
        self.name = run_id.encode()
        self.future: asyncio.Future[tuple[Events, bool]] = asyncio.get_running_loop().create_future()
        self.found: Events = []
        self._last_id = last_id
        self._max_bytes = max_bytes
        self._next_id = first_id
        self._size_bytes = 0
        self._later: dict[int, bytes] = {}
        self.is_complete = first_id > last_id

    def take(self, batch: HistoryBatch) -> None:
        """Take what is wanted of a batch. Batches come in order, but for what was sent again."""
        for event_id, event in enumerate(batch.events, batch.first_event_id):
            if self._next_id <= event_id <= self._last_id:
                self._later[event_id] = event
        while not self.is_complete and self._next_id in self._later:
            event = self._later.pop(self._next_id)
            self._size_bytes += len(event)
            if self.found and self._size_bytes > self._max_bytes:
                self.is_complete = True
                return
            self.found.append((self._next_id, event))
            self._next_id += 1
            self.is_complete = self._next_id > self._last_id


class TopicEvents:
    """Reads the topic on a thread of its own, for as many as ask at a time.

    `positions` gives the store's position for each partition of the topic. It may block, and is called on that thread
    alone. `scans` counts how often the topic was read.
    """

    def __init__(
        self, settings: KafkaSettings, codec: Codec, positions: Callable[[], Mapping[int, Position]]
    ) -> None:
        self._settings = settings
        self._codec = codec
        self._positions = positions
        self._topic = Names(settings.prefix).topic(topology.HISTORY)
        self._stored: Mapping[int, Position] | None = None
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._loop = asyncio.get_running_loop()
        self.scans = 0

    async def read(self, run_id: str, first_id: int, last_id: int, max_bytes: int) -> tuple[Events, bool]:
        """Events of a run from `first_id` on, contiguous, as far as they are in the topic behind the store's position;
        and whether that is all that was asked for or fits.

        Raises StoreError when that cannot be said now.
        """
        if self._waiting >= WAITING_LIMIT:
            raise StoreError(f"{self._waiting} reads already wait for events that are in no store yet")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="topic-events", daemon=True)
            self._thread.start()
        request = _Request(run_id, first_id, last_id, max_bytes)
        self._requests.put(request)
        self._waiting += 1
        try:
            return await request.future
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """End the thread. Blocks."""
        self._requests.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        consumer: Consumer | None = None
        while (request := self._requests.get()) is not None:
            requests = [request, *self._others()]
            try:
                consumer = consumer or self._open()
                self._scan(consumer, requests)
            except (StoreError, KafkaException) as error:
                self._answer(
                    requests, StoreError(f"events on their way to the store cannot be read: {error}")
                )
            except Exception as error:
                LOG.exception("events could not be read from %s", self._topic)
                self._answer(
                    requests, StoreError(f"events on their way to the store cannot be read: {error}")
                )
            else:
                self._answer(requests, None)
        if consumer is not None:
            consumer.close()

    def _others(self) -> Iterable[_Request]:
        for _ in range(TOGETHER - 1):
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            if request is None:
                self._requests.put(None)
                return
            yield request

    def _answer(self, requests: list[_Request], error: StoreError | None) -> None:
        def answer() -> None:
            for request in requests:
                if request.future.done():
                    continue  # whoever asked has gone
                if error is None:
                    request.future.set_result((request.found, request.is_complete))
                else:
                    request.future.set_exception(error)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(answer)

    # Reading

    def _open(self) -> Consumer:
        return Consumer(
            {
                **self._settings.consumer(),
                "fetch.wait.max.ms": 5,  # the end of a partition is told by an empty answer
                "group.id": Names(self._settings.prefix).group("topic-events"),  # required, and never joined
                "isolation.level": "read_uncommitted",
                "enable.partition.eof": True,
            },
            logger=LOG,
        )

    def _scan(self, consumer: Consumer, requests: list[_Request]) -> None:
        """Read what is behind the store's position for requests. Raises StoreError, KafkaException."""
        until_s = time.monotonic() + SCAN_S
        self.scans += 1
        places = self._places(consumer)
        if not places:
            return
        consumer.assign(places)
        try:
            reading = {place.partition for place in places}
            while reading and not all(request.is_complete for request in requests):
                if time.monotonic() > until_s:
                    raise StoreError(f"the history store is too far behind {self._topic}")
                for message in consumer.consume(_BATCH, _POLL_S):
                    self._take(message, requests, reading)
        finally:
            consumer.unassign()

    def _places(self, consumer: Consumer) -> list[TopicPartition]:
        """Where there is something behind the store's position. Raises StoreError, KafkaException."""
        try:
            self._stored = self._positions()
        except StoreError:
            if self._stored is None:
                raise
            # A position of earlier is still one: what is behind it may only be in the store by now.
        described = consumer.list_topics(self._topic, timeout=_METADATA_TIMEOUT_S).topics[self._topic]
        places, records = [], 0
        for number in described.partitions:
            place = TopicPartition(self._topic, number)
            low, end = consumer.get_watermark_offsets(place, timeout=_METADATA_TIMEOUT_S)
            position = self._stored.get(number)
            place.offset = low if position is None else max(low, min((position.offset + 1, *position.parked)))
            if place.offset < end:
                places.append(place)
                records += end - place.offset
        if records > RECORDS_LIMIT:
            raise StoreError(f"the history store is {records} records behind")
        return places

    def _take(self, message: Message, requests: list[_Request], reading: set[int]) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                reading.discard(message.partition())
            elif error.fatal() or error.code() in LASTING:
                raise KafkaException(error)
            return
        value = message.value() or b""
        for request in requests:
            if request.name in value and not request.is_complete:
                # Few records are of these runs: the others need not be decoded.
                body = record_of(self._codec, topology.HISTORY, message).body
                if isinstance(body, HistoryBatch) and body.run_id == request.run_id:
                    request.take(body)
