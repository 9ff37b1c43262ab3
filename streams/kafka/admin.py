"""Topics of a cluster: what is there, what differs from what is wanted, and the changes that bring it about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from streams.kafka.settings import KafkaSettings
from streams.kafka.topics import WantedTopic, wanted_topics

REQUEST_TIMEOUT_S: Final = 15.0


class ClusterError(Exception):
    """The cluster is not as it has to be, or does not answer; the message says what to do."""


class FoundTopic(msgspec.Struct, frozen=True):
    """A topic as it is. `id` tells it from another one of that name; `configs` are those in force."""

    topic: str
    id: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as wanted.

    `applicable` tells whether `apply` brings it about: it never changes partitions or replicas of what is there.
    """

    topic: str
    what: str
    applicable: bool


class Cluster:
    """An administrator's view of a cluster. Every method blocks, and raises ClusterError."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.client = AdminClient({**settings.client(), "log_level": 0})

    def describe(self) -> dict[str, FoundTopic]:
        """The engine's topics that are there, by their name without prefix."""
        return self._found(with_configs=True)

    def _found(self, with_configs: bool) -> dict[str, FoundTopic]:
        wanted = wanted_topics(self._settings)
        described = self._describe([topic.topic for topic in wanted])
        configs = self._configs(described) if with_configs else {}
        return {
            topic.name: FoundTopic(
                topic.topic,
                str(described[topic.topic].topic_id),
                len(described[topic.topic].partitions),
                min(len(partition.replicas) for partition in described[topic.topic].partitions),
                configs.get(topic.topic, {}),
            )
            for topic in wanted
            if topic.topic in described
        }

    def differences(self) -> list[Difference]:
        """What is not as wanted."""
        found = self.describe()
        return [
            difference
            for topic in wanted_topics(self._settings)
            for difference in _compare(topic, found.get(topic.name))
        ]

    def apply(self) -> list[Difference]:
        """Create what is missing and set configs that differ; returns what was not as wanted before."""
        found = self.describe()
        wanted = wanted_topics(self._settings)
        self._create([topic for topic in wanted if topic.name not in found])
        self._set_configs(
            {
                topic.topic: changed
                for topic in wanted
                if topic.name in found and (changed := _changed(topic, found[topic.name]))
            }
        )
        return [d for topic in wanted for d in _compare(topic, found.get(topic.name))]

    def check(self) -> dict[str, FoundTopic]:
        """The engine's topics, all of which are there with the partitions that are wanted. Without their configs."""
        found = self._found(with_configs=False)
        for topic in wanted_topics(self._settings):
            there = found.get(topic.name)
            if there is None:
                raise ClusterError(
                    f"there is no topic {topic.topic}: create what is missing with `odradek topics apply`"
                )
            if there.partitions != topic.partitions:
                raise ClusterError(
                    f"{topic.topic} has {there.partitions} partitions, the settings say {topic.partitions}: "
                    "keys would go where nobody looks for them, so set what it has"
                )
        return found

    def offers_new_groups(self) -> bool:
        """Whether the brokers have the group protocol of KIP-848. Where that may not be asked: no."""
        resource = ConfigResource(ConfigResource.Type.BROKER, self.a_broker())
        futures = self.client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
        try:
            entries = next(iter(futures.values())).result()
        except KafkaException as error:
            if _code(error) == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
                return False
            raise ClusterError(f"the cluster did not answer: {error}") from error
        protocols = entries.get("group.coordinator.rebalance.protocols")
        return protocols is not None and "consumer" in (protocols.value or "").split(",")

    def a_broker(self) -> str:
        """The id of one of the brokers."""
        brokers = _result(self.client.describe_cluster(request_timeout=REQUEST_TIMEOUT_S)).nodes
        return str(brokers[0].id)

    def _describe(self, topics: Sequence[str]) -> dict[str, Any]:
        futures = self.client.describe_topics(
            TopicCollection(list(topics)), request_timeout=REQUEST_TIMEOUT_S
        )
        return {topic: there for topic, future in futures.items() if (there := _topic(future)) is not None}

    def _configs(self, topics: Iterable[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        if not resources:
            return {}
        futures = self.client.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
        return {
            resource.name: {entry.name: entry.value or "" for entry in _result(future).values()}
            for resource, future in futures.items()
        }

    def _create(self, topics: Sequence[WantedTopic]) -> None:
        if not topics:
            return
        made = [
            NewTopic(
                topic.topic,
                num_partitions=topic.partitions,
                replication_factor=topic.replication,
                config=dict(topic.configs),
            )
            for topic in topics
        ]
        futures = self.client.create_topics(made, request_timeout=REQUEST_TIMEOUT_S)
        for topic, future in futures.items():
            try:
                future.result()
            except KafkaException as error:
                if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else has just created it
                    raise ClusterError(f"cannot create topic {topic}: {error.args[0].str()}") from error

    def _set_configs(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        if not changes:
            return
        resources = [
            ConfigResource(
                ConfigResource.Type.TOPIC,
                topic,
                incremental_configs=[
                    ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                    for name, value in configs.items()
                ],
            )
            for topic, configs in changes.items()
        ]
        futures = self.client.incremental_alter_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
        for future in futures.values():
            _result(future)


def _topic(future: Future[Any]) -> Any:
    """The description of a topic, None when there is none."""
    try:
        return future.result()
    except KafkaException as error:
        if _code(error) == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise ClusterError(f"the cluster did not answer: {error.args[0].str()}") from error


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except KafkaException as error:
        raise ClusterError(f"the cluster did not answer: {error.args[0].str()}") from error


def _code(error: KafkaException) -> int:
    code: int = error.args[0].code()
    return code


def _changed(wanted: WantedTopic, found: FoundTopic) -> dict[str, str]:
    return {name: value for name, value in wanted.configs.items() if found.configs.get(name) != value}


def _compare(wanted: WantedTopic, found: FoundTopic | None) -> list[Difference]:
    if found is None:
        shape = f"{wanted.partitions} partitions, replication {wanted.replication}"
        return [Difference(wanted.topic, f"is missing; wanted with {shape}", True)]
    differences = []
    if found.partitions != wanted.partitions:
        what = f"has {found.partitions} partitions, wanted {wanted.partitions}"
        differences.append(Difference(wanted.topic, what, False))
    if found.replication != wanted.replication:
        what = f"has replication {found.replication}, wanted {wanted.replication}"
        differences.append(Difference(wanted.topic, what, False))
    for name, value in sorted(_changed(wanted, found).items()):
        what = f"has {name}={found.configs.get(name, '')}, wanted {value}"
        differences.append(Difference(wanted.topic, what, True))
    return differences
