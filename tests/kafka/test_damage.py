"""What is damaged, lost or not what it was: set aside where it is foreign, else refused with what to do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec

from deploy.local.kafka import KafkaCluster
from gateway.metrics import Registry
from server import cluster_metrics
from streams import avro, bodies, topology
from streams.kafka import keys
from streams.kafka.admin import Cluster
from streams.kafka.member import Member
from streams.kafka.names import Names
from streams.kafka.offsets import high_watermarks
from streams.kafka.registry import RegistryFollower
from streams.kafka.restoring import CHECKPOINT_HEADER
from streams.kafka.rocks import open_store
from streams.kafka.settings import KafkaSettings
from streams.kafka.wire import value_of
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.partition import LETTER_BODY_BYTES, DeadLetter, Position
from streams.runtime.records import Record, Undecodable
from tests.kafka.driving import (
    CODEC,
    Driver,
    apply_topics,
    driving,
    owns_all,
    read_all,
    settings_for,
    start_members,
    stop_members,
    wait_for,
)

MEGABYTE = 1024 * 1024
HEADERS: list[tuple[str, bytes]] = [("trace", b"1"), ("trace", b"2")]


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state")
    apply_topics(made)
    return made


@pytest.fixture
def alone(settings: KafkaSettings) -> Iterator[Callable[..., Member]]:
    """Starts one member of a role, which leaves when the test ends."""
    running: list[Member] = []

    def start_one(role: str = "timer", **more: Any) -> Member:
        member = Member(role, more.pop("settings", settings), **more)
        running.append(member)
        member.start()
        return member

    yield start_one
    stop_members([member for member in running if member.is_alive], release=False)


@pytest.fixture
def foreign(settings: KafkaSettings) -> Callable[..., None]:
    """Appends anything to a topic: `foreign(name, partition, key, value, headers)`."""
    producer = Producer({**settings.producer(), "message.max.bytes": 8 * MEGABYTE})
    names = Names(settings.prefix)

    def append(name: str, partition: int, key: bytes, value: bytes | None, headers: Any = None) -> None:
        producer.produce(names.topic(name), value, key, partition, headers=headers)
        assert producer.flush(20) == 0

    return append


def checkpointed(member: Member, settings: KafkaSettings) -> None:
    """Wait until a member owns everything and its checkpoints stand for it."""
    wait_for(lambda: owns_all(member, settings))
    wait_for(lambda: all(p.checkpoint_offset >= 1 for p in member.status.partitions.values()))


def refusal(member: Member, partition: int = 0, state: str = "refused") -> str:
    """Why a member has not got a partition, as its readiness and its metrics tell, once they do."""
    wait_for(lambda: _state(member, partition) == state)
    told = cluster_metrics.why_not_ready(member.status)
    assert told.startswith(f"{member.role}: partition {partition} is {state}. ")
    registry = Registry()
    cluster_metrics.add_partitions(registry, [member.status])
    labels = f'processor="{member.role}",partition="{partition}"'
    assert f"odradek_partition_stopped{{{labels}}} {int(state != 'restoring')}" in registry.render()
    assert f"odradek_partition_owned{{{labels}}} 0" in registry.render()
    return told


def _state(member: Member, partition: int) -> str:
    status = member.status.partitions.get(partition)
    return "" if status is None or not status.reason else status.state


def commit(settings: KafkaSettings, role: str, changes: list[tuple[bytes, bytes | None]]) -> None:
    """Write to partition 0 of a changelog as an owner does."""
    producer = Producer({**settings.producer(), "transactional.id": "tests"})
    producer.init_transactions(10)
    producer.begin_transaction()
    for key, value in changes:
        topic = Names(settings.prefix).changelog(role)
        producer.produce(topic, value, key, 0, headers=[(CHECKPOINT_HEADER, b"\0" * 8)])
    producer.commit_transaction(10)


def last_position(settings: KafkaSettings, role: str = "timer") -> Position:
    """The last position in partition 0 of a changelog."""
    found = [
        message.value()
        for message in read_all(settings, f"{role}-changelog")
        if message.partition() == 0 and message.key() == keys.POSITION
    ]
    return avro.decode(Position, found[-1])


def cut(admin: AdminClient, topic: str, offset: int) -> None:
    """Lose the beginning of partition 0 of a compacted topic: somebody took it for another kind."""
    for policy in ("delete", "compact"):
        entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        for altered in admin.incremental_alter_configs([resource]).values():
            altered.result()
        if policy == "delete":
            wait_for(lambda: _cut(admin, topic, offset))


def _cut(admin: AdminClient, topic: str, offset: int) -> bool:
    (future,) = admin.delete_records([TopicPartition(topic, 0, offset)]).values()
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.POLICY_VIOLATION:
            raise
        return False
    return True


# Foreign input


def test_rule_6_what_nobody_can_read_goes_to_dead_letters_as_it_came(
    settings: KafkaSettings, foreign: Callable[..., None]
) -> None:
    members = start_members(settings)
    with driving(settings) as driver:
        topics = (topology.COMMANDS, topology.TASKS, topology.TIMERS)
        for name in topics:
            foreign(name, 0, b"their/key", b"\xff" + name.encode(), HEADERS)
        foreign(topology.COMMANDS, 1, b"\xff", None)
        driver.run_workflow("wf")
        wait_for(lambda: len(read_all(settings, topology.DEAD_LETTERS)) == 4)
    letters = {}
    for message in read_all(settings, topology.DEAD_LETTERS):
        letter = avro.decode(DeadLetter, message.value())
        headers = message.headers()
        letters[letter.source.split("@")[0]] = (letter, message.key(), headers[4:])
        told = dict(headers[:4])
        assert told["odradek.source"].decode() == letter.source
        assert told["odradek.offset"].decode() == str(letter.offset)
        assert told["odradek.reason"].decode() == letter.reason
        assert letter.reason.startswith("DecodeError: ")
    for name in topics:
        letter, key, headers = letters[f"{name}/0"]
        assert (letter.body, key, headers) == (b"\xff" + name.encode(), b"their/key", HEADERS)
    assert letters["commands/1"][0].body == b""
    stop_members(members)


def test_rule_8_a_record_as_large_as_can_be_is_set_aside_too(
    settings: KafkaSettings, alone: Callable[..., Member], foreign: Callable[..., None]
) -> None:
    member = alone()
    wait_for(lambda: owns_all(member, settings))
    for _ in range(3):
        foreign(topology.TIMERS, 0, b"k" * 10_000, b"\xff" * (7 * MEGABYTE), [("large", b"h" * 100_000)])
    found = wait_for(lambda: len(found := read_all(settings, topology.DEAD_LETTERS)) == 3 and found)
    letter = avro.decode(DeadLetter, found[0].value())
    assert len(letter.body) == LETTER_BODY_BYTES
    assert letter.reason.endswith(f"(these are the first {LETTER_BODY_BYTES} of its {7 * MEGABYTE} bytes)")
    assert ("odradek.headers", b"left out: they are too large") in found[0].headers()
    assert member.status.failures_total == 0


def test_rule_6_the_registry_is_read_on_past_what_is_foreign(
    settings: KafkaSettings, foreign: Callable[..., None]
) -> None:
    foreign(topology.REGISTRY, 0, b"their/key", b"\xff")
    foreign(topology.REGISTRY, 0, b"their/key", None)
    foreign(topology.REGISTRY, 0, b"namespace/a", value_of(CODEC, _registered("a", 1)))
    failures: list[Exception] = []
    follower = RegistryFollower(settings, CODEC, failures.append)
    follower.start()
    assert follower.wait_whole(20)
    follower.stop()
    assert (set(follower.namespaces), follower.damaged, failures) == ({"a"}, 2, [])


def _registered(name: str, offset: int) -> Record:
    config = bodies.NamespaceConfig(name, f"id-{name}", 1, 3_600_000)
    return Record(
        topology.REGISTRY,
        0,
        f"namespace/{name}",
        bodies.NamespaceChanged(config),
        source="commands/0@id",
        origin_offset=offset,
    )


# What is ours


@pytest.mark.parametrize("kind", ["damaged", "newer"])
def test_rule_7_a_change_of_namespaces_that_cannot_be_read_is_not_passed_over(
    settings: KafkaSettings, foreign: Callable[..., None], kind: str
) -> None:
    record = _registered("a", 1)
    name = "NamespaceChanged" if kind == "damaged" else "NamespaceSealed"
    record.body = Undecodable(name, "", b"\xff")
    foreign(topology.REGISTRY, 0, b"namespace/a", value_of(CODEC, record))
    failures: list[Exception] = []
    follower = RegistryFollower(settings, CODEC, failures.append)
    follower.start()
    (failure,) = wait_for(lambda: failures)
    follower.stop()
    topic = Names(settings.prefix).topic(topology.REGISTRY)
    if kind == "newer":
        assert isinstance(failure, UnsupportedLogicError)
        assert "type 'NamespaceSealed', which this release does not know: start a newer release" in str(
            failure
        )
        return
    assert f"{topic}/0: record 0 of commands/0@id (NamespaceChanged, key 'namespace/a') is damaged" in str(
        failure
    )
    passing = settings.model_copy(update={"pass_over": (f"{topic}/0@0",)})
    follower = RegistryFollower(passing, CODEC, failures.append)
    follower.start()
    assert follower.wait_whole(20)
    follower.stop()
    assert len(failures) == 1


def test_a_record_of_nobody_in_a_changelog_is_refused_until_it_is_said_to_be_left_out(
    settings: KafkaSettings, alone: Callable[..., Member], foreign: Callable[..., None], tmp_path: Path
) -> None:
    member = alone()
    checkpointed(member, settings)
    member.stop()
    foreign("timer-changelog", 0, b"their/key", b"value", [("other", b"12345678")])
    (strange,) = [m for m in read_all(settings, "timer-changelog") if m.key() == b"their/key"]
    cold = settings.model_copy(update={"state_directory": tmp_path / "elsewhere"})
    member = alone(settings=cold)
    reason = refusal(member)
    where = f"{Names(settings.prefix).changelog('timer')}/0"
    assert f"{where}: record {strange.offset()} is not one of a checkpoint: somebody else wrote it" in reason
    assert f"with {where}@{strange.offset()} in the setting `kafka.pass_over`" in reason
    wait_for(lambda: member.owned == [1])
    member.stop()
    member = alone(settings=cold.model_copy(update={"pass_over": (f"{where}@{strange.offset()}",)}))
    wait_for(lambda: owns_all(member, settings))


def test_a_damaged_position_is_refused(settings: KafkaSettings, alone: Callable[..., Member]) -> None:
    member = alone()
    checkpointed(member, settings)
    member.stop()
    commit(settings, "timer", [(keys.POSITION, b"\xff")])
    reason = refusal(alone())
    assert "is damaged: not a Position" in reason
    assert "Bring the changelog back from a backup" in reason


def test_rule_3_a_position_beyond_the_end_of_the_log_is_refused(
    settings: KafkaSettings, alone: Callable[..., Member]
) -> None:
    member = alone()
    checkpointed(member, settings)
    member.stop()
    position = msgspec.structs.replace(last_position(settings), offset=1_000, row_count=0, checksum=0)
    commit(settings, "timer", [(keys.POSITION, avro.encode(position))])
    reason = refusal(alone())
    assert "the checkpoint is at offset 1000, beyond the end of the log at" in reason
    assert "Bring back a replica or a backup that has record 1000" in reason


def test_rule_3_a_log_that_went_on_in_another_leader_epoch_is_refused(
    settings: KafkaSettings, alone: Callable[..., Member]
) -> None:
    member = alone()
    checkpointed(member, settings)
    member.stop()
    position = last_position(settings)
    former = msgspec.structs.replace(
        position, leader_epoch=position.leader_epoch + 7, row_count=0, checksum=0
    )
    commit(settings, "timer", [(keys.POSITION, avro.encode(former))])
    reason = refusal(alone())
    epochs = f"was of leader epoch {former.leader_epoch}, the log has it in {position.leader_epoch}: "
    assert f"timers/0: record {position.offset} {epochs}the log was cut off and went on otherwise" in reason


@pytest.mark.parametrize("emptied", [False, True], ids=["cut", "emptied"])
def test_a_changelog_that_was_cut_is_refused_but_where_a_local_store_has_it(
    settings: KafkaSettings,
    alone: Callable[..., Member],
    broker_admin: AdminClient,
    tmp_path: Path,
    emptied: bool,
) -> None:
    member = alone()
    checkpointed(member, settings)
    driver = Driver(settings)
    driver.append(
        topology.TIMERS, "", bodies.SetTimer("ns", "wf", "run", 1 << 50, 1), awaited=False, partition=0
    )
    driver.close()
    wait_for(lambda: member.status.partitions[0].dirty_keys == 0)
    wait_for(lambda: last_position(settings).offset == member.status.partitions[0].position)
    member.stop()
    topic = Names(settings.prefix).changelog("timer")
    place = TopicPartition(topic, 0)
    (future,) = broker_admin.list_offsets({place: OffsetSpec.latest()}).values()
    cut(broker_admin, topic, future.result().offset if emptied else 1)
    cold = alone(settings=settings.model_copy(update={"state_directory": tmp_path / "elsewhere"}))
    reason = refusal(cold)
    assert f"{topic}/0 begins at" in reason
    assert "where only compaction may take any. Bring it back from a backup" in reason
    cold.stop()
    warm = alone()
    if emptied:
        assert f"{topic}/0 begins at" in refusal(warm)
    else:
        wait_for(lambda: owns_all(warm, settings))


def test_rule_10_a_partition_whose_chain_is_broken_halts_and_says_so(
    settings: KafkaSettings, alone: Callable[..., Member], foreign: Callable[..., None]
) -> None:
    member = alone()
    wait_for(lambda: owns_all(member, settings))
    body = bodies.SetTimer("ns", "wf", "run", 1 << 50, 1)
    for offset in (1, 2):
        record = Record(topology.TIMERS, 0, "ns/wf", body, source="commands/0@id", origin_offset=offset)
        foreign(topology.TIMERS, 0, b"ns/wf", value_of(CODEC, record))
    assert "starts a chain that has already begun" in refusal(member, state="halted")
    assert member.owned == [1]


# Deletion


def test_rule_4_commands_go_when_a_checkpoint_and_the_store_have_them_and_no_earlier(
    settings: KafkaSettings,
    alone: Callable[..., Member],
    broker_admin: AdminClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.kafka.record_deletion._WORTH_IT", 5)
    monkeypatch.setattr("streams.kafka.member.COMMIT_MS", 50)
    stored = {0: -1, 1: -1}
    member = alone(
        "history",
        settings=settings.model_copy(update={"safety_span": 2}),
        materialised=lambda partition: stored[partition.number],
    )
    wait_for(lambda: owns_all(member, settings))
    driver = Driver(settings)
    limits = bodies.LimitsChanged((bodies.NumberPair("a", 1),))
    for _ in range(30):
        driver.append(topology.COMMANDS, topology.REGISTRY_KEY, limits, awaited=False, partition=0)
    wait_for(lambda: member.status.partitions[0].checkpoint_offset >= 30)
    place = TopicPartition(Names(settings.prefix).topic(topology.COMMANDS), 0)

    def begins_at() -> int:
        (future,) = broker_admin.list_offsets({place: OffsetSpec.earliest()}).values()
        return int(future.result().offset)

    assert begins_at() == 0
    stored[0] = 19
    wait_for(lambda: begins_at() == 18)
    stored[0] = 1 << 62
    wait_for(lambda: begins_at() == member.status.partitions[0].checkpoint_offset + 1 - 2)
    assert member.status.partitions[0].deleted_below == begins_at()
    driver.close()


# The machine


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "odradek-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_ownerships_harms_nothing_and_is_got_over(
    settings: KafkaSettings, alone: Callable[..., Member], small_disk: Path, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"state_directory": small_disk})
    member = alone(settings=settings)
    checkpointed(member, settings)
    ballast = small_disk / "ballast"
    _fill(ballast)
    _set_timers(settings, 4_500)
    wait_for(lambda: "No space left on device" in refusal(member))
    folder = small_disk / settings.prefix / "timer-0"
    paths = list(folder.iterdir())
    ballast.unlink()
    wait_for(lambda: owns_all(member, settings))
    assert list(folder.iterdir()) == paths  # it was not thrown away for what was not its fault
    # What the member knows of the log's end may be from before it was full.
    end = high_watermarks(Cluster(settings).client, Names(settings.prefix).topic(topology.TIMERS), [0])[0]
    wait_for(lambda: member.status.partitions[0].checkpoint_offset >= end - 1)
    member.stop()
    assert len(_timers_of(settings, alone)) == 4_500
    assert len(_timers_of(settings.model_copy(update={"state_directory": tmp_path / "new"}), alone)) == 4_500


def _fill(path: Path) -> None:
    """Write until there is no more room."""
    with path.open("wb", buffering=0) as file:
        for size in (MEGABYTE, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


def _set_timers(settings: KafkaSettings, count: int) -> None:
    """Have far timers of workflows with long names, in partition 0."""
    producer = Producer(settings.producer())
    topic = Names(settings.prefix).topic(topology.TIMERS)
    for number in range(count):
        body = bodies.SetTimer("ns", f"{number:05}-{'w' * 2_990}", "run", (1 << 50) + number, 1)
        record = Record(
            topology.TIMERS, 0, "ns/wf", body, source="test", origin_epoch=1, origin_offset=number + 1
        )
        producer.produce(topic, value_of(CODEC, record), b"ns/wf", 0)
    assert producer.flush(60) == 0


def _timers_of(settings: KafkaSettings, alone: Callable[..., Member]) -> set[str]:
    """The keys that are due some day in partition 0, as a member restores them."""
    member = alone(settings=settings)
    wait_for(lambda: owns_all(member, settings))
    member.stop()
    folder = settings.state_directory / settings.prefix / "timer-0"
    store = open_store(folder, MEGABYTE, lambda head: "")
    found = {key for key, _, _ in store.load_due("timers/0", 0, 1 << 60)}
    store.close()
    return found
