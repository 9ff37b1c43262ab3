"""What a member of a cluster tells an operator: partitions, stores, the gateway's side; and whether it is well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.metrics import Registry, Sample
from gateway.server import Gateway
from streams.kafka.carried import Carried
from streams.kafka.engine import KafkaEngine
from streams.kafka.materializer import Materializer
from streams.kafka.status import MemberStatus, PartitionStatus, StandbyStatus

STUCK_FOLD_MS: Final = 60_000
"""A fold that takes longer is stuck: liveness turns false."""
STUCK_LOOP_MS: Final = 120_000
"""A thread that was not seen to go round for longer is stuck; takeovers report as they go on."""

_PARTITIONS: Final[tuple[tuple[str, str, str, Callable[[PartitionStatus], float]], ...]] = (
    ("odradek_partition_position", "gauge", "Offset of the record folded last.", lambda p: p.position),
    ("odradek_partition_end_offset", "gauge", "Offset of the log's next record.", lambda p: p.end_offset),
    ("odradek_partition_lag", "gauge", "Records that wait to be folded.", lambda p: p.lag),
    ("odradek_partition_owned", "gauge", "1 once the partition is restored.", lambda p: p.state == "owned"),
    (
        "odradek_partition_stopped",
        "gauge",
        "1 while an operator has to see to the partition; readiness says why.",
        lambda p: p.state in ("refused", "halted", "leaving"),
    ),
    ("odradek_partition_folded_total", "counter", "Records folded.", lambda p: p.folded_total),
    (
        "odradek_partition_fold_seconds_total",
        "counter",
        "Seconds of folding.",
        lambda p: p.fold_seconds_total,
    ),
    ("odradek_partition_emitted_total", "counter", "Records emitted.", lambda p: p.emitted_total),
    ("odradek_partition_replied_total", "counter", "Replies sent.", lambda p: p.replied_total),
    ("odradek_partition_dead_letters_total", "counter", "Records set aside.", lambda p: p.dead_letters_total),
    ("odradek_partition_takeovers_total", "counter", "Takeovers.", lambda p: p.takeovers_total),
    ("odradek_restore_records_total", "counter", "Changelog records restored.", lambda p: p.restored_total),
    (
        "odradek_restore_remaining",
        "gauge",
        "Changelog offsets left to restore.",
        lambda p: p.restore_remaining,
    ),
    ("odradek_restore_seconds", "gauge", "Seconds that the last restore took.", lambda p: p.restore_seconds),
    (
        "odradek_takeover_seconds",
        "gauge",
        "Seconds the last takeover took, restore included.",
        lambda p: p.takeover_seconds,
    ),
    ("odradek_dirty_keys", "gauge", "Changed keys that are in no checkpoint.", lambda p: p.dirty_keys),
    ("odradek_checkpoint_offset", "gauge", "Offset of the last checkpoint.", lambda p: p.checkpoint_offset),
    ("odradek_checkpoint_rows", "gauge", "Rows of the last checkpoint.", lambda p: p.checkpoint_rows),
    ("odradek_checkpoint_bytes", "gauge", "Bytes of the last checkpoint.", lambda p: p.checkpoint_bytes),
    (
        "odradek_checkpoint_seconds",
        "gauge",
        "Seconds the last checkpoint took.",
        lambda p: p.checkpoint_seconds,
    ),
    ("odradek_checkpoints_total", "counter", "Checkpoints written.", lambda p: p.checkpoints_total),
    (
        "odradek_log_deleted_below",
        "gauge",
        "Offset below which records were deleted.",
        lambda p: p.deleted_below,
    ),
    (
        "odradek_tick_lateness_seconds",
        "gauge",
        "How late the last tick came.",
        lambda p: p.tick_lateness_ms / 1000,
    ),
)
_STANDBYS: Final[tuple[tuple[str, str, str, Callable[[StandbyStatus], float]], ...]] = (
    (
        "odradek_standby_following",
        "gauge",
        "1 once the copy has caught up.",
        lambda s: s.state == "following",
    ),
    ("odradek_standby_lag", "gauge", "Changelog offsets that are not in the copy.", lambda s: s.lag),
    ("odradek_standby_records_total", "counter", "Changelog records copied.", lambda s: s.records_total),
    (
        "odradek_standby_checkpoint_offset",
        "gauge",
        "Offset of the last checkpoint in the copy.",
        lambda s: s.checkpoint_offset,
    ),
)
_CARRIED: Final[tuple[tuple[str, str, str, Callable[[Materializer, Carried], float]], ...]] = (
    ("odradek_materializer_position", "gauge", "Last offset in the store.", lambda m, c: c.written_offset),
    (
        "odradek_materializer_lag",
        "gauge",
        "Records not in the store.",
        lambda m, c: c.end - c.written_offset - 1,
    ),
    (
        "odradek_materializer_lag_seconds",
        "gauge",
        "Age of what is not in it.",
        lambda m, c: m.lag_ms(c) / 1000,
    ),
)
_MATERIALIZERS: Final[tuple[tuple[str, str, str, Callable[[Materializer], float]], ...]] = (
    ("odradek_materializer_records_total", "counter", "Records read for the store.", lambda m: m.records),
    ("odradek_materializer_damaged_total", "counter", "Records set aside.", lambda m: m.damaged),
    ("odradek_materializer_halted", "gauge", "Partitions that must not go on.", lambda m: len(m.halted)),
    (
        "odradek_materializer_store_down",
        "gauge",
        "1 while the store is waited for.",
        lambda m: bool(m.store_error),
    ),
)
_ENGINE: Final[tuple[tuple[str, str, str, Callable[[KafkaEngine], float]], ...]] = (
    ("odradek_gateway_records_total", "counter", "Records appended.", lambda e: e.records),
    ("odradek_gateway_undelivered_total", "counter", "Records that no broker took.", lambda e: e.undelivered),
    ("odradek_gateway_strange_replies_total", "counter", "Replies to other gateways.", lambda e: e.strangers),
    ("odradek_gateway_former_replies_total", "counter", "Replies to an earlier epoch.", lambda e: e.former),
    ("odradek_gateway_damaged_replies_total", "counter", "Replies not decoded.", lambda e: e.damaged),
    ("odradek_gateway_inline_bytes", "gauge", "Events kept beside replies.", lambda e: e.inline.size_bytes),
)


def add_partitions(registry: Registry, statuses: Sequence[MemberStatus]) -> None:
    """Metrics of the partitions of all members of the process, and of their copies of others'."""

    def samples(read: Callable[[PartitionStatus], float]) -> Iterable[Sample]:
        for status in statuses:
            for number, partition in sorted(status.partitions.copy().items()):
                yield {"processor": partition.processor, "partition": str(number)}, float(read(partition))

    for name, kind, description, read in _PARTITIONS:
        registry.collected(name, kind, description, lambda read=read: samples(read))  # type: ignore[misc]

    def copies(read: Callable[[StandbyStatus], float]) -> Iterable[Sample]:
        for status in statuses:
            for number, copy in sorted(status.standbys.copy().items()):
                yield {"processor": copy.processor, "partition": str(number)}, float(read(copy))

    for name, kind, description, read_copy in _STANDBYS:
        registry.collected(name, kind, description, lambda read=read_copy: copies(read))  # type: ignore[misc]

    def age(partition: PartitionStatus) -> float:
        return (
            max(0.0, time.time() - partition.checkpoint_time_ms / 1000)
            if partition.checkpoint_time_ms
            else 0.0
        )

    registry.collected(
        "odradek_checkpoint_age_seconds", "gauge", "Age of the last checkpoint.", lambda: samples(age)
    )
    for name, description, attribute in (
        ("odradek_member_failures_total", "Ownerships that ended with an error.", "failures_total"),
        ("odradek_member_dropped_replies_total", "Replies without a place to go.", "dropped_replies_total"),
    ):
        registry.collected(
            name,
            "counter",
            description,
            lambda attribute=attribute: [({"role": s.role}, float(getattr(s, attribute))) for s in statuses],  # type: ignore[misc]
        )


def add_materializers(registry: Registry, materializers: Sequence[Materializer]) -> None:
    """Metrics of what carries topics into stores."""

    def carried(read: Callable[[Materializer, Carried], float]) -> Iterable[Sample]:
        for materializer in materializers:
            for number, one in sorted(materializer.partitions.items()):
                yield {"topic": materializer.topic, "partition": str(number)}, float(read(materializer, one))

    for name, kind, description, read in _CARRIED:
        registry.collected(name, kind, description, lambda read=read: carried(read))  # type: ignore[misc]
    for name, kind, description, read_all in _MATERIALIZERS:
        registry.collected(
            name,
            kind,
            description,
            lambda read=read_all: [({"topic": m.topic}, float(read(m))) for m in materializers],  # type: ignore[misc]
        )


def add_gateway(registry: Registry, engine: KafkaEngine, gateway: Gateway) -> None:
    """Metrics of the gateway's side."""
    for name, kind, description, read in _ENGINE:
        registry.collected(name, kind, description, lambda read=read: [({}, float(read(engine)))])  # type: ignore[misc]
    registry.collected(
        "odradek_gateway_calls_in_flight",
        "gauge",
        "Calls that wait for a reply, polls among them.",
        lambda: [({}, float(gateway.calls_in_flight))],
    )
    registry.collected(
        "odradek_gateway_late_replies_total",
        "counter",
        "Replies that nobody awaited any more.",
        lambda: [({}, float(gateway.replies_not_awaited))],
    )
    registry.collected(
        "odradek_gateway_waiting_polls",
        "gauge",
        "Polls that wait for a task.",
        lambda: [({}, float(gateway.waiting_polls))],
    )


def why_stuck(status: MemberStatus, now_ms: int) -> str:
    """Why a member is not alive, empty when it is."""
    since_ms = status.folding_since_ms
    if since_ms and now_ms - since_ms > STUCK_FOLD_MS:
        return f"{status.role}: a fold has taken {now_ms - since_ms} ms so far"
    if status.loop_time_ms and now_ms - status.loop_time_ms > STUCK_LOOP_MS:
        return f"{status.role}: its thread was last seen {now_ms - status.loop_time_ms} ms ago"
    return ""


def why_materializer_stuck(materializer: Materializer) -> str:
    """Why a materializer is not alive, empty when it is. One that waits for its store is."""
    silent_s = time.monotonic() - materializer.beat_s
    if silent_s * 1000 > STUCK_LOOP_MS:
        return f"materializer of {materializer.topic}: its thread was last seen {silent_s:.0f} s ago"
    return ""


def why_materializer_not_ready(materializer: Materializer) -> str:
    """Why a materializer does not read all that it has been given, empty when it does."""
    for number, reason in sorted(materializer.halted.copy().items()):
        return f"materializer of {materializer.topic}: partition {number} is halted. {reason}"
    return ""


def why_not_ready(status: MemberStatus) -> str:
    """Why a member does not own all that it has been given, empty when it does."""
    if not status.joined:
        return f"{status.role}: not yet in its group"
    for number, partition in sorted(status.partitions.copy().items()):
        if partition.state != "owned":
            return f"{status.role}: partition {number} is {partition.state}. {partition.reason}".rstrip(". ")
    return ""
