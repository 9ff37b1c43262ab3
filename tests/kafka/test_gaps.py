"""Records that a consumer leaves out are never folded over: it is sent back, or the partition halts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from deploy.local.kafka import KafkaCluster
from streams import topology
from streams.kafka.member import Member
from streams.kafka.names import Names
from streams.kafka.seats import Seat
from streams.kafka.settings import KafkaSettings
from tests.kafka.driving import apply_topics, owns_all, settings_for, stop_members, wait_for
from tests.kafka.refolds import check_refold


class Overtaken(Member):
    """Its first seek of each partition is overtaken by one to further on, as the consumer's own may be."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.overtaken: set[int] = set()

    def _seek(self, seat: Seat) -> None:
        if seat.number not in self.overtaken:
            self.overtaken.add(seat.number)
            assert seat.seek_to is not None
            seat.seek_to += 5
        super()._seek(seat)


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state", partitions=1)
    apply_topics(made)
    return made


@pytest.fixture
def overtaken(settings: KafkaSettings) -> Iterator[Member]:
    member = Overtaken("timer", settings)
    yield member
    stop_members([member], release=True)


def _damage(settings: KafkaSettings, count: int) -> None:
    """Append records that are none: each is judged, and moves the position on."""
    producer = Producer(settings.producer())
    for _ in range(count):
        producer.produce(Names(settings.prefix).topic(topology.TIMERS), b"", b"key", 0)
    assert producer.flush(10) == 0


@pytest.mark.parametrize("more", [0, 1], ids=["nothing comes later", "another comes later"])
def test_records_that_were_left_out_are_folded(settings: KafkaSettings, overtaken: Member, more: int) -> None:
    _damage(settings, 10)
    overtaken.start()
    wait_for(lambda: owns_all(overtaken, settings))
    _damage(settings, more)
    status = overtaken.status.partitions[0]
    wait_for(lambda: status.dead_letters_total == 10 + more and not status.lag)
    overtaken.stop()
    check_refold(settings, "timer", 0)


def test_records_that_are_not_in_the_log_halt_their_partition(settings: KafkaSettings) -> None:
    producer = Producer({**settings.producer(), "transactional.id": "tests"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(Names(settings.prefix).topic(topology.TIMERS), b"", b"key", 0)
    producer.commit_transaction(10)  # which takes an offset that holds no record
    _damage(settings, 1)
    member = Member("timer", settings)
    member.start()
    try:

        def halted() -> str:
            status = member.status.partitions.get(0)
            return status.reason if status is not None and status.state == "halted" else ""

        assert "/0: records 1 to 1 were not delivered, however often" in wait_for(halted)
    finally:
        stop_members([member], release=False)
