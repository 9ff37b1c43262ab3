"""Deletion of the records of `history`: once they are in the store, and as old as its readers may be late."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.kafka.carried import Carried
from streams.kafka.settings import KafkaSettings

LOG = logging.getLogger(__name__)

INTERVAL_S: Final = 60.0
TIMEOUT_S: Final = 5.0


class FeedDeletion:
    """Deletes from one topic what nobody needs any more. Belongs to the thread that reads the topic."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._topic = topic
        self._feed_ms = settings.history_feed_ms
        self._at_s = 0.0
        self._deleted_below: dict[int, int] = {}
        self._client = AdminClient({**settings.client(), "log_level": 0}) if settings.delete_records else None

    def delete(self, consumer: Consumer, partitions: Iterable[Carried], now_ms: int) -> None:
        """Begin the deletion of what may go by now, where it is time to look."""
        if self._client is None or time.monotonic() < self._at_s:
            return
        self._at_s = time.monotonic() + INTERVAL_S
        kept = {one.number: one.kept_from for one in partitions}
        try:
            below = self._of_age(consumer, kept, now_ms)
        except KafkaException as error:
            LOG.info("%s: records were not deleted: %s", self._topic, error)
            return
        places = [
            TopicPartition(self._topic, number, offset)
            for number, offset in below.items()
            if offset > self._deleted_below.get(number, 0)
        ]
        if places:
            for place, future in self._client.delete_records(places).items():
                future.add_done_callback(partial(_note, place, self._deleted_below))

    def _of_age(self, consumer: Consumer, kept: dict[int, int], now_ms: int) -> dict[int, int]:
        """For each partition the offset that is below both what is kept and what is young. Raises KafkaException."""
        asked = [TopicPartition(self._topic, number, max(0, now_ms - self._feed_ms)) for number in kept]
        below = {}
        for found in consumer.offsets_for_times(asked, timeout=TIMEOUT_S) if asked else ():
            if found.error is not None:
                continue
            everything_is_old = found.offset < 0
            needed = kept[found.partition]
            below[found.partition] = needed if everything_is_old else min(needed, found.offset)
        return below


def _note(place: TopicPartition, deleted_below: dict[int, int], future: Future[Any]) -> None:
    """Called on the client's own thread, which must not be left with the last reference to the client."""
    try:
        future.result()
    except KafkaException as error:
        LOG.warning("%s/%d: records were not deleted: %s", place.topic, place.partition, error)
    else:
        deleted_below[place.partition] = place.offset
