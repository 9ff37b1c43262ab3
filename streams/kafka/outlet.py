"""What owners of a process and role send: emissions, replies and dead letters, through one idempotent producer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams import avro, topology
from streams.bodies import ReplyRecord
from streams.kafka import wire
from streams.kafka.dead_letters import headers_of
from streams.kafka.names import ALL_TOPICS, REPLIES, Names, reply_partition
from streams.kafka.partitions import Partitions
from streams.kafka.settings import KafkaSettings
from streams.runtime.codec import Codec
from streams.runtime.partition import DeadLetter
from streams.runtime.records import Record

LOG = logging.getLogger(__name__)

Acknowledged = Callable[[], None]

_FULL_WAIT_S: Final = 0.05

PATIENT: Final = frozenset((topology.HISTORY, topology.VISIBILITY))
"""What goes to stores: nobody waits for it, as readers get the newest events beside answers. It is encoded late, too,
so that no reply waits for that."""

PATIENCE_S: Final = 0.1
"""How far apart the bursts are in which such records are sent: so each request carries many."""


class SendError(Exception):
    """A record cannot be sent: the ownership that wanted it is over."""


class Outlet:
    """Belongs to one thread, on which `poll` runs the acknowledgements.

    Once `failure` is set, something did not arrive: whoever sent anything through here has to begin again (fold.md
    rule 11).
    """

    def __init__(self, settings: KafkaSettings, codec: Codec, partitions: Partitions) -> None:
        names = Names(settings.prefix)
        self._topics = {name: names.topic(name) for name in ALL_TOPICS}
        self._codec = codec
        self._partitions = partitions
        self._producer = Producer(settings.producer(), logger=LOG)
        self._patient: list[tuple[Record, Acknowledged | None]] = []
        self._patient_until_s = 0.0
        self.failure = ""

    def append(self, record: Record, acknowledged: Acknowledged | None = None) -> None:
        """Append a record to its topic and partition. Raises SendError."""
        if record.topic in PATIENT:
            self._patient.append((record, acknowledged))
        else:
            self._append(record, acknowledged)

    def _append(self, record: Record, acknowledged: Acknowledged | None) -> None:
        value, headers = wire.message_of(self._codec, record)
        self._send(record.topic, record.partition, record.key.encode(), value, acknowledged, headers)

    def reply(self, reply: ReplyRecord, acknowledged: Acknowledged) -> bool:
        """Send a reply to its gateway; False when its address is none. Raises SendError."""
        try:
            partition = reply_partition(reply.gateway)
        except ValueError:
            return False
        if partition >= self._partitions.count(REPLIES):
            return False
        self._send(REPLIES, partition, reply.gateway.encode(), avro.encode(reply), acknowledged)
        return True

    def letter(self, letter: DeadLetter, original: wire.Headers, acknowledged: Acknowledged) -> None:
        """Append a dead letter, with the headers of the record that it is about. Raises SendError."""
        partition = self._partitions.of(topology.DEAD_LETTERS, letter.key)
        key, value = letter.key.encode(), avro.encode(letter)
        headers = headers_of(letter, original)
        self._send(topology.DEAD_LETTERS, partition, key, value, acknowledged, headers)

    def _send(
        self,
        name: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        acknowledged: Acknowledged | None,
        headers: wire.Headers | None = None,
    ) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failure = self.failure or f"a record for {name}/{partition} was lost: {error.str()}"
            elif acknowledged is not None:
                acknowledged()

        while True:
            try:
                self._producer.produce(self._topics[name], value, key, partition, delivered, headers=headers)
                return
            except BufferError:
                self._producer.poll(_FULL_WAIT_S)
            except KafkaException as error:
                raise SendError(
                    f"a record for {name}/{partition} cannot be sent: {error.args[0].str()}"
                ) from error

    def poll(self, timeout_s: float = 0) -> None:
        """Run acknowledgements of what arrived, and send what has waited long enough."""
        self._producer.poll(timeout_s)
        if self._patient and time.monotonic() >= self._patient_until_s:
            self.hurry()

    def hurry(self) -> None:
        """Send everything that waits."""
        waiting, self._patient = self._patient, []
        self._patient_until_s = time.monotonic() + PATIENCE_S
        try:
            for record, acknowledged in waiting:
                self._append(record, acknowledged)
        except SendError as error:
            self.failure = self.failure or str(error)

    def close(self) -> None:
        """Forget what is under way, and end."""
        self._producer.purge()
        self._producer.close()
