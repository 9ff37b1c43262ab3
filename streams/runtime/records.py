"""What travels through a log: records, their origins and the emissions that become records."""

from __future__ import annotations

from typing import Any

import msgspec


class Correlation(msgspec.Struct, frozen=True):
    """Where a reply goes: the gateway, its epoch (start time in ms) and the call's number in that epoch."""

    gateway: str
    epoch: int
    id: int


class Tick(msgspec.Struct, frozen=True):
    """Time passing: the record's own append time is the content. Appended by a partition's owner."""


class Undecodable(msgspec.Struct, frozen=True):
    """What stands in for a body whose bytes could not be decoded."""

    type: str
    reason: str
    data: bytes


class UnknownType(Undecodable, frozen=True):
    """What stands in for a body of a type that this code does not know: a newer release wrote it."""


class Reply(msgspec.Struct, frozen=True):
    """An answer to one call of a gateway.

    `body` is the encoded API response when `code` is 0, else encoded status details (google.rpc.Status
    details, may be empty) and `message` is the sentence for the caller. `attach_run`, when set, names the run
    whose events `attach_first`..`attach_last` belong into the answer: they travel beside it, from the owner's
    recent events or the history store, because they need not be part of what a refold reproduces. `held` are the run's
    last events, from `held_first_id` on, while no record has told of them: they are part of its state.
    """

    code: int = 0
    message: str = ""
    body: bytes = b""
    attach_run: str = ""
    attach_first: int = 0
    attach_last: int = 0
    kind: str = ""
    held_first_id: int = 0
    held: tuple[bytes, ...] = ()


class Record:
    """One record of a log partition, as its processor sees it.

    `source`/`origin_epoch`/`origin_offset`/`index` are the origin: the partition (or gateway) that emitted it,
    the offset (or sequence) it was emitted for and its index among that step's emissions. `previous_offset` and
    `previous_index` name the emission before it on the same channel; -1 where there is none, and for gateways,
    whose records carry no chain.
    """

    __slots__ = (
        "body",
        "correlation",
        "index",
        "key",
        "offset",
        "origin_epoch",
        "origin_offset",
        "partition",
        "previous_index",
        "previous_offset",
        "source",
        "time_ms",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        key: str,
        body: Any,
        *,
        source: str,
        origin_offset: int,
        index: int = 0,
        origin_epoch: int = 0,
        previous_offset: int = -1,
        previous_index: int = -1,
        correlation: Correlation | None = None,
        offset: int = -1,
        time_ms: int = 0,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.key = key
        self.body = body
        self.source = source
        self.origin_epoch = origin_epoch
        self.origin_offset = origin_offset
        self.index = index
        self.previous_offset = previous_offset
        self.previous_index = previous_index
        self.correlation = correlation
        self.offset = offset
        self.time_ms = time_ms

    @property
    def channel(self) -> str:
        """The destination half of the channel: topic and partition."""
        return f"{self.topic}/{self.partition}"

    @property
    def from_gateway(self) -> bool:
        """Whether a gateway appended it: de-duplicated by epoch and sequence, without a chain."""
        return self.origin_epoch != 0

    def copy(self, *, offset: int, time_ms: int) -> Record:
        """The same record as appended at another place of the log."""
        return Record(
            self.topic,
            self.partition,
            self.key,
            self.body,
            source=self.source,
            origin_offset=self.origin_offset,
            index=self.index,
            origin_epoch=self.origin_epoch,
            previous_offset=self.previous_offset,
            previous_index=self.previous_index,
            correlation=self.correlation,
            offset=offset,
            time_ms=time_ms,
        )

    def __repr__(self) -> str:
        name = type(self.body).__name__
        where = f"{self.topic}/{self.partition}@{self.offset}"
        return f"<{name} {where} key={self.key} from {self.source}:{self.origin_offset}.{self.index}>"
