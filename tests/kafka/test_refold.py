"""A whole log folded again: it comes out as what members kept, and whatever does not is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local.kafka import KafkaCluster
from streams import avro, topology
from streams.bodies import Pair
from streams.kafka import keys, wire
from streams.kafka.names import PROCESSORS, Names
from streams.kafka.refold import Refolder, RefoldError, differences
from streams.kafka.refold_emissions import Emissions
from streams.kafka.rocks import Head, PartitionStore
from streams.kafka.settings import KafkaSettings
from streams.runtime.local_store import LocalHead
from streams.runtime.records import Record
from tests.kafka.driving import (
    CODEC,
    apply_topics,
    driving,
    records_of,
    settings_for,
    start_members,
    stop_members,
)


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    """A small cluster on which members ran workflows, and stopped."""
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state")
    apply_topics(made)
    members = start_members(made)
    with driving(made) as driver:
        driver.run_workflow("wf-0")
        driver.start("open-0")
        stop_members(members, release=False)
        members = start_members(made)  # which fold a part again, and emit it a second time
        driver.run_workflow("wf-1")
        driver.start("open-1")
    stop_members(members)
    return made


@pytest.fixture
def refolder(settings: KafkaSettings, tmp_path: Path) -> Iterator[Refolder]:
    made = Refolder(settings, tmp_path / "refold")
    yield made
    made.close()


@pytest.fixture
def emissions(tmp_path: Path) -> Iterator[Emissions]:
    made = Emissions(tmp_path / "emissions", CODEC)
    yield made
    made.close()


def _refold(refolder: Refolder, emissions: Emissions) -> list[str]:
    """Refold everything; what differs in the tables."""
    found: list[str] = []
    for role in PROCESSORS:
        for number in range(2):
            kept = refolder.restored(role, number)
            position = kept.position()
            assert position is not None
            wanted = refolder.refolded(role, number, position.offset, emissions.add)
            emissions.folded[refolder.source(role, number)] = position.offset
            found += differences(kept, wanted)
            kept.close()
            wanted.close()
    return found


def _in_topic(refolder: Refolder, emissions: Emissions, name: str) -> list[str]:
    topic = refolder.topics[name]
    return list(emissions.differences(refolder.reader, name, topic.topic, topic.partitions))


def test_what_members_kept_and_sent_is_what_the_log_says(refolder: Refolder, emissions: Emissions) -> None:
    assert _refold(refolder, emissions) == []
    for name in (*PROCESSORS.values(), topology.HISTORY, topology.VISIBILITY, topology.REGISTRY):
        assert _in_topic(refolder, emissions, name) == []


def test_a_row_that_is_not_what_the_log_says_is_found(refolder: Refolder) -> None:
    kept = refolder.restored("history", 0)
    position = kept.position()
    assert position is not None
    wanted = refolder.refolded("history", 0, position.offset, lambda record: None)
    first, second, *_ = [(key, value) for key, value in kept.rows() if key.startswith(b"r")]
    head = Head(LocalHead("", 0, 0), 0)
    kept.apply([(first[0], first[1] + b"!"), (second[0], None)], head)
    changed, missing = differences(kept, wanted)
    assert changed.startswith("row '") and changed.endswith(f"has to be {first[1]!r}")
    assert missing.startswith("row '") and missing.endswith("is missing")
    kept.apply([first, second, (keys.row_key("table", "key", "kind", "id"), b"")], head)
    (extra,) = differences(kept, wanted)
    assert extra.endswith("is there and has not to be")
    _move(kept, 1)
    moved, extra = differences(kept, wanted)
    assert moved.startswith("the position is Position(")
    kept.close()
    wanted.close()


def _move(store: PartitionStore, by: int) -> None:
    position = store.position()
    assert position is not None
    moved = msgspec.structs.replace(position, offset=position.offset + by)
    store.apply([(keys.POSITION, avro.encode(moved))], Head(LocalHead("", 0, 0), 0))


def test_a_record_that_no_fold_emitted_is_found(
    settings: KafkaSettings, refolder: Refolder, emissions: Emissions
) -> None:
    assert _refold(refolder, emissions) == []
    record = records_of(settings, topology.HISTORY)[0]
    _append(settings, _with(record, index=record.index + 50))
    _append(settings, _with(record, body=msgspec.structs.replace(record.body, time_ms=1)))
    never, other = _in_topic(refolder, emissions, topology.HISTORY)
    assert "was never emitted" in never
    assert "is not what the fold emits" in other


def _with(record: Record, **changes: object) -> Record:
    made = record.copy(offset=-1, time_ms=0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _append(settings: KafkaSettings, record: Record) -> None:
    producer = Producer(settings.producer())
    producer.produce(
        Names(settings.prefix).topic(record.topic),
        wire.value_of(CODEC, record),
        record.key.encode(),
        record.partition,
    )
    assert producer.flush(10) == 0


def test_a_record_that_was_lost_on_its_way_is_found(refolder: Refolder, emissions: Emissions) -> None:
    assert _refold(refolder, emissions) == []
    source = refolder.source("history", 0)
    lost = Record(topology.HISTORY, 0, "key", Pair("", ""), source=source, origin_offset=1, index=77)
    emissions.add(lost)
    (found,) = _in_topic(refolder, emissions, topology.HISTORY)
    assert found == f"what {source} emitted as 1.77 is missing in history/0"


def test_a_log_without_its_beginning_is_refused(
    settings: KafkaSettings, refolder: Refolder, broker_admin: AdminClient
) -> None:
    topic = Names(settings.prefix).topic(topology.COMMANDS)
    for future in broker_admin.delete_records([TopicPartition(topic, 0, 1)]).values():
        future.result()
    with pytest.raises(RefoldError, match=f"{topic}/0 begins at offset 1: .*kafka.delete_records=false"):
        refolder.refolded("history", 0, 5, lambda record: None)
