"""Records as bytes: the Avro envelope with its body, and batches of them as the embedded log keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from streams import avro
from streams.runtime.records import Correlation, Record, Undecodable, UnknownType


class Envelope(msgspec.Struct, frozen=True):
    """A record of an internal topic. `gateway` is empty when nobody waits for a reply."""

    type: str
    source: str
    origin_epoch: int
    origin_offset: int
    index: int
    previous_offset: int
    previous_index: int
    gateway: str
    gateway_epoch: int
    call_id: int
    body: bytes


class LoggedRecord(msgspec.Struct, frozen=True):
    """A record with its place in the embedded log."""

    topic: str
    partition: int
    offset: int
    time_ms: int
    key: str
    value: Envelope


class LogBatch(msgspec.Struct, frozen=True):
    """Records that were committed together, in order."""

    records: tuple[LoggedRecord, ...]


class Codec:
    """Encodes and decodes records whose bodies are of the given struct classes."""

    def __init__(self, body_types: Mapping[str, type[msgspec.Struct]]) -> None:
        self._types = body_types

    def envelope(self, record: Record) -> Envelope:
        """The envelope of a record."""
        correlation = record.correlation
        body = record.body
        return Envelope(
            type=body.type if isinstance(body, Undecodable) else type(body).__name__,
            source=record.source,
            origin_epoch=record.origin_epoch,
            origin_offset=record.origin_offset,
            index=record.index,
            previous_offset=record.previous_offset,
            previous_index=record.previous_index,
            gateway=correlation.gateway if correlation else "",
            gateway_epoch=correlation.epoch if correlation else 0,
            call_id=correlation.id if correlation else 0,
            body=body.data if isinstance(body, Undecodable) else avro.encode(body),
        )

    def record(
        self, topic: str, partition: int, offset: int, time_ms: int, key: str, value: Envelope
    ) -> Record:
        """The record of an envelope; a body that cannot be decoded becomes Undecodable."""
        return Record(
            topic,
            partition,
            key,
            self._body(value),
            source=value.source,
            origin_offset=value.origin_offset,
            index=value.index,
            origin_epoch=value.origin_epoch,
            previous_offset=value.previous_offset,
            previous_index=value.previous_index,
            correlation=Correlation(value.gateway, value.gateway_epoch, value.call_id)
            if value.gateway
            else None,
            offset=offset,
            time_ms=time_ms,
        )

    def _body(self, value: Envelope) -> msgspec.Struct:
        cls = self._types.get(value.type)
        if cls is None:
            return UnknownType(value.type, f"unknown record type {value.type!r}", value.body)
        try:
            return avro.decode(cls, value.body)
        except avro.DecodeError as error:
            return Undecodable(value.type, str(error), value.body)

    def to_logged(self, record: Record) -> LoggedRecord:
        """A record with its place, as a struct."""
        return LoggedRecord(
            record.topic, record.partition, record.offset, record.time_ms, record.key, self.envelope(record)
        )

    def logged(self, value: LoggedRecord) -> Record:
        """The record in such a struct."""
        return self.record(value.topic, value.partition, value.offset, value.time_ms, value.key, value.value)

    def encode_batch(self, records: Sequence[Record]) -> bytes:
        """A batch of the embedded log as bytes."""
        return avro.encode(LogBatch(tuple(map(self.to_logged, records))))

    def decode_batch(self, data: bytes) -> list[Record]:
        """The records of a batch. Raises avro.DecodeError."""
        batch = avro.decode(LogBatch, data)
        return [self.logged(value) for value in batch.records]
