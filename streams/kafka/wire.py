"""Records of internal topics as Kafka messages: the key in UTF-8, the Avro envelope as value."""

from __future__ import annotations

from typing import Final

from confluent_kafka import Message

from streams import avro
from streams.runtime.codec import Codec, Envelope
from streams.runtime.records import Record, Undecodable

DAMAGED: Final = "damaged"
"""The source of messages that are no records: by their offset they come once, in no chain."""


def value_of(codec: Codec, record: Record) -> bytes:
    """The value of a record's message."""
    return avro.encode(codec.envelope(record))


def record_of(codec: Codec, name: str, message: Message) -> Record:
    """The record in a message of the topic called `name` without prefix; one that holds none has an Undecodable body.

    Raises ValueError for a message without a place in a log.
    """
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        raise ValueError("the message has no place in a log")
    key, value, time_ms = message.key() or b"", message.value() or b"", message.timestamp()[1]
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
