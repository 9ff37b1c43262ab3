"""Membership in a group for its own sake: so that everybody can see a process that shares no partitions with others."""

from __future__ import annotations

import logging
import threading
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from streams import topology
from streams.kafka.admin import Cluster
from streams.kafka.groups import group_config
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings

LOG = logging.getLogger(__name__)

_POLL_S: Final = 1.0


class Presence:
    """A member of a role's group that reads nothing. The group lives on the registry's topic, which is always there."""

    def __init__(self, settings: KafkaSettings, role: str, supported_logic: int | None = None) -> None:
        self._settings = settings
        self._role = role
        self._supported_logic = supported_logic
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{role}-presence", daemon=True)

    def start(self) -> None:
        """Join the group. Blocks for the cluster. Raises ClusterError."""
        config = group_config(self._settings, Cluster(self._settings), self._role, self._supported_logic)
        self._consumer = Consumer(config, logger=LOG)
        topic = Names(self._settings.prefix).topic(topology.REGISTRY)
        self._consumer.subscribe([topic], on_assign=_read_nothing)
        self._thread.start()

    def stop(self) -> None:
        """Leave the group."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(_POLL_S)
            error = None if message is None else message.error()
            if error is not None:
                LOG.info("%s: %s", self._role, error.str())
        self._consumer.close()


def _read_nothing(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    places = [TopicPartition(place.topic, place.partition, OFFSET_END) for place in partitions]
    consumer.incremental_assign(places)
    if places:
        consumer.pause(places)
