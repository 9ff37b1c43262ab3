"""Events that are in no store yet, read from their topic: contiguous pages, or none (fold.md rule 21)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest
from confluent_kafka import Producer

from deploy.local.kafka import KafkaCluster
from streams import topology
from streams.bodies import HistoryBatch
from streams.kafka.admin import Cluster
from streams.kafka.engine import KafkaEngine
from streams.kafka.names import Names
from streams.kafka.registry import RegistryFollower
from streams.kafka.settings import KafkaSettings
from streams.kafka.topic_events import TopicEvents
from streams.kafka.wire import value_of
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.partition import Position
from streams.runtime.records import Record
from streams.stores.damage import StoreError

CODEC = Codec(BODY_TYPES)
PARTITIONS = 2
RUN = "7d1f0ac6-1a2b-4c3d-8e4f-5a6b7c8d9e0f"
ALL = 1_000_000


class Store:
    """A history store that has the first events of each run, and says how far the topic was written into it."""

    def __init__(self) -> None:
        self.last = 0
        self.held: dict[int, Position] = {}
        self.down = False

    def positions(self) -> Mapping[int, Position]:
        self._check()
        return dict(self.held)

    async def read(self, run_id: str, first: int, last: int, max_bytes: int) -> list[tuple[int, bytes]]:
        self._check()
        return [(number, b"stored") for number in range(first, min(last, self.last) + 1)]

    async def read_reverse(
        self, run_id: str, first: int, last: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        raise NotImplementedError

    def _check(self) -> None:
        if self.down:
            raise StoreError("it is down")


class History:
    """The topic."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = Names(settings.prefix).topic(topology.HISTORY)
        self._producer = Producer(settings.producer())

    def send(self, first: int, last: int, run_id: str = RUN, partition: int = 1) -> None:
        """A batch of events."""
        events = tuple(b"event-%d" % number for number in range(first, last + 1))
        body = HistoryBatch("default", "w", run_id, first, last, 1, events)
        record = Record(
            topology.HISTORY, partition, "default/w", body, source="commands/0@id", origin_offset=1
        )
        self._producer.produce(self._topic, value_of(CODEC, record), b"default/w", partition)
        assert self._producer.flush(20) == 0

    def send_raw(self, value: bytes) -> None:
        """What is no record."""
        self._producer.produce(self._topic, value, b"default/w", 1)
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
def history(settings: KafkaSettings) -> History:
    """An empty topic."""
    return History(settings)


@pytest.fixture
def store() -> Store:
    """A store that is empty, and behind."""
    return Store()


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
async def engine(
    settings: KafkaSettings, registry: RegistryFollower, store: Store
) -> AsyncIterator[KafkaEngine]:
    """An engine over the store and the topic."""
    failures: list[BaseException] = []
    unstored = TopicEvents(settings, CODEC, store.positions)
    engine = KafkaEngine(
        settings, "here", CODEC, registry, store, on_failure=failures.append, unstored=unstored
    )
    await engine.start()
    yield engine
    await engine.stop()
    assert not failures


def sent(first: int, last: int) -> list[tuple[int, bytes]]:
    return [(number, b"event-%d" % number) for number in range(first, last + 1)]


def stored(first: int, last: int) -> list[tuple[int, bytes]]:
    return [(number, b"stored") for number in range(first, last + 1)]


async def test_rule_21_what_no_store_has_is_read_from_the_topic_between_the_store_and_the_owner(
    engine: KafkaEngine, store: Store, history: History
) -> None:
    history.send(1, 3)
    history.send(1, 9, run_id="another")
    history.send_raw(b"\xff of " + RUN.encode())
    history.send(4, 6)
    history.send(4, 6)  # what is sent again is the same
    history.send(7, 8)
    store.last, store.held = 3, {1: Position(0, 1)}
    engine.inline.add(RUN, 8, [b"inline"])
    found = await engine.read_events(RUN, 1, 8, ALL)
    assert found == [*stored(1, 3), *sent(4, 7), (8, b"inline")]
    assert await engine.read_events(RUN, 5, 6, ALL) == sent(5, 6)


async def test_rule_21_pages_are_as_large_as_asked_for(
    engine: KafkaEngine, store: Store, history: History
) -> None:
    history.send(1, 6)
    size = len(b"event-1")
    assert await engine.read_events(RUN, 1, 6, 2 * size) == sent(1, 2)
    assert await engine.read_events(RUN, 3, 6, 1) == sent(3, 3)
    store.last = 2
    assert await engine.read_events(RUN, 1, 6, 2 * len(b"stored") + size) == [*stored(1, 2), *sent(3, 3)]


async def test_rule_21_what_waits_behind_a_gap_of_the_store_is_read(
    engine: KafkaEngine, store: Store, history: History
) -> None:
    history.send(1, 2)
    history.send(1, 1, run_id="another")
    store.held = {0: Position(-1, 0), 1: Position(1, 1, parked=(0,))}
    assert await engine.read_events(RUN, 1, 2, ALL) == sent(1, 2)


async def test_rule_21_a_gap_in_the_topic_ends_the_page(
    engine: KafkaEngine, store: Store, history: History
) -> None:
    history.send(1, 2)
    history.send(4, 5)
    assert await engine.read_events(RUN, 1, 5, ALL) == sent(1, 2)
    with pytest.raises(StoreError, match="event 3 of run .* has not reached the history store yet"):
        await engine.read_events(RUN, 3, 5, ALL)


async def test_rule_21_runs_begun_since_a_store_went_down_are_read_all_the_same(
    engine: KafkaEngine, store: Store, history: History
) -> None:
    history.send(1, 2, run_id="former")
    history.send(1, 4)
    store.held = {1: Position(0, 1)}
    store.last = 2
    assert await engine.read_events(RUN, 3, 4, ALL) == sent(3, 4)
    store.down = True
    history.send(5, 5)
    assert await engine.read_events(RUN, 1, 5, ALL) == sent(1, 5)
    with pytest.raises(StoreError, match="it is down"):
        await engine.read_events("former", 1, 2, ALL)


async def test_a_store_that_is_down_from_the_start_is_said_to_be_so(
    engine: KafkaEngine, store: Store, history: History
) -> None:
    history.send(1, 1)
    store.down = True
    with pytest.raises(StoreError, match="it is down"):
        await engine.read_events(RUN, 1, 1, ALL)


async def test_rule_8_a_store_too_far_behind_is_not_made_up_for(
    engine: KafkaEngine, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.kafka.topic_events.RECORDS_LIMIT", 3)
    for number in range(1, 5):
        history.send(number, number)
    with pytest.raises(StoreError, match="event 1 of run .* has not reached the history store yet"):
        await engine.read_events(RUN, 1, 4, ALL)


async def test_those_who_ask_together_are_served_together(
    settings: KafkaSettings, store: Store, history: History
) -> None:
    runs = [f"run-{number:03}" for number in range(30)]
    for number, run_id in enumerate(runs):
        history.send(1, 2, run_id=run_id, partition=number % PARTITIONS)
    unstored = TopicEvents(settings, CODEC, store.positions)
    reads = [unstored.read(run_id, 1, 2, ALL) for run_id in runs]
    for events, complete in await asyncio.gather(*reads):
        assert (events, complete) == (sent(1, 2), True)
    assert unstored.scans <= 2
    await asyncio.to_thread(unstored.stop)
