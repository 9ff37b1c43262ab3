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
from streams.kafka.settings import RECORD_MAX_BYTES, KafkaSettings
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


GATHERED: Final = 32
"""Records go to the producer together, once there are so many at the latest: as it sends at once what it is given,
those of a partition share a request only then."""

_Delivered = Callable[[KafkaError | None, Message], None]
_Gathered = tuple[str, bytes | None, bytes, int, _Delivered, wire.Headers | None]


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
        self._gathered: list[_Gathered] = []
        self._patient: list[tuple[Record, Acknowledged | None]] = []
        self._patient_until_s = 0.0
        self.failure = ""

    def append(self, record: Record, acknowledged: Acknowledged | None = None) -> None:
        """Append a record to its topic and partition, at the latest with the next `send`. Raises SendError."""
        if record.topic in PATIENT:
            self._patient.append((record, acknowledged))
        else:
            self._append(record, acknowledged)

    def _append(self, record: Record, acknowledged: Acknowledged | None) -> None:
        value, headers = wire.message_of(self._codec, record)
        self._gather(record.topic, record.partition, record.key.encode(), value, acknowledged, headers)

    def reply(self, reply: ReplyRecord, acknowledged: Acknowledged) -> bool:
        """Send a reply to its gateway; False when its address is none. Raises SendError."""
        try:
            partition = reply_partition(reply.gateway)
        except ValueError:
            return False
        if partition >= self._partitions.count(REPLIES):
            return False
        self._gather(REPLIES, partition, reply.gateway.encode(), avro.encode(reply), acknowledged)
        return True

    def letter(self, letter: DeadLetter, original: wire.Headers, acknowledged: Acknowledged) -> None:
        """Append a dead letter, with the headers of the record that it is about. Raises SendError."""
        partition = self._partitions.of(topology.DEAD_LETTERS, letter.key)
        key, value = letter.key.encode(), avro.encode(letter)
        headers = headers_of(letter, original)
        self._gather(topology.DEAD_LETTERS, partition, key, value, acknowledged, headers)

    def _gather(
        self,
        name: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        acknowledged: Acknowledged | None,
        headers: wire.Headers | None = None,
    ) -> None:
        """Have a record sent with the next ones. Raises SendError for one that is too large for the log."""
        size_bytes = (
            len(key) + len(value or b"") + sum(len(tag) + len(text or b"") for tag, text in headers or ())
        )
        if size_bytes > RECORD_MAX_BYTES:
            raise SendError(f"a record for {name}/{partition} of {size_bytes} bytes is too large for the log")

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failure = self.failure or f"a record for {name}/{partition} was lost: {error.str()}"
            elif acknowledged is not None:
                acknowledged()

        self._gathered.append((self._topics[name], value, key, partition, delivered, headers))
        if len(self._gathered) >= GATHERED:
            self.send()

    def send(self) -> None:
        """Send what was appended, but for what is patient."""
        gathered, self._gathered = self._gathered, []
        for topic, value, key, partition, delivered, headers in gathered:
            while not self.failure:
                try:
                    self._producer.produce(topic, value, key, partition, delivered, headers=headers)
                    break
                except BufferError:
                    self._producer.poll(_FULL_WAIT_S)
                except KafkaException as error:
                    reason = error.args[0].str()
                    self.failure = f"a record for {topic}/{partition} cannot be sent: {reason}"

    def poll(self, timeout_s: float = 0) -> None:
        """Send what was appended, run acknowledgements of what arrived, and send what has waited long enough."""
        self.send()
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
        self.send()

    def close(self) -> None:
        """Forget what is under way, and end."""
        self._gathered.clear()
        self._producer.purge()
        self._producer.close()
