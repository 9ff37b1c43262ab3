"""`odradek upgrade` on a real broker: a version is raised once all live members have it, and not before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer

from deploy.local.kafka import KafkaCluster
from deploy.local.ports import free_ports
from server.cli import main
from server.supervisor import CANNOT_START
from streams import topology
from streams.kafka.admin import ClusterError
from streams.kafka.member import ROLES, Member
from streams.kafka.names import PROCESSORS, Names
from streams.kafka.presence import Presence
from streams.kafka.settings import KafkaSettings
from streams.kafka.upgrades import UpgradeRefusedError, Upgrades
from streams.runtime.logic import SUPPORTED_LOGIC_VERSION, LogicMarker, UnsupportedLogicError
from tests.kafka.driving import (
    Driver,
    apply_topics,
    driving,
    owns_all,
    settings_for,
    stop_members,
    wait_for,
)
from tests.kafka.refolds import check_refold, last_position
from tests.support import cluster_server

NEW = SUPPORTED_LOGIC_VERSION
OLD = NEW - 1

Start = Callable[..., Member]


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state")
    apply_topics(made)
    return made


@pytest.fixture
def start(settings: KafkaSettings, tmp_path: Path) -> Iterator[Start]:
    """Starts a member of a role that has logic up to a version; it leaves when the test ends."""
    running: list[Member] = []

    def start_one(role: str, supported: int, name: str, **more: Any) -> Member:
        update = {"member_name": name, "state_directory": tmp_path / name}
        member = Member(role, settings.model_copy(update=update), supported_logic=supported, **more)
        running.append(member)
        member.start()
        return member

    yield start_one
    stop_members([member for member in running if member.is_alive], release=False)


@pytest.fixture
def command(settings: KafkaSettings, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs `odradek upgrade`."""
    config = tmp_path / "odradek.toml"
    config.write_text(
        f'[kafka]\nbrokers = "{settings.brokers}"\nprefix = "{settings.prefix}"\npartitions = 2\nreplication = 1\n'
    )

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["upgrade", *arguments, "--config", str(config)])
        return result.exit_code, result.output

    return run


def test_an_old_and_a_new_member_share_a_group_until_the_version_is_raised(
    settings: KafkaSettings, start: Start, command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    old = [start(role, OLD, "old") for role in ROLES]
    wait_for(lambda: all(owns_all(member, settings) for member in old))
    with driving(settings) as driver:
        driver.run_workflow("before")
        new = [start(role, NEW, "new") for role in ROLES]
        wait_for(lambda: all(len(member.owned) == 1 for member in (*old, *new)))
        for number in range(4):
            driver.run_workflow(f"mixed-{number}")
        code, output = command("finalize")
        assert code == 1
        assert f"logic version {NEW} cannot be raised yet, these live members do not have it: " in output
        for role in ROLES:
            group = Names(settings.prefix).group(role)
            assert f"old in {group} at 127.0.0.1 (up to {OLD})" in output
            assert f"new in {group}" not in output
        code, output = command("status")
        assert code == 1
        assert f"commands: version {OLD} in 2 of 2 partitions" in output
        assert f"version {NEW} waits for old\n" in output
        stop_members(old)
        wait_for(lambda: all(owns_all(member, settings) for member in new))
        code, output = command("status")
        assert code == 1
        assert f"version {NEW} can be made final: odradek upgrade finalize" in output
        code, output = command("finalize")
        assert code == 0, output
        assert f"tasks/1 is folded by logic version {NEW} now\n" in output
        assert command("finalize") == (0, f"version {NEW} is in force everywhere already\n")
        code, output = command("status")
        assert (code, output.splitlines()[-1]) == (0, f"version {NEW} is in force everywhere")
        driver.run_workflow("after")
    _old_one_is_refused(settings, start, new)
    stop_members(new)
    on_new = settings.model_copy(update={"state_directory": tmp_path / "new"})
    for role in ROLES:
        for partition in range(2):
            assert last_position(settings, role, partition).logic_version == NEW
            check_refold(on_new, role, partition)


def _old_one_is_refused(settings: KafkaSettings, start: Start, new: list[Member]) -> None:
    """An old member that comes later ends with the reason, and takes nothing from anybody."""
    takeovers = [p.takeovers_total for member in new for p in member.status.partitions.values()]
    ended: list[BaseException | None] = []
    start("timer", OLD, "late", on_end=ended.append)
    (reason,) = wait_for(lambda: ended)
    assert isinstance(reason, UnsupportedLogicError)
    assert str(reason) == (
        f"timers/0 is folded by logic version {NEW}, this release has versions up to {OLD}: start a newer release"
    )
    assert all(owns_all(member, settings) for member in new)
    assert [p.takeovers_total for member in new for p in member.status.partitions.values()] == takeovers


def test_a_server_without_the_logic_in_force_ends_for_good(
    settings: KafkaSettings, start: Start, tmp_path: Path
) -> None:
    (metrics_port,) = free_ports(1)
    config = cluster_server.write_settings(
        tmp_path / "settings.yaml",
        brokers=settings.brokers,
        prefix=settings.prefix,
        port=0,
        metrics_port=metrics_port,
        stores={},
    )
    flags = ("--roles", "timer")
    server = cluster_server.ServerProcess(config, tmp_path / "log", *flags)
    server.wait_until_ready(metrics_port)
    driver = Driver(settings)
    driver.append(topology.TIMERS, "", LogicMarker(99), awaited=False, partition=0)
    driver.close()
    assert server.process.wait(30) == CANNOT_START
    assert "timers/0 is folded by logic version 99" in server.log
    newer = start("timer", 99, "newer")
    wait_for(lambda: owns_all(newer, settings))
    newer.stop()
    again = cluster_server.ServerProcess(config, tmp_path / "again", *flags)
    assert again.process.wait(30) == CANNOT_START
    assert "timers/0 is folded by logic version 99" in again.log


def test_a_gateway_of_an_old_release_holds_the_upgrade_up(settings: KafkaSettings) -> None:
    gateway = Presence(settings.model_copy(update={"member_name": "host-7233-0"}), "gateway", OLD)
    gateway.start()
    wait_for(lambda: _members(settings) == ["host-7233-0"])
    with pytest.raises(UpgradeRefusedError, match=r"host-7233-0 in .*-gateway at 127.0.0.1 \(up to "):
        Upgrades(settings).finalize(NEW)
    gateway.stop()
    wait_for(lambda: _members(settings) == [])


def test_a_member_that_does_not_say_what_it_has_holds_the_upgrade_up(settings: KafkaSettings) -> None:
    names = Names(settings.prefix)
    config = {**settings.consumer(), "group.id": names.group("timer"), "client.id": "somebody"}
    stranger = Consumer(config)
    stranger.subscribe([names.topic(topology.TIMERS)])
    wait_for(lambda: stranger.poll(0.1) or _members(settings) == ["somebody"])
    with pytest.raises(UpgradeRefusedError, match=r"somebody in .*-timer at .* \(an unknown logic version\)"):
        Upgrades(settings).finalize(NEW)
    stranger.close()


def test_markers_of_partitions_without_an_owner_are_written_and_named(settings: KafkaSettings) -> None:
    wait_for(lambda: _members(settings) == [])
    upgrades = Upgrades(settings)
    assert upgrades.status().in_force == {topic: {0: None, 1: None} for topic in PROCESSORS.values()}
    with pytest.raises(
        UpgradeRefusedError, match="there is no checkpoint behind them of commands/0, commands/1"
    ):
        upgrades.finalize(NEW, timeout_s=0)


def _members(settings: KafkaSettings) -> list[str] | None:
    """Who is in a group now; None while a broker that has just started does not know yet."""
    try:
        return [member.name for member in Upgrades(settings).status().members]
    except ClusterError:
        return None
