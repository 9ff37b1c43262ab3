"""The gateway's side of the engine on a real broker; the tests play the owners."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from deploy.local.kafka import KafkaCluster
from streams import avro, topology
from streams.bodies import (
    Call,
    GatewayLease,
    LimitsChanged,
    NamespaceCall,
    NamespaceChanged,
    NamespaceConfig,
    NumberPair,
    ReplyRecord,
)
from streams.kafka.admin import Cluster
from streams.kafka.engine import LEASE_MS, KafkaEngine
from streams.kafka.names import REPLIES, Names
from streams.kafka.registry import RegistryFollower
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import record_of, value_of
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.records import Correlation, Record, Reply
from streams.stores.damage import StoreError
from tests.support.cluster_server import wait_until

CODEC = Codec(BODY_TYPES)
PARTITIONS = 3
REPLY_PARTITION = 1


class Events:
    """A history store of one run, which grows when a test says so."""

    def __init__(self) -> None:
        self.last = 0

    async def read(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        return [(number, b"stored") for number in range(first_event_id, min(last_event_id, self.last) + 1)]

    async def read_reverse(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        raise NotImplementedError


class Owners:
    """What owners do: they read records, and send replies and changes of namespaces."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._names = Names(settings.prefix)
        self._producer = Producer(settings.producer())

    def read(self, topic: str) -> list[Record]:
        """Every record of a topic."""
        consumer = Consumer({**self._settings.consumer(), "group.id": "test", "enable.partition.eof": True})
        name = self._names.topic(topic)
        consumer.assign([TopicPartition(name, number, 0) for number in range(PARTITIONS)])
        records: list[Record] = []
        ends = 0
        while ends < PARTITIONS:
            message = consumer.poll(10)
            assert message is not None
            if message.error() is None:
                records.append(record_of(CODEC, topic, message))
            else:
                ends += 1
        consumer.close()
        return records

    def reply(self, reply: ReplyRecord, partition: int = REPLY_PARTITION) -> None:
        """Send a reply, and return once it is in the log."""
        self._producer.produce(
            self._names.topic(REPLIES), avro.encode(reply), reply.gateway.encode(), partition
        )
        assert self._producer.flush(20) == 0

    def send_raw(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Send anything."""
        self._producer.produce(self._names.topic(topic), value, key, partition)
        assert self._producer.flush(20) == 0

    def register(self, name: str, offset: int) -> None:
        """Have a namespace."""
        change = NamespaceChanged(NamespaceConfig(name, f"id-{name}", 1, 3_600_000))
        record = Record(
            topology.REGISTRY,
            0,
            f"namespace/{name}",
            change,
            source="commands/0@id",
            origin_offset=offset,
        )
        self._producer.produce(
            self._names.topic(topology.REGISTRY), value_of(CODEC, record), record.key.encode(), 0
        )
        assert self._producer.flush(20) == 0


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str) -> KafkaSettings:
    """Topics of this test."""
    settings = KafkaSettings(
        brokers=broker.bootstrap_servers, prefix=topic_prefix, partitions=PARTITIONS, replication=1
    )
    Cluster(settings).apply()
    return settings


@pytest.fixture
def owners(settings: KafkaSettings) -> Owners:
    """Those on the other side."""
    return Owners(settings)


@pytest.fixture
def registry(settings: KafkaSettings) -> Iterator[RegistryFollower]:
    """The namespaces, followed."""
    failures: list[Exception] = []
    follower = RegistryFollower(settings, CODEC, failures.append)
    follower.start()
    yield follower
    follower.stop()
    assert not failures


@pytest.fixture
def events() -> Events:
    """An empty history store."""
    return Events()


@pytest.fixture
async def engine(
    settings: KafkaSettings, registry: RegistryFollower, events: Events
) -> AsyncIterator[KafkaEngine]:
    """The engine, started."""
    failures: list[BaseException] = []
    engine = KafkaEngine(
        settings,
        "here",
        CODEC,
        registry,
        events,
        on_failure=failures.append,
        reply_partition=REPLY_PARTITION,
        delivery_timeout_ms=1_500,
    )
    await engine.start()
    yield engine
    await engine.stop()
    assert not failures


class Gateway:
    """Takes replies."""

    def __init__(self, engine: KafkaEngine) -> None:
        self.address = engine.address
        self.replies: asyncio.Queue[tuple[int, Reply]] = asyncio.Queue()
        self.epoch = engine.attach_gateway(
            engine.address, lambda id, reply: self.replies.put_nowait((id, reply))
        )

    async def reply(self) -> tuple[int, Reply]:
        """The next one."""
        return await asyncio.wait_for(self.replies.get(), 20)

    def correlation(self, id: int) -> Correlation:
        """Of a call."""
        return Correlation(self.address, self.epoch, id)


@pytest.fixture
def gateway(engine: KafkaEngine) -> Gateway:
    """A gateway of the engine."""
    return Gateway(engine)


def a_call(workflow_id: str) -> Call:
    return Call("SignalWorkflowExecution", "default", workflow_id, "", b"request")


async def test_records_lie_where_owners_look_for_them(
    engine: KafkaEngine, gateway: Gateway, owners: Owners
) -> None:
    ids = [f"id-{number}-é" for number in range(20)]
    for number, workflow_id in enumerate(ids):
        key = topology.workflow_key("default", workflow_id)
        engine.append(topology.COMMANDS, key, a_call(workflow_id), gateway.correlation(number))
    engine.append(topology.COMMANDS, topology.REGISTRY_KEY, LimitsChanged((NumberPair("a", 1),)))
    await engine.stop()
    records = owners.read(topology.COMMANDS)
    calls = [record for record in records if isinstance(record.body, Call)]
    assert {record.body.workflow_id for record in calls} == set(ids)
    for record in records:
        assert (record.source, record.origin_epoch) == (gateway.address, gateway.epoch)
    for record in calls:
        assert record.partition == topology.partition_of(record.key, PARTITIONS)
        assert record.correlation == gateway.correlation(ids.index(record.body.workflow_id))
    limits = [record.partition for record in records if isinstance(record.body, LimitsChanged)]
    assert sorted(limits) == list(range(PARTITIONS))
    by_partition: dict[int, list[int]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record.origin_offset)
    assert all(offsets == sorted(set(offsets)) for offsets in by_partition.values())


async def test_rule_19_a_gateway_tells_every_queue_that_it_lives_and_that_it_leaves(
    engine: KafkaEngine, gateway: Gateway, owners: Owners
) -> None:
    began_ms = time.time_ns() // 1_000_000
    await engine.stop()
    leases: dict[int, list[GatewayLease]] = {}
    for record in owners.read(topology.TASKS):
        leases.setdefault(record.partition, []).append(record.body)
    assert sorted(leases) == list(range(PARTITIONS))
    for first, *_, last in leases.values():
        assert (first.gateway, first.epoch) == (gateway.address, gateway.epoch)
        assert began_ms + LEASE_MS - 5_000 < first.expires_ms <= began_ms + LEASE_MS + 5_000
        assert last == GatewayLease(gateway.address, gateway.epoch, 1)


async def test_rule_18_replies_to_others_and_to_earlier_epochs_are_counted_and_dropped(
    engine: KafkaEngine, gateway: Gateway, owners: Owners
) -> None:
    owners.reply(ReplyRecord("there@1", gateway.epoch, 1, body=b"not mine"))
    owners.reply(ReplyRecord(gateway.address, gateway.epoch - 1, 1, body=b"no more"))
    owners.reply(ReplyRecord(gateway.address, gateway.epoch, 1, body=b"mine"))
    assert await gateway.reply() == (1, Reply(body=b"mine"))
    assert (engine.strangers, engine.former, engine.damaged) == (1, 1, 0)


async def test_rule_18_a_damaged_reply_is_counted_and_dropped(
    engine: KafkaEngine, gateway: Gateway, owners: Owners
) -> None:
    owners.send_raw(REPLIES, REPLY_PARTITION, gateway.address.encode(), b"\xff")
    owners.send_raw(REPLIES, REPLY_PARTITION, gateway.address.encode(), None)
    owners.reply(ReplyRecord(gateway.address, gateway.epoch, 1, body=b"mine"))
    assert await gateway.reply() == (1, Reply(body=b"mine"))
    assert (engine.strangers, engine.damaged) == (0, 2)


async def test_rule_18_a_gateway_is_unready_while_its_replies_have_no_leader(
    engine: KafkaEngine, gateway: Gateway, owners: Owners, broker: KafkaCluster
) -> None:
    assert engine.is_ready
    broker.kill()
    await asyncio.to_thread(wait_until, lambda: not engine.is_ready)
    broker.start()
    await asyncio.to_thread(wait_until, lambda: engine.is_ready)
    owners.reply(ReplyRecord(gateway.address, gateway.epoch, 1, body=b"late"))
    assert await gateway.reply() == (1, Reply(body=b"late"))


async def test_rule_18_a_reply_from_before_the_start_is_not_read(
    settings: KafkaSettings, registry: RegistryFollower, events: Events, owners: Owners
) -> None:
    address = f"here@{REPLY_PARTITION}"
    owners.reply(ReplyRecord(address, 1, 1, body=b"old"))
    engine = KafkaEngine(
        settings, "here", CODEC, registry, events, on_failure=print, reply_partition=REPLY_PARTITION
    )
    await engine.start()
    gateway = Gateway(engine)
    owners.reply(ReplyRecord(address, gateway.epoch, 1, body=b"new"))
    assert await gateway.reply() == (1, Reply(body=b"new"))
    await engine.stop()
    assert engine.former == 0


async def test_rule_21_events_beside_a_reply_join_those_in_the_store(
    engine: KafkaEngine, gateway: Gateway, events: Events, owners: Owners
) -> None:
    beside = tuple(b"inline" for _ in range(3))
    owners.reply(
        ReplyRecord(
            gateway.address,
            gateway.epoch,
            1,
            attach_run="run",
            attach_first=1,
            attach_last=5,
            events_first_id=3,
            events=beside,
        )
    )
    assert await gateway.reply() == (1, Reply(attach_run="run", attach_first=1, attach_last=5))
    assert await engine.read_events("run", 3, 5, 1_000) == [(3, b"inline"), (4, b"inline"), (5, b"inline")]
    reading = asyncio.create_task(engine.read_events("run", 1, 5, 1_000))
    await asyncio.sleep(0)
    events.last = 2
    assert await reading == [(1, b"stored"), (2, b"stored"), (3, b"inline"), (4, b"inline"), (5, b"inline")]


async def test_rule_21_events_that_do_not_come_are_said_to_be_missing(
    engine: KafkaEngine, gateway: Gateway, events: Events
) -> None:
    with pytest.raises(StoreError, match="event 1 of run run has not reached"):
        await engine.read_events("run", 1, 5, 1_000)
    events.last = 2
    assert await engine.read_events("run", 1, 5, 1_000) == [(1, b"stored"), (2, b"stored")]


async def test_a_changed_namespace_is_seen_by_whoever_changed_it(
    engine: KafkaEngine, gateway: Gateway, owners: Owners
) -> None:

    call = NamespaceCall("RegisterNamespace", "new", b"", "id")
    engine.append(topology.COMMANDS, topology.REGISTRY_KEY, call, gateway.correlation(1))
    owners.reply(ReplyRecord(gateway.address, gateway.epoch, 1))
    owners.register("new", 7)
    await gateway.reply()
    assert "new" in engine.namespaces


async def test_a_call_whose_record_no_broker_takes_is_unavailable(
    engine: KafkaEngine, gateway: Gateway, broker: KafkaCluster
) -> None:
    broker.kill()
    engine.append(topology.COMMANDS, "default/w", a_call("w"), gateway.correlation(1))
    id, reply = await gateway.reply()
    assert (id, reply.code) == (1, 14)
    assert "could not be written to the log" in reply.message
    broker.start()
    engine.append(topology.COMMANDS, "default/w", a_call("w"), gateway.correlation(2))
