"""Topics on their way into stores: once and in order, whatever is repeated, missing, down or gone (rule 22)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from deploy.local.kafka import KafkaCluster
from server.cluster_metrics import why_materializer_not_ready
from streams import avro
from streams.bodies import HistoryBatch, HistoryDeleted, RunDeleted
from streams.kafka.admin import Cluster
from streams.kafka.carried import Chained
from streams.kafka.feed_deletion import FeedDeletion
from streams.kafka.materializer import HALTED_RETRY_S, Materializer
from streams.kafka.names import Names
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import value_of
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.partition import DeadLetter, Position
from streams.runtime.records import Record
from streams.stores.damage import StoreError
from streams.topology import DEAD_LETTERS, HISTORY
from tests.kafka.driving import read_all
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
        self.topic = Names(settings.prefix).topic(HISTORY)
        self._producer = Producer(settings.producer())
        self._admin = AdminClient({"bootstrap.servers": settings.brokers, "log_level": 0})

    def send(self, *numbers: int) -> None:
        """Emissions by number, from 1: each names the one before it."""
        for number in numbers:
            self.send_raw(value_of(CODEC, self.record(number)))

    def record(self, number: int) -> Record:
        """An emission."""
        return Record(
            HISTORY,
            0,
            "default/w",
            HistoryBatch("default", "w", "run", number, number, number, (b"event",)),
            source=SOURCE,
            origin_offset=number,
            previous_offset=number - 1 if number > 1 else -1,
            previous_index=0 if number > 1 else -1,
        )

    def send_raw(self, value: bytes, headers: list[tuple[str, bytes]] | None = None) -> None:
        """Anything."""
        self._producer.produce(self.topic, value, b"default/w", 0, headers=headers)
        assert self._producer.flush(20) == 0

    def make_anew(self) -> None:
        """Another topic under the name."""
        for future in self._admin.delete_topics([self.topic]).values():
            future.result()
        cluster = Cluster(self.settings)
        wait_until(lambda: HISTORY not in cluster.describe())
        cluster.apply()

    def begins_at(self) -> int:
        """The first offset there is."""
        place = TopicPartition(self.topic, 0)
        spec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        (future,) = self._admin.list_offsets({place: spec}).values()
        return int(future.result().offset)

    def delete_below(self, offset: int) -> None:
        """Lose the beginning of the log."""
        for future in self._admin.delete_records([TopicPartition(self.topic, 0, offset)]).values():
            future.result()


class Running:
    """A materializer of a store, while the block runs."""

    def __init__(
        self,
        history: History,
        store: Store,
        deletions: Store | None = None,
        halted_retry_s: float = HALTED_RETRY_S,
    ) -> None:
        self.failures: list[Exception] = []
        self.materializer = Materializer(
            history.settings,
            HISTORY,
            store,
            CODEC,
            self.failures.append,
            deletions=deletions,
            halted_retry_s=halted_retry_s,
        )

    def halted(self) -> str:
        """Why the partition is halted, once it is."""
        wait_until(lambda: 0 in self.materializer.halted)
        return self.materializer.halted[0]

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


def test_rule_6_a_record_of_nobody_is_set_aside_with_its_headers(history: History) -> None:
    store = Store()
    history.send(1)
    history.send_raw(b"\xff damaged", headers=[("trace", b"1")])
    history.send(2)
    with Running(history, store) as running:
        wait_until(lambda: store.ids == [1, 2])
        assert running.materializer.damaged == 1
    assert not running.failures
    (message,) = read_all(history.settings, DEAD_LETTERS)
    letter = avro.decode(DeadLetter, message.value())
    assert (letter.offset, letter.key, letter.body) == (1, "default/w", b"\xff damaged")
    assert letter.source.startswith(f"{history.topic}/0@")
    headers = dict(message.headers())
    assert (headers["odradek.source"], headers["odradek.offset"]) == (letter.source.encode(), b"1")
    assert headers["odradek.reason"].startswith(b"DecodeError: not a Envelope")
    assert headers["trace"] == b"1"


def test_rule_7_a_damaged_record_of_ours_is_not_passed_over_unless_told_so(history: History) -> None:
    store = Store()
    history.send(1)
    envelope = CODEC.envelope(history.record(2))
    history.send_raw(avro.encode(msgspec.structs.replace(envelope, body=b"\xff")))
    history.send(3)
    with Running(history, store) as running:
        reason = running.halted()
        assert f"{history.topic}/0: record 1 of {SOURCE} (HistoryBatch, key 'default/w') is damaged" in reason
        assert f"{history.topic}/0@1 in the setting `kafka.pass_over`" in reason
        wait_until(lambda: store.ids == [1])
        assert 0 not in store.held
        assert reason in why_materializer_not_ready(running.materializer)
    history.settings = history.settings.model_copy(update={"pass_over": (f"{history.topic}/0@1",)})
    with Running(history, store) as running:
        wait_until(lambda: store.held.get(0, Position(-1, 0)).offset == 2)
        assert store.ids == [1, 1, 3]
    assert not running.failures
    assert len(read_all(history.settings, DEAD_LETTERS)) == 1


def test_records_that_are_gone_are_not_passed_over(history: History) -> None:
    store = Store()
    history.send(1, 2, 3)
    history.delete_below(2)
    with Running(history, store) as running:
        assert "begins at 2: records 0 to 1 are gone and not in the store" in running.halted()
    assert not running.failures
    assert store.ids == []


def test_rule_3_a_topic_that_was_made_anew_is_refused(history: History) -> None:
    store = Store()
    history.send(1)
    with Running(history, store):
        wait_until(lambda: bool(store.held))
    former = store.held[0].topic_id
    history.make_anew()
    history.send(1)
    with Running(history, store) as running:
        assert f"the store was written from {former}: the topic was made anew" in running.halted()
    assert store.ids == [1]


def test_rule_3_a_log_that_ends_before_the_position_is_refused(history: History) -> None:
    store = Store()
    history.send(1)
    with Running(history, store):
        wait_until(lambda: bool(store.held))
    store.held[0] = msgspec.structs.replace(store.held[0], offset=7)
    with Running(history, store) as running:
        assert "ends at 1, and the store has record 7: the log was cut off" in running.halted()


def test_rule_3_a_log_that_went_on_in_another_leader_epoch_is_refused_until_that_is_mended(
    history: History,
) -> None:
    store = Store()
    history.send(1)
    with Running(history, store):
        wait_until(lambda: bool(store.held))
    mended = store.held[0]
    store.held[0] = msgspec.structs.replace(mended, leader_epoch=mended.leader_epoch + 3)
    history.send(2)
    with Running(history, store, halted_retry_s=0.2) as running:
        assert (
            f"record 0 was of leader epoch {mended.leader_epoch + 3}, the log has it in" in running.halted()
        )
        assert store.ids == [1]
        store.held[0] = mended
        wait_until(lambda: store.ids == [1, 2])
        assert not running.materializer.halted


def test_deleted_records_below_the_position_are_not_missed(history: History) -> None:
    store = Store()
    history.send(1, 2)
    with Running(history, store):
        wait_until(lambda: store.ids == [1, 2])
    history.delete_below(2)
    history.send(3)
    with Running(history, store) as running:
        wait_until(lambda: store.ids == [1, 2, 3])
    assert not running.failures


def test_deleted_runs_are_told_to_the_other_store_first(history: History) -> None:
    store, other = Store(), Store()
    other.down = True
    history.send(1)
    deleted = RunDeleted("default", "w", "run")
    record = Record(
        HISTORY, 0, "default/w", deleted, source=SOURCE, origin_offset=2, previous_offset=1, previous_index=0
    )
    history.send_raw(value_of(CODEC, record))
    by_itself = HistoryDeleted("default", "other", "run-2")
    record = Record(
        HISTORY,
        0,
        "default/w",
        by_itself,
        source=SOURCE,
        origin_offset=3,
        previous_offset=2,
        previous_index=0,
    )
    history.send_raw(value_of(CODEC, record))
    with Running(history, store, deletions=other) as running:
        wait_until(lambda: bool(other.refused))
        assert deleted not in store.bodies
        other.down = False
        wait_until(lambda: by_itself in store.bodies)
        assert deleted in store.bodies
    assert other.bodies == [deleted]
    assert not running.failures


def test_rule_4_what_is_in_the_store_and_old_is_deleted_from_the_feed(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.kafka.feed_deletion.INTERVAL_S", 0.05)
    history.settings = history.settings.model_copy(update={"history_feed_ms": 0})
    store = Store()
    history.send(1, 2, 4)
    with Running(history, store) as running:
        wait_until(lambda: history.begins_at() == 2)  # the last one waits behind a gap
        store.down = True
        history.send(3, 5)
        wait_until(lambda: bool(store.refused))
        assert history.begins_at() == 2
        store.down = False
        wait_until(lambda: history.begins_at() == 5)
        assert store.ids == [1, 2, 3, 4, 5]
    with Running(history, store) as running:
        history.send(6)
        wait_until(lambda: store.ids[-1] == 6)
    assert not running.failures


def test_rule_4_what_is_young_stays_in_the_feed(history: History) -> None:
    history.send(1, 2)
    sent_ms = time.time_ns() // 1_000_000
    carried = Chained(history.topic, 0, "id", Position(1, 0, topic_id="id"), lambda body: None)
    consumer = Consumer({**history.settings.consumer(), "group.id": "tests"})
    feed_ms = history.settings.history_feed_ms
    early, late = (FeedDeletion(history.settings, history.topic) for _ in range(2))
    early.delete(consumer, [carried], sent_ms + feed_ms - 60_000)
    assert history.begins_at() == 0
    late.delete(consumer, [carried], sent_ms + feed_ms + 60_000)
    wait_until(lambda: history.begins_at() == 2)
    consumer.close()
