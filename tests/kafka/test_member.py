"""Owners on a real broker: they fold, answer and checkpoint, and whoever comes after them goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType

from deploy.local.kafka import KafkaCluster
from streams import avro, bodies, topology
from streams.kafka import keys
from streams.kafka.admin import Cluster
from streams.kafka.member import ROLES, Member
from streams.kafka.names import CHANGELOGS, PROCESSORS, REPLIES, Names
from streams.kafka.rocks import PartitionStore
from streams.kafka.settings import KafkaSettings
from streams.runtime.logic import LogicMarker
from streams.runtime.partition import DeadLetter, Position
from streams.runtime.records import Tick
from tests.kafka.driving import (
    Driver,
    apply_topics,
    driving,
    owns_all,
    read_all,
    records_of,
    settings_for,
    start_members,
    stop_members,
    wait_for,
)
from tests.kafka.refolds import CACHE_BYTES, check_refold, last_position

Start = Callable[..., list[Member]]


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state")
    apply_topics(made)
    return made


@pytest.fixture
def start(settings: KafkaSettings) -> Iterator[Start]:
    """Starts a member of each role; those that still run when the test ends leave."""
    running: list[Member] = []

    def start_all(**more: Any) -> list[Member]:
        members = start_members(more.pop("settings", settings), **more)
        running.extend(members)
        return members

    yield start_all
    stop_members([member for member in running if member.is_alive], release=False)


@pytest.fixture
def alone(settings: KafkaSettings) -> Iterator[Callable[..., Member]]:
    """Starts one member of a role, owning or not; it leaves when the test ends."""
    running: list[Member] = []

    def start_one(role: str, **more: Any) -> Member:
        member = Member(role, more.pop("settings", settings), **more)
        running.append(member)
        member.start()
        return member

    yield start_one
    stop_members([member for member in running if member.is_alive], release=False)


# Driving workflows


def test_a_workflow_completes(settings: KafkaSettings, start: Start) -> None:
    members = start()
    with driving(settings) as driver:
        run_id = driver.start("wf")
        task, reply = driver.workflow_task()
        assert [event.event_id for event in task.history.events] == []
        assert (reply.attach_run, reply.attach_first, reply.attach_last) == (run_id, 1, 3)
        assert (reply.events_first_id, len(reply.events)) == (1, 3)
        driver.complete_task(task, driver.schedule())
        driver.do_activity()
        task, reply = driver.workflow_task()
        driver.complete_task(task, driver.finish())
        batches = [r.body for r in records_of(settings, topology.HISTORY)]
        ids = [n for batch in batches for n in range(batch.first_event_id, batch.last_event_id + 1)]
        assert ids == list(range(1, 12))
        kept = [event for batch in batches for event in batch.events]
        assert list(reply.events) == kept[reply.events_first_id - 1 : reply.attach_last]
        shown = [r.body for r in records_of(settings, topology.VISIBILITY)]
        assert shown[-1].history_length == 11
    stop_members(members)
    for member in members:
        assert member.status.partitions == {}


def test_a_fresh_partition_begins_with_a_marker_of_the_newest_logic(
    settings: KafkaSettings, start: Start
) -> None:
    start()
    for name in PROCESSORS.values():
        wait_for(lambda name=name: len(_of_type(settings, name, Tick)) == 2)
        records = records_of(settings, name)
        assert [type(r.body) for r in records if r.offset == 0] == [LogicMarker, LogicMarker]


def test_a_timer_of_a_workflow_fires(settings: KafkaSettings, start: Start) -> None:
    start()
    with driving(settings) as driver:
        driver.start("wf")
        task, _ = driver.workflow_task()
        command = Command(command_type=CommandType.COMMAND_TYPE_START_TIMER)
        command.start_timer_command_attributes.timer_id = "1"
        command.start_timer_command_attributes.start_to_fire_timeout.FromMilliseconds(300)
        driver.complete_task(task, command)
        task, _ = driver.workflow_task()
        assert task.previous_started_event_id == 3
        assert _of_type(settings, topology.COMMANDS, bodies.FireTimer)


def test_a_reply_to_a_gateway_of_this_process_skips_the_topic(settings: KafkaSettings, start: Start) -> None:
    taken: list[Driver] = []
    start(deliver_locally=lambda reply: bool(taken) and taken[0].take(reply))
    driver = Driver(settings)
    taken.append(driver)
    driver.prepare()
    driver.run_workflow("wf")
    assert read_all(settings, REPLIES) == []
    driver.close()


def test_what_a_workflow_of_one_activity_costs(settings: KafkaSettings, start: Start) -> None:
    """Records on Kafka, with an activity handed out at once and the gateway in the owners' process (rule 12)."""
    taken: list[Driver] = []
    # One checkpoint for all, as under load.
    members = start(
        settings=settings.model_copy(update={"checkpoint_age_ms": 60_000}),
        deliver_locally=lambda reply: bool(taken) and taken[0].take(reply),
    )
    driver = Driver(settings)
    taken.append(driver)
    driver.prepare()
    logs = (*PROCESSORS.values(), topology.HISTORY, topology.VISIBILITY, REPLIES)
    before = {name: len(read_all(settings, name)) for name in logs}
    count = 10
    for number in range(count):
        driver.run_eager_workflow(f"wf-{number}")
    costs = {name: (len(read_all(settings, name)) - before[name]) / count for name in logs}
    assert costs == {"commands": 6, "tasks": 4, "timers": 0, "history": 1, "visibility": 2, "replies": 0}
    driver.close()
    stop_members(members)
    changes = [m for name in CHANGELOGS for m in read_all(settings, name) if m.key() != keys.POSITION]
    of_workflows = [message for message in changes if b"wf-" in message.key()]
    assert len(of_workflows) == 3 * count  # the run, which of them is current, and when it is to be deleted
    assert len(changes) - len(of_workflows) < count


def test_a_damaged_record_is_set_aside_and_stops_nobody(settings: KafkaSettings, start: Start) -> None:
    members = start()
    with driving(settings) as driver:
        for name in PROCESSORS.values():
            for partition in range(2):
                driver.append_bytes(name, partition, "key", b"\xffno record")
        driver.append_bytes(topology.COMMANDS, 0, "", b"")
        driver.run_workflow("wf")
        letters = wait_for(
            lambda: (found := read_all(settings, topology.DEAD_LETTERS)) and len(found) == 7 and found
        )
        first = avro.decode(DeadLetter, letters[0].value())
        assert first.body in (b"\xffno record", b"")
        assert first.reason.startswith("DecodeError: not a Envelope")
    assert sum(p.dead_letters_total for m in members for p in m.status.partitions.values()) == 7


# Who comes after


@pytest.mark.parametrize("released", [True, False], ids=["after a release", "after a kill"])
def test_the_next_owner_goes_on_and_the_tables_equal_a_refold(
    settings: KafkaSettings, start: Start, tmp_path: Path, released: bool
) -> None:
    first = start()
    with driving(settings) as driver:
        for number in range(4):
            driver.run_workflow(f"before-{number}")
        driver.start("open")
        task, _ = driver.workflow_task()
        driver.complete_task(task, driver.schedule())
        stop_members(first, release=released)
        elsewhere = settings.model_copy(update={"state_directory": tmp_path / "elsewhere"})
        second = start(settings=elsewhere)
        driver.do_activity()
        task, _ = driver.workflow_task()
        driver.complete_task(task, driver.finish())
        driver.run_workflow("after")
        stop_members(second)
    for role in ROLES:
        for partition in range(2):
            check_refold(elsewhere, role, partition)


def test_a_kill_in_the_midst_of_checkpoints_loses_and_doubles_nothing(
    settings: KafkaSettings, start: Start
) -> None:
    eager = settings.model_copy(update={"checkpoint_age_ms": 1})
    members = start(settings=eager)
    with driving(settings) as driver:
        for number in range(3):
            driver.run_workflow(f"wf-{number}")
            driver.start(f"open-{number}")
            stop_members(members, release=False)
            members = start(settings=eager)
            task, _ = driver.workflow_task()
            driver.complete_task(task, driver.finish())
        stop_members(members)
    for role in ROLES:
        for partition in range(2):
            check_refold(settings, role, partition)
    seen: dict[str, list[int]] = {}
    applied: set[tuple[str, int, int]] = set()
    for record in records_of(settings, topology.HISTORY):
        origin = (record.source, record.origin_offset, record.index)
        if origin not in applied:  # what was emitted twice has the same origin
            applied.add(origin)
            batch = record.body
            seen.setdefault(batch.run_id, []).extend(range(batch.first_event_id, batch.last_event_id + 1))
    assert len(seen) == 6
    for ids in seen.values():
        assert ids == list(range(1, len(ids) + 1))


def test_a_second_owner_fences_the_first(settings: KafkaSettings, start: Start) -> None:
    members = start()
    history = members[0].status
    with driving(settings) as driver:
        driver.run_workflow("before")
        wait_for(lambda: all(p.checkpoint_offset == p.position for p in history.partitions.values()))
        _fence(settings, "history")
        driver.run_workflow("after")
        wait_for(lambda: history.failures_total == 1)
        wait_for(lambda: owns_all(members[0], settings))
        assert max(p.takeovers_total for p in history.partitions.values()) == 2
        driver.run_workflow("later")
        stop_members(members)
    check_refold(settings, "history", 0)


def test_members_share_the_partitions_and_take_them_over(
    settings: KafkaSettings, start: Start, tmp_path: Path
) -> None:
    start()
    more = settings.model_copy(update={"state_directory": tmp_path / "other"})
    others = [Member(role, more) for role in ROLES]
    with driving(settings) as driver:
        driver.run_workflow("one")
        for member in others:
            member.start()
        wait_for(lambda: all(len(member.owned) == 1 for member in others))
        driver.run_workflow("two")
        stop_members(others)
        driver.run_workflow("three")


# Local stores


def test_a_restart_on_the_same_disk_replays_only_the_tail(
    settings: KafkaSettings, start: Start, tmp_path: Path
) -> None:
    members = start()
    with driving(settings) as driver:
        for number in range(10):
            driver.run_workflow(f"wf-{number}")
        partitions = [p for member in members for p in member.status.partitions.values()]
        wait_for(lambda: all(p.checkpoint_offset == p.position for p in partitions))
        driver.run_workflow("tail")
        stop_members(members)
        warm = start()
        assert _restored(warm) < 30
        stop_members(warm)
        cold = start(settings=settings.model_copy(update={"state_directory": tmp_path / "new"}))
        assert _restored(cold) > 50
        driver.run_workflow("after")


def test_a_store_of_another_changelog_is_wiped(settings: KafkaSettings, alone: Callable[..., Member]) -> None:
    member = alone("timer")
    wait_for(lambda: owns_all(member, settings))
    member.stop()
    folder = settings.state_directory / settings.prefix / "timer-0"
    (path,) = folder.iterdir()
    store = PartitionStore(path, CACHE_BYTES)
    head = store.head()
    assert head is not None
    other = type(head.local)("another", head.local.changelog_offset, head.local.time_ms)
    store.apply([(keys.row_key("t", "k", "kind", "id"), b"old")], type(head)(other, head.checkpoint_offset))
    store.close()
    member = alone("timer")
    wait_for(lambda: all(p.checkpoint_offset >= 1 for p in member.status.partitions.values()))
    wait_for(lambda: owns_all(member, settings))
    member.stop()
    assert not path.exists()
    check_refold(settings, "timer", 0)


def test_a_store_that_a_paused_owner_holds_blocks_nobody(
    settings: KafkaSettings, alone: Callable[..., Member]
) -> None:
    member = alone("timer")
    wait_for(lambda: owns_all(member, settings))
    member.stop()
    folder = settings.state_directory / settings.prefix / "timer-0"
    (path,) = folder.iterdir()
    held = PartitionStore(path, CACHE_BYTES)
    member = alone("timer")
    wait_for(lambda: owns_all(member, settings))
    assert len(list(folder.iterdir())) == 2
    member.stop()
    held.close()


# Refusals


def test_a_torn_checkpoint_is_refused(settings: KafkaSettings, alone: Callable[..., Member]) -> None:
    member = alone("timer")
    wait_for(lambda: owns_all(member, settings))
    wait_for(lambda: all(p.checkpoint_offset >= 1 for p in member.status.partitions.values()))
    member.stop()
    position = avro.encode(Position(offset=1, now_ms=1, row_count=5))
    producer = Producer({**settings.producer(), "transactional.id": "tests"})
    producer.init_transactions(10)
    producer.begin_transaction()
    topic = Names(settings.prefix).changelog("timer")
    producer.produce(topic, position, keys.POSITION, 0, headers=[("checkpoint", b"\0" * 8)])
    producer.commit_transaction(10)
    member = alone("timer")
    reason = _refusal(member, 0)
    assert "timers/0: the checkpoint at offset 1 is torn: it was written with 5 rows, 0 were found" in reason
    wait_for(lambda: member.owned == [1])


def test_a_truncated_log_is_refused(
    settings: KafkaSettings, alone: Callable[..., Member], broker_admin: AdminClient
) -> None:
    member = alone("timer")
    wait_for(lambda: owns_all(member, settings))
    wait_for(lambda: all(p.checkpoint_offset >= 1 for p in member.status.partitions.values()))
    member.stop()
    position = last_position(settings, "timer", 0)
    driver = Driver(settings)
    for _ in range(5):
        driver.append(topology.TIMERS, "", bodies.SetTimer("ns", "wf", "run", 0, 1), partition=0)
    driver.close()
    topic = Names(settings.prefix).topic(topology.TIMERS)
    for future in broker_admin.delete_records([TopicPartition(topic, 0, position.offset + 4)]).values():
        future.result()
    member = alone("timer")
    first = position.offset + 1
    assert f"timers/0: records {first} to {first + 2} are gone from the log" in _refusal(member, 0)


def test_a_topic_made_anew_is_refused(
    settings: KafkaSettings, alone: Callable[..., Member], broker_admin: AdminClient
) -> None:
    member = alone("timer")
    wait_for(lambda: owns_all(member, settings))
    wait_for(lambda: all(p.checkpoint_offset >= 1 for p in member.status.partitions.values()))
    member.stop()
    topic = Names(settings.prefix).topic(topology.TIMERS)
    former = Cluster(settings).check()[topology.TIMERS].id
    for future in broker_admin.delete_topics([topic]).values():
        future.result()
    wait_for(lambda: topology.TIMERS not in Cluster(settings).describe())
    apply_topics(settings)
    member = alone("timer")
    reason = _refusal(member, 0)
    assert f"timers/0: the checkpoint is of topic {former}, the log is topic " in reason


def test_a_lost_changelog_is_refused_once_records_are_deleted(
    settings: KafkaSettings, alone: Callable[..., Member], broker_admin: AdminClient
) -> None:
    member = alone("timer")
    wait_for(lambda: owns_all(member, settings))
    wait_for(lambda: all(p.checkpoint_offset >= 1 for p in member.status.partitions.values()))
    member.stop()
    names = Names(settings.prefix)
    for future in broker_admin.delete_records([TopicPartition(names.topic(topology.TIMERS), 0, 1)]).values():
        future.result()
    for future in broker_admin.delete_topics([names.changelog("timer")]).values():
        future.result()
    wait_for(lambda: "timer-changelog" not in Cluster(settings).describe())
    apply_topics(settings)
    member = alone("timer")
    assert "timers/0: no checkpoint, but the log begins at offset 1" in _refusal(member, 0)


def test_a_hanging_transaction_is_named_and_passes(
    settings: KafkaSettings, alone: Callable[..., Member]
) -> None:
    topic = Names(settings.prefix).changelog("timer")
    producer = Producer({**settings.producer(), "transactional.id": "tests"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topic, b"value", b"key", 1)
    assert producer.flush(10) == 0
    member = alone("timer", settle_timeout_s=0.2)
    reason = _refusal(member, 1)
    assert f"{topic}/1: a transaction hangs since offset 0 (high watermark 1)" in reason
    assert f"abort --topic {topic} --partition 1 --start-offset 0" in reason
    producer.abort_transaction(10)
    wait_for(lambda: owns_all(member, settings))


def test_a_member_leaves_to_one_of_a_newer_release(
    settings: KafkaSettings, alone: Callable[..., Member]
) -> None:
    ended: list[BaseException | None] = []
    member = alone("timer", on_end=ended.append)
    wait_for(lambda: owns_all(member, settings))
    driver = Driver(settings)
    driver.append(topology.TIMERS, "", LogicMarker(99), awaited=False, partition=0)
    driver.close()
    (reason,) = wait_for(lambda: ended)
    assert "timers/0 is folded by logic version 99" in str(reason)
    newer = alone("timer", supported_logic=99)
    wait_for(lambda: owns_all(newer, settings))
    # It owns the partition before it has folded the marker, which its next checkpoint tells of.
    wait_for(lambda: last_position(settings, "timer", 0).logic_version == 99)
    newer.stop()
    assert last_position(settings, "timer", 0).logic_version == 99


# Helpers


def _of_type(settings: KafkaSettings, name: str, cls: type) -> list[Any]:
    return [record for record in records_of(settings, name) if isinstance(record.body, cls)]


def _restored(members: list[Member]) -> int:
    return sum(p.restored_total for member in members for p in member.status.partitions.values())


def _refusal(member: Member, partition: int) -> str:
    """Why a member was refused a partition, once it was."""

    def refused() -> str:
        status = member.status.partitions.get(partition)
        return status.reason if status is not None and status.state == "refused" else ""

    return wait_for(refused)


def _fence(settings: KafkaSettings, role: str) -> None:
    """Be another owner of one partition, for a moment."""
    transactional_id = Names(settings.prefix).transactional_id(role, 0)
    producer = Producer({**settings.producer(), "transactional.id": transactional_id})
    producer.init_transactions(10)
    producer.close()
