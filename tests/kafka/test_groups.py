"""Members join groups by the protocol that the brokers have, and keep what they have while others come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local import java
from deploy.local.kafka import BrokerPorts, KafkaCluster
from deploy.local.ports import free_ports
from streams.kafka import groups
from streams.kafka.admin import Cluster
from streams.kafka.group_configs import GroupConfigs
from streams.kafka.member import Member
from streams.kafka.names import GROUPS, Names
from streams.kafka.settings import KafkaSettings
from streams.runtime.logic import SUPPORTED_LOGIC_VERSION
from tests.kafka.driving import apply_topics, owns_all, settings_for, stop_members, wait_for


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    made = settings_for(broker.bootstrap_servers, topic_prefix, tmp_path / "state", partitions=4)
    apply_topics(made)
    return made


@pytest.fixture
def start(settings: KafkaSettings, tmp_path: Path) -> Iterator[Callable[..., Member]]:
    """Starts a member that owns timers; it leaves when the test ends."""
    running: list[Member] = []

    def start_one(name: str, protocol: str) -> Member:
        update = {"member_name": name, "state_directory": tmp_path / name, "group_protocol": protocol}
        member = Member("timer", settings.model_copy(update=update))
        running.append(member)
        member.start()
        return member

    yield start_one
    stop_members([member for member in running if member.is_alive], release=False)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("auto", "consumer"), ("consumer", "consumer"), ("classic", "classic")],
)
def test_a_member_that_joins_takes_its_share_and_nobody_begins_again(
    settings: KafkaSettings, start: Callable[..., Member], wanted: str, found: str
) -> None:
    first = start("first", wanted)
    wait_for(lambda: owns_all(first, settings))
    before = dict(first.status.partitions)
    second = start("second", wanted)
    wait_for(lambda: len(first.owned) == len(second.owned) == 2)
    # Cooperative: what it kept it never let go of.
    for number, status in first.status.partitions.items():
        assert status is before[number]
        assert status.takeovers_total == 1
    name = Names(settings.prefix).group("timer")

    def described() -> groups.Group | None:
        group = groups.describe(Cluster(settings).client, [name])[name]
        return group if group.stable else None

    group = wait_for(described)
    assert group.protocol == found
    members = {member.name: member for member in group.members}
    assert set(members) == {"first", "second"}
    assert {m.supported_logic for m in group.members} == {SUPPORTED_LOGIC_VERSION}
    topic = Names(settings.prefix).topic("timers")
    assert members["first"].partitions == {(topic, number) for number in first.owned}
    assert members["second"].partitions == {(topic, number) for number in second.owned}
    stop_members([first, second])


def test_members_take_the_classic_protocol_where_the_brokers_have_no_other(
    parts_directory: Path, topic_prefix: str, tmp_path: Path
) -> None:
    properties = {"group.coordinator.rebalance.protocols": "classic"}
    ports = [BrokerPorts(*free_ports(2))]
    older = KafkaCluster(parts_directory / "older", ports, properties, java.SHORT_LIVED)
    older.start()
    try:
        settings = settings_for(older.bootstrap_servers, topic_prefix, tmp_path / "state")
        apply_topics(settings)
        cluster = Cluster(settings)
        assert not cluster.offers_new_groups()
        assert GroupConfigs(settings, cluster).differences() == []
        member = Member("timer", settings)
        member.start()
        wait_for(lambda: owns_all(member, settings))
        name = Names(settings.prefix).group("timer")
        assert groups.describe(cluster.client, [name])[name].protocol == "classic"
        member.stop()
    finally:
        older.kill()


def test_brokers_are_told_how_soon_a_dead_member_is_noticed(settings: KafkaSettings) -> None:
    wanted = settings.model_copy(update={"session_timeout_ms": 9_000})
    configs = GroupConfigs(wanted, Cluster(wanted))
    found = configs.differences()
    assert {difference.topic for difference in found} == {
        f"group {Names(settings.prefix).group(role)}" for role in GROUPS
    }
    assert "has consumer.session.timeout.ms=6000, wanted 9000" in [difference.what for difference in found]
    configs.apply()
    wait_for(lambda: not configs.differences())
    too_short = settings.model_copy(update={"session_timeout_ms": 10})
    note = "(the settings say 10, the brokers' group.consumer.*.session.timeout.ms are 1000 to 60000)"
    assert any(
        difference.what == f"has consumer.session.timeout.ms=9000, wanted 1000 {note}"
        for difference in GroupConfigs(too_short, Cluster(too_short)).differences()
    )


def test_members_bring_their_session_timeout_with_the_classic_protocol(settings: KafkaSettings) -> None:
    classic = settings.model_copy(update={"session_timeout_ms": 9_000, "group_protocol": "classic"})
    cluster = Cluster(classic)
    assert GroupConfigs(classic, cluster).differences() == []
    config = groups.group_config(classic, cluster, "timer")
    assert config["session.timeout.ms"] == 9_000
    assert config["heartbeat.interval.ms"] == 750
    assert "session.timeout.ms" not in groups.group_config(settings, cluster, "timer")
