"""What brokers keep of the groups of KIP-848: how soon a dead member is noticed, and how often members are heard.

With the classic protocol each member brings these itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from streams.kafka.admin import REQUEST_TIMEOUT_S, Cluster, ClusterError, Difference
from streams.kafka.names import GROUPS, Names
from streams.kafka.settings import KafkaSettings

SESSION: Final = "consumer.session.timeout.ms"
HEARTBEAT: Final = "consumer.heartbeat.interval.ms"
_FORBIDDEN: Final = (KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)


class _Change(msgspec.Struct, frozen=True):
    """A config of a group that is not as wanted, and why it is not what the settings say, if it is not."""

    group: str
    name: str
    found: str
    wanted: str
    note: str

    def difference(self) -> Difference:
        what = f"has {self.name}={self.found}, wanted {self.wanted}{self.note}"
        return Difference(f"group {self.group}", what, True)


class GroupConfigs:
    """The configs of the engine's groups. Every method blocks, and raises ClusterError."""

    def __init__(self, settings: KafkaSettings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster

    def differences(self) -> list[Difference]:
        """What is not as wanted: nothing where members bring it themselves, or where it may not be looked at."""
        return [change.difference() for change in self._changes()]

    def apply(self) -> list[Difference]:
        """Set what differs; returns what was not as wanted before."""
        changes = self._changes()
        entries: dict[str, list[ConfigEntry]] = {}
        for change in changes:
            entry = ConfigEntry(change.name, change.wanted, incremental_operation=AlterConfigOpType.SET)
            entries.setdefault(change.group, []).append(entry)
        if entries:
            resources = [
                ConfigResource(ConfigResource.Type.GROUP, group, incremental_configs=configs)
                for group, configs in entries.items()
            ]
            client = self._cluster.client
            futures = client.incremental_alter_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
            try:
                for future in futures.values():
                    future.result()
            except KafkaException as error:
                raise ClusterError(f"configs of groups cannot be set: {error.args[0].str()}") from error
        return [change.difference() for change in changes]

    def _changes(self) -> list[_Change]:
        if self._settings.group_protocol == "classic" or not self._cluster.offers_new_groups():
            return []
        names = Names(self._settings.prefix)
        groups = [names.group(role) for role in GROUPS]
        try:
            wanted = self._wanted()
            found = self._described(ConfigResource.Type.GROUP, groups)
        except KafkaException as error:
            if error.args[0].code() in _FORBIDDEN:
                return []
            raise ClusterError(f"the cluster did not answer: {error.args[0].str()}") from error
        return [
            _Change(group, name, configs.get(name, ""), value, note)
            for group, configs in found.items()
            for name, (value, note) in wanted.items()
            if configs.get(name) != value
        ]

    def _wanted(self) -> dict[str, tuple[str, str]]:
        """By config, the value nearest to the settings that brokers allow, and a note where that is another."""
        (limits,) = self._described(ConfigResource.Type.BROKER, [self._cluster.a_broker()]).values()
        wanted = {}
        for name, value in (
            (SESSION, self._settings.session_timeout_ms),
            (HEARTBEAT, self._settings.heartbeat_interval_ms),
        ):
            what = name.removeprefix("consumer.")
            least, most = (int(limits.get(f"group.consumer.{end}.{what}") or value) for end in ("min", "max"))
            allowed = max(least, min(most, value))
            note = f" (the settings say {value}, the brokers' group.consumer.*.{what} are {least} to {most})"
            wanted[name] = (str(allowed), "" if allowed == value else note)
        return wanted

    def _described(self, kind: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(kind, name) for name in names]
        futures = self._cluster.client.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
        return {
            resource.name: {entry.name: entry.value or "" for entry in future.result().values()}
            for resource, future in futures.items()
        }
