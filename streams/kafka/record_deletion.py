"""Deletion of the records of a log that nobody needs any more, by the owners of its partitions (fold.md rule 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.kafka.materialised import EVERYTHING
from streams.kafka.settings import KafkaSettings
from streams.kafka.status import PartitionStatus
from streams.runtime.owner import Owner
from streams.runtime.partition import Partition

LOG = logging.getLogger(__name__)

Materialised = Callable[[Partition], int]
"""How far readers of what a partition emits have got, as an offset of its input; -1 for nowhere."""

_WORTH_IT: Final = 1_000
"""Records that a deletion has to be about, at least."""


class RecordDeletion:
    """Deletes records of one input topic. Only what `history` emits is for stores; that of other roles is for logs."""

    def __init__(
        self, settings: KafkaSettings, role: str, topic: str, materialised: Materialised | None
    ) -> None:
        self._enabled = settings.delete_records and (role != "history" or materialised is not None)
        self._safety_span = settings.safety_span
        self._topic = topic
        self._materialised = materialised if role == "history" else None
        self._client = AdminClient({**settings.client(), "log_level": 0}) if self._enabled else None

    def delete(self, owners: list[tuple[Owner, PartitionStatus]]) -> None:
        """Begin the deletion of what may go by now; never waits."""
        if self._client is None:
            return
        for owner, status in owners:
            materialised = EVERYTHING if self._materialised is None else self._materialised(owner.partition)
            below = owner.deletable_below(materialised, self._safety_span)
            if below >= status.deleted_below + _WORTH_IT:
                self._begin(self._client, below, status)

    def _begin(self, client: AdminClient, below: int, status: PartitionStatus) -> None:
        place = TopicPartition(self._topic, status.partition, below)
        for future in client.delete_records([place]).values():
            future.add_done_callback(partial(_note, place, status))


def _note(place: TopicPartition, status: PartitionStatus, future: Future[Any]) -> None:
    """Called on the client's own thread, which must not be left with the last reference to the client."""
    try:
        future.result()
    except KafkaException as error:
        LOG.warning("%s/%d: records were not deleted: %s", place.topic, place.partition, error)
    else:
        status.deleted_below = place.offset
