"""What refolds emitted, kept on disk, to be laid beside what the topics hold of it.

Owners may have appended a record several times, each time with the same origin: all of them have to be what the fold
emits, byte for byte, and nothing that it emits may be missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

from confluent_kafka import Message
from rocksdict import Options, Rdict

from streams import topology
from streams.kafka import keys, wire
from streams.kafka.log import Reader
from streams.runtime.codec import Codec
from streams.runtime.records import Record, Tick

COMPACTED: Final = (topology.VISIBILITY, topology.REGISTRY)
"""Topics that do not keep every record."""

_ORIGIN: Final = struct.Struct(">qi")
_DIGEST_BYTES: Final = 16
_MISSING, _SEEN = b"-", b"+"


class Emissions:
    """Belongs to one thread. `folded` says how far each source was refolded: its last offset, by its name."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = Rdict(str(folder), options)
        self._codec = codec
        self.folded: dict[str, int] = {}

    def add(self, record: Record) -> None:
        """A fold emitted this."""
        value = wire.value_of(self._codec, record)
        self._db[_name(record)] = _MISSING + _digest(record.key.encode(), value)

    def differences(self, reader: Reader, name: str, topic: str, partitions: int) -> Iterator[str]:
        """What is wrong with a topic, as far as it comes from refolded sources: a sentence for each record.

        `name` is the topic's without prefix. Raises ReadError.
        """
        for number in range(partitions):
            start = reader.start_offset(topic, number)
            for batch in reader.read(topic, number, start):
                for message in batch:
                    yield from self._check(name, message)
            if name not in COMPACTED and start == 0:
                yield from self._lost(name, number)

    def _check(self, name: str, message: Message) -> Iterator[str]:
        record = wire.record_of(self._codec, name, message)
        until = self.folded.get(record.source)
        if until is None or record.origin_offset > until or isinstance(record.body, Tick):
            return
        key = _name(record)
        emitted = self._db.get(key)
        if emitted is None:
            yield f"{record!r} is there and was never emitted"
        elif emitted[1:] != _digest(message.key() or b"", wire.envelope_of(message)):
            yield f"{record!r} is not what the fold emits"
        elif emitted[:1] == _MISSING:
            self._db[key] = _SEEN + emitted[1:]

    def _lost(self, name: str, number: int) -> Iterator[str]:
        prefix = _channel(name, number)
        entries = self._db.iter()
        entries.seek(prefix)
        while entries.valid() and entries.key().startswith(prefix):
            if entries.value()[:1] == _MISSING:
                (source,) = keys.parts(b"s" + entries.key()[len(prefix) : -_ORIGIN.size])
                offset, index = _ORIGIN.unpack(entries.key()[-_ORIGIN.size :])
                yield f"what {source} emitted as {offset}.{index} is missing in {name}/{number}"
            entries.next()
        entries.status()

    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()


def _channel(name: str, number: int) -> bytes:
    return keys.part(f"{name}/{number}")


def _name(record: Record) -> bytes:
    origin = _ORIGIN.pack(record.origin_offset, record.index)
    return _channel(record.topic, record.partition) + keys.part(record.source) + origin


def _digest(key: bytes, value: bytes) -> bytes:
    return blake2b(keys.ROW + len(key).to_bytes(4) + key + value, digest_size=_DIGEST_BYTES).digest()
