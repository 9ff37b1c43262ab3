"""Records as bytes: Avro bodies, in an Avro envelope or in a batch of the embedded log."""

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
    """A record with its place in a log."""

    topic: str
    partition: int
    offset: int
    time_ms: int
    key: str
    value: Envelope


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a batch says of each record, in this order."""

    topic: str
    partition: int
    offset: int
    time_ms: int
    key: str
    type: str
    source: str
    origin_epoch: int
    origin_offset: int
    index: int
    previous_offset: int
    previous_index: int
    correlation: tuple[str, int, int] | None
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Entry]).decode


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
            self._body(value.type, value.body),
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

    def _body(self, type: str, data: bytes) -> msgspec.Struct:
        cls = self._types.get(type)
        if cls is None:
            return UnknownType(type, f"unknown record type {type!r}", data)
        try:
            return avro.decode(cls, data)
        except avro.DecodeError as error:
            return Undecodable(type, str(error), data)

    def to_logged(self, record: Record) -> LoggedRecord:
        """A record with its place, as a struct."""
        return LoggedRecord(
            record.topic, record.partition, record.offset, record.time_ms, record.key, self.envelope(record)
        )

    def logged(self, value: LoggedRecord) -> Record:
        """The record in such a struct."""
        return self.record(value.topic, value.partition, value.offset, value.time_ms, value.key, value.value)

    def encode_batch(self, records: Sequence[Record]) -> bytes:
        """A batch of the embedded log: records that commit together, in order (decision 0007)."""
        return _encode([self._entry(record) for record in records])

    def _entry(self, record: Record) -> tuple[object, ...]:
        correlation, body = record.correlation, record.body
        return (
            record.topic,
            record.partition,
            record.offset,
            record.time_ms,
            record.key,
            body.type if isinstance(body, Undecodable) else type(body).__name__,
            record.source,
            record.origin_epoch,
            record.origin_offset,
            record.index,
            record.previous_offset,
            record.previous_index,
            correlation and (correlation.gateway, correlation.epoch, correlation.id),
            body.data if isinstance(body, Undecodable) else avro.encode(body),
        )

    def decode_batch(self, data: bytes) -> list[Record]:
        """The records of a batch; bodies that cannot be decoded become Undecodable. Raises avro.DecodeError."""
        try:
            entries = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise avro.DecodeError(f"not a batch of records: {error}") from error
        return [
            Record(
                entry.topic,
                entry.partition,
                entry.key,
                self._body(entry.type, entry.body),
                source=entry.source,
                origin_epoch=entry.origin_epoch,
                origin_offset=entry.origin_offset,
                index=entry.index,
                previous_offset=entry.previous_offset,
                previous_index=entry.previous_index,
                correlation=None if entry.correlation is None else Correlation(*entry.correlation),
                offset=entry.offset,
                time_ms=entry.time_ms,
            )
            for entry in entries
        ]
