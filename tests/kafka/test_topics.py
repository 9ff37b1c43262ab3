"""Topics are created as the settings say, compared with them, and never re-partitioned."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient

from deploy.local.kafka import KafkaCluster
from server.cli import main
from streams.kafka.admin import Cluster, ClusterError
from streams.kafka.names import ALL_TOPICS
from streams.kafka.settings import KafkaSettings, TopicSettings
from tests.kafka.driving import apply_topics, settings_for, wait_for


@pytest.fixture
def settings(broker: KafkaCluster, topic_prefix: str, tmp_path: Path) -> KafkaSettings:
    return settings_for(broker.bootstrap_servers, topic_prefix, tmp_path)


def _changed(settings: KafkaSettings, **topics: TopicSettings) -> KafkaSettings:
    return settings.model_copy(update={"topics": topics})


def test_apply_creates_every_topic_as_wanted(settings: KafkaSettings) -> None:
    cluster = Cluster(settings)
    assert {d.what for d in cluster.apply()} == {
        "is missing; wanted with 2 partitions, replication 1",
        "is missing; wanted with 1 partitions, replication 1",
    }
    wait_for(lambda: not cluster.differences())
    found = cluster.check()
    assert set(found) == set(ALL_TOPICS)
    assert found["history-changelog"].partitions == found["commands"].partitions == 2
    configs = cluster.describe()["commands"].configs
    assert configs["message.timestamp.type"] == "LogAppendTime"
    assert configs["retention.ms"] == "-1"
    assert cluster.describe()["timer-changelog"].configs["cleanup.policy"] == "compact"
    assert cluster.apply() == []


def test_apply_sets_configs_that_differ(settings: KafkaSettings) -> None:
    apply_topics(settings)
    wanted = _changed(settings, replies=TopicSettings(configs={"retention.ms": "120000"}))
    (difference,) = Cluster(wanted).differences()
    assert difference.applicable
    assert difference.what == "has retention.ms=600000, wanted 120000"
    Cluster(wanted).apply()
    wait_for(lambda: not Cluster(wanted).differences())


def test_partitions_never_change(settings: KafkaSettings) -> None:
    apply_topics(settings)
    wanted = _changed(settings, commands=TopicSettings(partitions=5))
    differences = Cluster(wanted).apply()
    assert {(d.topic.rpartition(".")[2], d.what, d.applicable) for d in differences} == {
        ("commands", "has 2 partitions, wanted 5", False),
        ("history-changelog", "has 2 partitions, wanted 5", False),
    }
    assert Cluster(settings).describe()["commands"].partitions == 2
    with pytest.raises(ClusterError, match="commands has 2 partitions, the settings say 5"):
        Cluster(wanted).check()


def test_a_missing_topic_is_named(settings: KafkaSettings) -> None:
    with pytest.raises(
        ClusterError, match=r"there is no topic .*commands: create what is missing with `odradek"
    ):
        Cluster(settings).check()


def test_a_cluster_that_is_not_there_is_an_error(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.kafka.admin.REQUEST_TIMEOUT_S", 1.0)
    with pytest.raises(ClusterError, match="did not answer"):
        Cluster(settings.model_copy(update={"brokers": "127.0.0.1:1"})).check()


def test_the_command_line_applies_compares_and_describes(
    settings: KafkaSettings, tmp_path: Path, broker_admin: AdminClient
) -> None:
    config = tmp_path / "odradek.toml"
    config.write_text(
        f'[kafka]\nbrokers = "{settings.brokers}"\nprefix = "{settings.prefix}"\npartitions = 2\nreplication = 1\n'
    )

    def run(command: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["topics", command, "--config", str(config)])
        return result.exit_code, result.output

    code, output = run("diff")
    assert code == 1
    assert f"{settings.prefix}.commands is missing; wanted with 2 partitions, replication 1\n" in output
    assert settings.prefix not in "".join(broker_admin.list_topics(timeout=10).topics)
    code, output = run("apply")
    assert code == 0
    assert (
        f"{settings.prefix}.commands is missing; wanted with 2 partitions, replication 1 (done)\n" in output
    )
    wait_for(lambda: run("diff") == (0, "every topic is as the settings say\n"))
    code, output = run("describe")
    assert code == 0
    assert f"{settings.prefix}.commands: 2 partitions, replication 1\n  id " in output
    assert "  message.timestamp.type=LogAppendTime\n" in output
    config.write_text(config.read_text().replace("partitions = 2", "partitions = 3"))
    code, output = run("apply")
    assert code == 1
    assert "commands has 2 partitions, wanted 3 (not changed: this takes a decision)" in output
    config.write_text(config.read_text() + "topics = { nonsense = { partitions = 3 } }\n")
    code, output = run("apply")
    assert code == 1
    assert "there is no topic 'nonsense'" in output
