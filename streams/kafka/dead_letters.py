"""Records that were set aside: what tells of them in `dead-letters`, for people and programs alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams import avro, topology
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import Headers
from streams.runtime.partition import DeadLetter

LOG = logging.getLogger(__name__)

_FLUSH_S: Final = 1.0
_HEADERS_BYTES: Final = 64 * 1024
"""What the headers of a record may take to be passed on with it."""


class LetterError(Exception):
    """A dead letter cannot be sent now."""


def headers_of(letter: DeadLetter, original: Headers) -> Headers:
    """Where the record stood and why it was set aside, before the headers that it came with."""
    own: Headers = [
        ("odradek.source", letter.source),
        ("odradek.offset", str(letter.offset)),
        ("odradek.type", letter.type),
        ("odradek.reason", letter.reason),
    ]
    if sum(len(name) + len(content or b"") for name, content in original) > _HEADERS_BYTES:
        return [*own, ("odradek.headers", "left out: they are too large")]
    return own + original


def original_headers(message: Message) -> Headers:
    """The headers of a message."""
    headers = message.headers()
    return list(headers) if isinstance(headers, list) else []


class DeadLetters:
    """Sends dead letters for one thread that is no owner. Connects when there is one to send.

    `partition_of` gives the partition of `dead-letters` that a key belongs to.
    """

    def __init__(self, settings: KafkaSettings, partition_of: Callable[[str], int]) -> None:
        self._settings = settings
        self._topic = Names(settings.prefix).topic(topology.DEAD_LETTERS)
        self._partition_of = partition_of
        self._producer: Producer | None = None
        self._error: KafkaError | None = None

    def send(self, letter: DeadLetter, original: Headers) -> None:
        """Send a letter; `flush` says whether it arrived. Raises LetterError."""
        if self._producer is None:
            self._producer = Producer(self._settings.producer(), logger=LOG)
        try:
            self._producer.produce(
                self._topic,
                avro.encode(letter),
                letter.key.encode(),
                self._partition_of(letter.key),
                self._delivered,
                headers=headers_of(letter, original),
            )
        except (BufferError, KafkaException) as error:
            raise LetterError(f"a dead letter cannot be sent: {error}") from error

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._error = self._error or error

    def flush(self) -> bool:
        """Wait a moment for what was sent; whether all of it arrived. Raises KafkaException when it never will."""
        if self._producer is None:
            return True
        left = self._producer.flush(_FLUSH_S)
        if self._error is not None:
            raise KafkaException(self._error)
        return left == 0

    def close(self) -> None:
        """Forget what has not arrived."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.close()
