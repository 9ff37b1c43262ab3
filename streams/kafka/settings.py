"""Settings of everything that talks to Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from streams import topology
from streams.kafka.names import ALL_TOPICS, CHANGELOGS

RECORD_MAX_BYTES: Final = 8 * 1024 * 1024
"""No record exceeds this; topics, producers and fetchers are set to it (fold.md rule 8)."""

_INSTEAD: Final = {
    "bootstrap.servers": "brokers",
    "metadata.broker.list": "brokers",
    "group.protocol": "group_protocol",
    "session.timeout.ms": "session_timeout_ms",
    "transaction.timeout.ms": "transaction_timeout_ms",
}
"""Properties of librdkafka that are set by another name."""
_OWN: Final = frozenset(
    {
        "acks",
        "auto.commit.enable",
        "auto.offset.reset",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "heartbeat.interval.ms",
        "isolation.level",
        "message.timeout.ms",
        "partition.assignment.strategy",
        "partitioner",
        "request.required.acks",
        "transactional.id",
    }
)
"""Those that keep records from being lost, doubled or passed over (fold.md rules 3, 11 and 15): not to be set."""


def _settable(name: str) -> str:
    if name in _INSTEAD:
        raise ValueError(f"it is set by kafka.{_INSTEAD[name]}")
    if name in _OWN:
        raise ValueError("it is the engine's own and cannot be set")
    return name


_Properties = dict[Annotated[str, AfterValidator(_settable)], str]
_Count = Annotated[int, Field(ge=1)]
_Milliseconds = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TopicSettings(_Section):
    """What one topic has otherwise than the rest: None stands for the common value."""

    partitions: _Count | None = None
    replication: _Count | None = None
    configs: dict[str, str] = {}


class KafkaSettings(_Section):
    """The cluster, the topics, and how owners work on them.

    `properties` go to every librdkafka client as they are (security, addresses); `producer_properties` and
    `consumer_properties` to those alone; what is the engine's own is refused. `topics` are by name without prefix.
    """

    brokers: str = "127.0.0.1:9092"
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=150)] = "odradek"
    partitions: _Count = 8
    replication: _Count = 3
    topics: dict[str, TopicSettings] = {}
    properties: _Properties = {}
    producer_properties: _Properties = {}
    consumer_properties: _Properties = {}
    state_directory: Path = Path("odradek-state")
    member_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=150)] = ""
    """What this process is called in its groups, start after start; empty: the host's name and the process id."""
    standbys: Annotated[int, Field(ge=0)] = 0
    """Members that keep a copy of each partition's tables beside the owner (num.standby.replicas of Kafka Streams)."""
    group_protocol: Literal["auto", "consumer", "classic"] = "auto"
    """"auto": the one of KIP-848 where the brokers offer it, else the classic one."""
    session_timeout_ms: _Milliseconds = 6_000
    """How long a dead owner keeps its partitions. With KIP-848 brokers have it, by group: `topics apply` sets it."""
    checkpoint_age_ms: _Milliseconds = 1_000
    checkpoint_keys: _Count = 5_000
    """Changed keys that a checkpoint is written at, whatever its age."""
    checkpoint_records: _Count = 20_000
    """Folded records that a checkpoint is written at, whatever its age."""
    transaction_timeout_ms: _Milliseconds = 60_000
    cache_parts: _Count = 20_000
    """Parts of clean entities that each table of a partition keeps in memory."""
    block_cache_bytes: _Count = 64 * 1024 * 1024
    """Memory of a process for blocks of its RocksDB stores."""
    pass_over: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+/\d+@\d+$")], ...] = ()
    """Damaged records in topics of our own that are left out, each as `topic/partition@offset`: what they held is
    missing from then on. Whoever meets one says so, and stops there until he is told."""
    delete_records: bool = True
    """Whether owners delete the records that nobody needs any more."""
    safety_span: Annotated[int, Field(ge=0)] = 10_000
    """Records below what is needed that stay in each partition of a log."""
    history_feed_ms: Annotated[int, Field(ge=0)] = 7 * 24 * 3600 * 1000
    """How long records of `history` stay for those who follow it, once they are in the store."""

    @field_validator("topics")
    @classmethod
    def _known(cls, value: dict[str, TopicSettings]) -> dict[str, TopicSettings]:
        for name in value:
            if name not in ALL_TOPICS:
                raise ValueError(f"there is no topic {name!r}; the topics are {', '.join(ALL_TOPICS)}")
        for changelog, input_topic in CHANGELOGS.items():
            if changelog in value and value[changelog].partitions is not None:
                raise ValueError(f"{changelog} has the partitions of {input_topic}: set those")
        return value

    def partitions_of(self, name: str) -> int:
        """How many partitions a topic (its name without prefix) is to have."""
        name = CHANGELOGS.get(name, name)
        own = self.topics.get(name)
        if own is not None and own.partitions is not None:
            return own.partitions
        return 1 if name in (topology.REGISTRY, topology.DEAD_LETTERS) else self.partitions

    def replication_of(self, name: str) -> int:
        """How many replicas a topic is to have."""
        own = self.topics.get(name)
        return self.replication if own is None or own.replication is None else own.replication

    @property
    def heartbeat_interval_ms(self) -> int:
        """How often members tell their group that they live, and hear what it has for them."""
        return max(1, self.session_timeout_ms // 12)

    def passed_over(self, topic: str, partition: int) -> frozenset[int]:
        """The offsets in `pass_over` of a partition; `topic` is the name on the cluster."""
        named = (record.split("@") for record in self.pass_over)
        return frozenset(int(offset) for where, offset in named if where == f"{topic}/{partition}")

    def client(self) -> dict[str, str | int | float | bool]:
        """What every librdkafka client gets."""
        return {"bootstrap.servers": self.brokers, "socket.nagle.disable": True, **self.properties}

    def producer(self) -> dict[str, str | int | float | bool]:
        """What a producer of records gets (fold.md rule 11)."""
        return {
            **self.client(),
            "linger.ms": 0,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 256 * 1024,
            "message.max.bytes": RECORD_MAX_BYTES,
            **self.producer_properties,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": 0,
        }

    def consumer(self, defaults: Mapping[str, int] | None = None) -> dict[str, str | int | float | bool]:
        """What a consumer gets: no offset is ever guessed (rule 3), none stored on its own.

        `defaults` are those of this consumer; `consumer_properties` go before them as before all others.
        """
        return {
            **self.client(),
            # A partition that is assigned waits for so long to be read; every wait that ends empty costs a request.
            "fetch.wait.max.ms": 100,
            "fetch.min.bytes": 1,
            "fetch.queue.backoff.ms": 10,
            "queued.min.messages": 10_000,
            "queued.max.messages.kbytes": 32 * 1024,
            "message.max.bytes": RECORD_MAX_BYTES,
            "fetch.message.max.bytes": RECORD_MAX_BYTES,
            "fetch.max.bytes": 4 * RECORD_MAX_BYTES,
            **(defaults or {}),
            **self.consumer_properties,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
        }
