"""Standby owners on a real broker: they keep copies of what others own, and restore almost nothing to take over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from deploy.local.kafka import KafkaCluster
from deploy.local.ports import free_ports
from streams import bodies, topology
from streams.kafka import keys
from streams.kafka.member import Member
from streams.kafka.names import PROCESSORS, Names
from streams.kafka.rocks import Head, PartitionStore
from streams.kafka.settings import KafkaSettings
from streams.kafka.silence import LEAST_S
from streams.runtime.local_store import LocalHead
from tests.kafka.driving import (
    Driver,
    apply_topics,
    driving,
    owns_all,
    read_all,
    settings_for,
    stop_members,
    wait_for,
)
from tests.kafka.refolds import CACHE_BYTES, check_refold
from tests.support import cluster_server

DAY_MS = 24 * 3600 * 1000
JUNK = keys.row_key("junk", "key", "kind", "id")

Start = Callable[..., Member]


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state", standbys=1)
    apply_topics(made)
    return made


@pytest.fixture
def start(settings: KafkaSettings, tmp_path: Path) -> Iterator[Start]:
    """Starts a member of a role, with a disk of its own for each name; it leaves when the test ends."""
    running: list[Member] = []

    def start_one(role: str, name: str = "a", **more: Any) -> Member:
        member = Member(role, _on(settings, tmp_path / name, name, **more))
        running.append(member)
        member.start()
        return member

    yield start_one
    stop_members([member for member in running if member.is_alive], release=False)


def test_a_standby_takes_over_having_restored_few_records(
    settings: KafkaSettings, start: Start, tmp_path: Path
) -> None:
    first = start("history")
    others = [start("matching"), start("timer")]
    wait_for(lambda: all(owns_all(member, settings) for member in (first, *others)))
    with driving(settings) as driver:
        for number in range(20):
            driver.run_workflow(f"early-{number}")
        second = start("history", "b")
        followed = _followed(second)
        for number in range(10):
            driver.run_workflow(f"late-{number}")
        _wait_until_kept_up(settings, second, followed, first)
        first.stop(release=False)
        changelog = [m for m in read_all(settings, "history-changelog") if m.partition() == followed]
        wait_for(lambda: owns_all(second, settings))
        status = second.status.partitions[followed]
        # The last checkpoint is read again, to be verified, and nothing else.
        assert status.restored_total == len([m for m in changelog if m.headers() == changelog[-1].headers()])
        assert status.restored_total < len(changelog) / 2
        assert second.status.standbys == {}
        driver.run_workflow("after")
    stop_members([second, *others])
    for partition in range(2):
        check_refold(_on(settings, tmp_path / "b", "b"), "history", partition)


def test_a_copy_is_what_a_refold_gives_and_has_nothing_of_an_aborted_checkpoint(
    settings: KafkaSettings, start: Start, tmp_path: Path
) -> None:
    owner, standby, followed = _owner_and_standby(settings, start)
    driver = Driver(settings)
    _set_timers(driver, followed, range(5))
    _wait_until_kept_up(settings, standby, followed, owner)
    _write_aborted(settings, followed)
    _set_timers(driver, followed, range(5, 10))
    _wait_until_kept_up(settings, standby, followed, owner)
    driver.close()
    owner_offset = owner.status.partitions[followed].position
    # The follower leaves first, so that it never becomes the owner.
    standby.stop(release=False)
    path = _store_path(settings, tmp_path / "b", followed)
    store = PartitionStore(path, CACHE_BYTES)
    assert JUNK not in dict(store.contents())
    position = store.position()
    assert position is not None
    assert position.offset == owner_offset
    store.close()
    wait_for(lambda: owns_all(owner, settings))
    owner.stop()
    check_refold(_on(settings, tmp_path / "a", "a"), "timer", followed)
    check_refold(_on(settings, tmp_path / "b", "b"), "timer", followed)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda head: LocalHead(head.lineage, head.changelog_offset, head.time_ms - 4 * DAY_MS),
        lambda head: LocalHead(head.lineage, head.changelog_offset + 1_000, head.time_ms),
        lambda head: LocalHead("another", head.changelog_offset, head.time_ms),
    ],
    ids=["older than deletions are kept", "ahead of the changelog", "of another changelog"],
)
def test_a_copy_that_cannot_be_used_is_wiped_and_restored(
    settings: KafkaSettings, start: Start, tmp_path: Path, spoil: Callable[[LocalHead], LocalHead]
) -> None:
    owner, standby, followed = _owner_and_standby(settings, start)
    driver = Driver(settings)
    _set_timers(driver, followed, range(3))
    _wait_until_kept_up(settings, standby, followed, owner)
    standby.stop(release=False)
    wait_for(lambda: owns_all(owner, settings))
    path = _store_path(settings, tmp_path / "b", followed)
    store = PartitionStore(path, CACHE_BYTES)
    head = store.head()
    assert head is not None
    store.apply([(JUNK, b"junk")], Head(spoil(head.local), head.checkpoint_offset))
    store.close()
    standby = start("timer", "b")
    followed_now = _followed(standby)
    if followed_now != followed:  # then it owns that one now, which wipes as well
        wait_for(lambda: standby.owned == [followed])
    _set_timers(driver, followed, range(3, 6))
    driver.close()
    assert not path.exists()
    stop_members([owner, standby])
    check_refold(_on(settings, tmp_path / "b", "b"), "timer", followed)


def test_an_owner_that_gives_a_partition_away_keeps_a_copy(
    settings: KafkaSettings, start: Start, tmp_path: Path
) -> None:
    owner = start("timer")
    wait_for(lambda: owns_all(owner, settings))
    path = _store_path(settings, tmp_path / "a", 0)
    other = start("timer", "b")
    wait_for(lambda: len(other.owned) == 1 and len(owner.owned) == 1)
    (given,) = other.owned
    copy = wait_for(lambda: owner.status.standbys.get(given))
    wait_for(lambda: copy.state == "following")
    assert copy.records_total < 10
    if given == 0:
        assert _store_path(settings, tmp_path / "a", 0) == path
    other.stop()
    wait_for(lambda: owns_all(owner, settings))
    assert owner.status.standbys == {}


def test_without_the_setting_no_owner_that_works_is_followed(settings: KafkaSettings, start: Start) -> None:
    members = [start("timer", name, standbys=0) for name in "ab"]
    wait_for(lambda: all(len(member.owned) == 1 for member in members))
    driver = Driver(settings)
    until_s = time.monotonic() + 2 * LEAST_S
    sent = 0
    while time.monotonic() < until_s:
        for partition in range(2):
            _set_timers(driver, partition, range(sent, sent + 1))
        sent += 1
        _wait_until_folded(members, sent)
    driver.close()
    assert not any(member.status.standbys for member in members)
    stop_members(members)
    for thread_owner in members:
        assert not thread_owner.is_alive


def test_a_process_that_is_killed_is_replaced_by_its_standby(settings: KafkaSettings, tmp_path: Path) -> None:
    ports = free_ports(2)
    first, second = _start_processes(settings, tmp_path, ports, "history,matching,timer", standbys=1)
    with driving(settings) as driver:
        for number in range(100):
            driver.start(f"wf-{number}")
        cluster_server.wait_until(lambda: _sum(ports[1], "odradek_standby_following") == 3)
        # Stores are told of events a moment later, which changes the runs once more: until all of it is followed.
        cluster_server.wait_until(lambda: len(read_all(settings, "history")) >= 100)
        cluster_server.wait_until(
            lambda: sum(_metric(port, "odradek_dirty_keys", n) for port in ports for n in range(2)) == 0
        )
        cluster_server.wait_until(lambda: _sum(ports[1], "odradek_standby_lag") == 0)
        (followed,) = (n for n in range(2) if _metric(ports[1], "odradek_standby_following", n))
        before = [m for m in read_all(settings, "history-changelog") if m.partition() == followed]
        first.process.kill()
        cluster_server.wait_until(lambda: _sum(ports[1], "odradek_partition_owned") == 6)
        assert len(before) > 40
        assert _metric(ports[1], "odradek_restore_records_total", followed) < len(before) / 2
        driver.run_workflow("after")
    first.process.wait()
    assert second.stop() == 0


def test_a_silent_owner_is_followed_before_its_session_is_over(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    ports = free_ports(2)
    patient = settings.model_copy(update={"session_timeout_ms": 15_000})
    apply_topics(patient)
    first, second = _start_processes(patient, tmp_path, ports, "timer", standbys=0, session_timeout_ms=15_000)
    (number,) = (n for n in range(2) if _metric(ports[0], "odradek_partition_owned", n, "timer"))
    driver = Driver(settings)
    _set_timers(driver, number, range(100))
    cluster_server.wait_until(
        lambda: _metric(ports[0], "odradek_checkpoint_offset", number, "timer") >= 100  # a marker was first
    )
    before = [m for m in read_all(settings, "timer-changelog") if m.partition() == number]
    assert not _sum(ports[1], "odradek_standby_following")
    first.process.kill()
    more = itertools.count(100)

    def is_followed() -> bool:
        # Work goes on: one record that comes within the look that sees the last checkpoint may be of that checkpoint.
        n = next(more)
        _set_timers(driver, number, range(n, n + 1))
        return _metric(ports[1], "odradek_standby_following", number, "timer") == 1

    cluster_server.wait_until(is_followed)
    assert _sum(ports[1], "odradek_partition_owned") == 1
    cluster_server.wait_until(lambda: _sum(ports[1], "odradek_partition_owned") == 2)
    assert len(before) > 100
    assert _metric(ports[1], "odradek_restore_records_total", number, "timer") < len(before)
    count = next(more)
    cluster_server.wait_until(
        lambda: _metric(ports[1], "odradek_partition_position", number, "timer") >= count
    )
    driver.close()
    first.process.wait()
    assert second.stop() == 0
    check_refold(_on(settings, tmp_path / "b" / "state", "b"), "timer", number)


# Helpers


def _start_processes(
    settings: KafkaSettings, directory: Path, ports: Sequence[int], roles: str, **kafka: Any
) -> list[cluster_server.ServerProcess]:
    """Two processes with these roles, each ready and with a disk of its own, which tell their metrics at `ports`."""
    servers = []
    for name, port in zip("ab", ports, strict=True):
        (directory / name).mkdir()
        config = cluster_server.write_settings(
            directory / name / "settings.yaml",
            brokers=settings.brokers,
            prefix=settings.prefix,
            port=0,
            metrics_port=port,
            stores=cluster_server.sqlite_stores(directory),
            kafka={"member_name": name, **kafka},
        )
        server = cluster_server.ServerProcess(config, directory / name / "log", "--roles", roles)
        servers.append(server)
        server.wait_until_ready(port)
    return servers


def _sum(port: int, name: str) -> float:
    """A metric of a process, over all its partitions."""
    return sum(v for key, v in cluster_server.metrics(port).items() if key.startswith(name + "{"))


def _metric(port: int, name: str, partition: int, processor: str = "history") -> float:
    """A metric of a processor's partition, 0 where the process has no such."""
    labels = f'{{processor="{processor}",partition="{partition}"}}'
    return cluster_server.metrics(port).get(name + labels, 0)


def _on(settings: KafkaSettings, disk: Path, name: str, **more: Any) -> KafkaSettings:
    """The settings of a member with a disk of its own."""
    return settings.model_copy(update={"state_directory": disk, "member_name": name, **more})


def _followed(member: Member) -> int:
    """The one partition that a member owns not, once it has a copy of it."""

    def following() -> list[int]:
        return [n for n, copy in list(member.status.standbys.items()) if copy.state == "following"]

    wait_for(lambda: len(member.owned) == 1 and following())
    (number,) = following()
    return number


def _owner_and_standby(settings: KafkaSettings, start: Start) -> tuple[Member, Member, int]:
    """A member that owns a partition, one that follows it, and the partition."""
    owner = start("timer")
    wait_for(lambda: owns_all(owner, settings))
    standby = start("timer", "b")
    return owner, standby, _followed(standby)


def _wait_until_kept_up(settings: KafkaSettings, standby: Member, number: int, owner: Member) -> None:
    """Wait until the owner has all that is in the log in a checkpoint, and the copy has that."""
    name = PROCESSORS[owner.role]
    status, copy = owner.status.partitions[number], standby.status.standbys[number]

    def kept_up() -> bool:
        last = max(m.offset() for m in read_all(settings, name) if m.partition() == number)
        return copy.checkpoint_offset == status.checkpoint_offset == last and copy.lag == 0

    wait_for(kept_up)


def _wait_until_folded(members: Sequence[Member], offset: int) -> None:
    wait_for(lambda: all(p.position >= offset for m in members for p in m.status.partitions.values()))


def _set_timers(driver: Driver, partition: int, numbers: range) -> None:
    """Arm timers that are far from due."""
    for number in numbers:
        body = bodies.SetTimer("ns", f"wf-{number}", f"run-{number}", 1 << 50, 1)
        driver.append(topology.TIMERS, f"ns/wf-{number}", body, awaited=False, partition=partition)


def _write_aborted(settings: KafkaSettings, partition: int) -> None:
    """What a former owner had under way when it was fenced."""
    producer = Producer({**settings.producer(), "transactional.id": "zombie"})
    producer.init_transactions(10)
    producer.begin_transaction()
    topic = Names(settings.prefix).changelog("timer")
    producer.produce(topic, b"junk", JUNK, partition, headers=[("checkpoint", b"\0" * 8)])
    assert producer.flush(10) == 0
    producer.abort_transaction(10)


def _store_path(settings: KafkaSettings, disk: Path, partition: int) -> Path:
    """The one store of a partition of timers on a disk."""
    (path,) = (disk / settings.prefix / f"timer-{partition}").iterdir()
    return path
