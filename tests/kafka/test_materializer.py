"""Topics on their way into stores: once and in order, whatever is repeated, missing, down or gone (rule 22)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local.kafka import KafkaCluster
from streams.bodies import HistoryBatch, RunDeleted
from streams.kafka.admin import Cluster
from streams.kafka.materializer import Materializer
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import value_of
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.partition import Position
from streams.runtime.records import Record
from streams.runtime.takeover import TakeoverRefusedError
from streams.stores.damage import StoreError
from streams.topology import HISTORY
from tests.support.cluster_server import wait_until

CODEC = Codec(BODY_TYPES)
SOURCE = "commands/0@id"


class Store:
    """What several sinks, one after the other, write to; it may be down."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.held: dict[int, Position] = {}
        self.down = False
        self.refused = 0

    def positions(self, topic: str) -> Mapping[int, Position]:
        self._check()
        return dict(self.held)

    def write(self, topic: str, bodies: Sequence[Any], positions: Mapping[int, Position]) -> None:
        self._check()
        self.bodies.extend(bodies)
        self.held.update(positions)

    def _check(self) -> None:
        if self.down:
            self.refused += 1
            raise StoreError("it is down")

    def close(self) -> None:
        pass

    @property
    def ids(self) -> list[int]:
        """The first event of each batch, as they were written."""
        return [body.first_event_id for body in self.bodies]


class History:
    """The topic, and what an owner sends there."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._topic = Names(settings.prefix).topic(HISTORY)
        self._producer = Producer(settings.producer())
        self._admin = AdminClient({"bootstrap.servers": settings.brokers, "log_level": 0})

    def send(self, *numbers: int) -> None:
        """Emissions by number, from 1: each names the one before it."""
        for number in numbers:
            record = Record(
                HISTORY,
                0,
                "default/w",
                HistoryBatch("default", "w", "run", number, number, number, (b"event",)),
                source=SOURCE,
                origin_offset=number,
                previous_offset=number - 1 if number > 1 else -1,
                previous_index=0 if number > 1 else -1,
            )
            self._produce(value_of(CODEC, record))

    def send_raw(self, value: bytes) -> None:
        """What is no record."""
        self._produce(value)

    def _produce(self, value: bytes) -> None:
        self._producer.produce(self._topic, value, b"default/w", 0)
        assert self._producer.flush(20) == 0

    def delete_below(self, offset: int) -> None:
        """Lose the beginning of the log."""
        for future in self._admin.delete_records([TopicPartition(self._topic, 0, offset)]).values():
            future.result()


class Running:
    """A materializer of a store, while the block runs."""

    def __init__(self, history: History, store: Store, deletions: Store | None = None) -> None:
        self.failures: list[Exception] = []
        self.materializer = Materializer(
            history.settings, HISTORY, store, CODEC, self.failures.append, deletions=deletions
        )

    def __enter__(self) -> Running:
        self.materializer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.materializer.stop()


@pytest.fixture
def history(broker: KafkaCluster, topic_prefix: str) -> History:
    """An empty topic of one partition."""
    settings = KafkaSettings(
        brokers=broker.bootstrap_servers, prefix=topic_prefix, partitions=1, replication=1
    )
    Cluster(settings).apply()
    return History(settings)


def test_what_is_sent_again_is_written_once_and_a_gap_is_waited_out(history: History) -> None:
    store = Store()
    history.send(1, 2, 1, 2, 5, 3)
    with Running(history, store) as running:
        wait_until(lambda: store.ids == [1, 2, 3])
        history.send(4)
        wait_until(lambda: store.ids == [1, 2, 3, 4, 5])
    assert not running.failures


def test_the_next_one_goes_on_from_the_position_with_what_waits_behind_a_gap(history: History) -> None:
    store = Store()
    history.send(1, 2, 4)
    with Running(history, store):
        wait_until(lambda: store.held.get(0, Position(-1, 0)).offset == 2)
        assert (store.ids, store.held[0].parked) == ([1, 2], (2,))
    history.send(2, 3)
    with Running(history, store) as running:
        wait_until(lambda: store.ids == [1, 2, 3, 4])
        wait_until(lambda: running.materializer.partitions[0].written_offset == 4)
    assert not running.failures


def test_a_store_that_is_down_is_waited_for(history: History) -> None:
    store = Store()
    store.down = True
    with Running(history, store) as running:
        history.send(1)
        wait_until(lambda: store.refused > 2)
        assert running.materializer.store_error == "it is down"
        store.down = False
        wait_until(lambda: store.ids == [1])
        store.down = True
        history.send(2, 3)
        refused = store.refused
        wait_until(lambda: store.refused > refused + 2)
        store.down = False
        wait_until(lambda: store.ids == [1, 2, 3])
        assert not running.materializer.store_error
    assert not running.failures


def test_one_that_ends_while_its_store_is_down_loses_nothing(history: History) -> None:
    store = Store()
    with Running(history, store) as running:
        history.send(1)
        wait_until(lambda: store.ids == [1])
        store.down = True
        history.send(2)
        wait_until(lambda: bool(store.refused))
    store.down = False
    with Running(history, store) as second:
        wait_until(lambda: store.ids == [1, 2])
    assert not (running.failures or second.failures)


def test_a_damaged_record_stops_nobody(history: History) -> None:
    store = Store()
    history.send(1)
    history.send_raw(b"\xff damaged")
    history.send(2)
    with Running(history, store) as running:
        wait_until(lambda: store.ids == [1, 2])
        assert running.materializer.damaged == 1
    assert not running.failures


def test_records_that_are_gone_are_not_passed_over(history: History) -> None:
    store = Store()
    history.send(1, 2, 3)
    history.delete_below(2)
    with Running(history, store) as running:
        wait_until(lambda: bool(running.failures))
    (failure,) = running.failures
    assert isinstance(failure, TakeoverRefusedError)
    assert "records 0 to 1 are gone and not in the store" in str(failure)
    assert store.ids == []


def test_deleted_runs_are_told_to_the_other_store_first(history: History) -> None:
    store, other = Store(), Store()
    other.down = True
    history.send(1)
    deleted = RunDeleted("default", "w", "run")
    record = Record(
        HISTORY, 0, "default/w", deleted, source=SOURCE, origin_offset=2, previous_offset=1, previous_index=0
    )
    history.send_raw(value_of(CODEC, record))
    with Running(history, store, deletions=other) as running:
        wait_until(lambda: bool(other.refused))
        assert deleted not in store.bodies
        other.down = False
        wait_until(lambda: deleted in store.bodies)
    assert other.bodies == [deleted]
    assert not running.failures
