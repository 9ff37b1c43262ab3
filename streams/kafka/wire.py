"""Records of internal topics as Kafka messages: the key in UTF-8, the Avro envelope as value.

What deletes the rows of its key from a compacted topic is a message without value, for Kafka to forget both in time:
it has the envelope in a header.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import Message

from streams import avro
from streams.bodies import RunDeleted
from streams.runtime.codec import Codec, Envelope
from streams.runtime.records import Record, Undecodable
from streams.topology import VISIBILITY

DAMAGED: Final = "damaged"
"""The source of messages that are no records: by their offset they come once, in no chain."""


ENVELOPE: Final = "record"
"""The header that has the envelope of a message without value."""

Headers = list[tuple[str, str | bytes | None]]


def value_of(codec: Codec, record: Record) -> bytes:
    """The value of a record's message."""
    return avro.encode(codec.envelope(record))


def message_of(codec: Codec, record: Record) -> tuple[bytes | None, Headers | None]:
    """The value and the headers of a record's message."""
    value = value_of(codec, record)
    if record.topic == VISIBILITY and isinstance(record.body, RunDeleted):
        return None, [(ENVELOPE, value)]
    return value, None


def envelope_of(message: Message) -> bytes:
    """The bytes that `value_of` gave, empty when there are none."""
    value, headers = message.value(), message.headers()
    if value is None and isinstance(headers, list):
        for name, content in headers:
            if name == ENVELOPE and isinstance(content, bytes):
                return content
    return value or b""


def record_of(codec: Codec, name: str, message: Message) -> Record:
    """The record in a message of the topic called `name` without prefix; one that holds none has an Undecodable body.

    Raises ValueError for a message without a place in a log.
    """
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        raise ValueError("the message has no place in a log")
    key, value, time_ms = message.key() or b"", envelope_of(message), message.timestamp()[1]
    try:
        text = key.decode()
        envelope = avro.decode(Envelope, value)
    except (UnicodeDecodeError, avro.DecodeError) as error:
        body = Undecodable("", str(error), value)
        return Record(
            name,
            partition,
            key.decode(errors="replace"),
            body,
            source=DAMAGED,
            origin_epoch=1,
            origin_offset=offset,
            offset=offset,
            time_ms=time_ms,
        )
    return codec.record(name, partition, offset, time_ms, text, envelope)
