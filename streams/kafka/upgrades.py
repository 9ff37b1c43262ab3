"""Raising the logic version of a cluster: what is in force, what its members have, and the markers (fold.md rule 9)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from streams.kafka import groups, wire
from streams.kafka.admin import Cluster
from streams.kafka.groups import GroupMember
from streams.kafka.last_position import last_position
from streams.kafka.log import Reader
from streams.kafka.names import GROUPS, PROCESSORS, Names
from streams.kafka.settings import KafkaSettings
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.logic import OLDEST_LOGIC_VERSION, SUPPORTED_LOGIC_VERSION, marker

LOG = logging.getLogger(__name__)

APPEND_TIMEOUT_S: Final = 30.0
_LOOK_AGAIN_S: Final = 0.2


class UpgradeRefusedError(Exception):
    """The version cannot be raised now; the message names whom that takes."""


class UpgradeStatus(msgspec.Struct, frozen=True):
    """How far an upgrade is.

    `in_force` has, by input topic without prefix and by partition, the version that its last checkpoint says, None for
    a partition without one. `members` are all who are in a group now.
    """

    in_force: Mapping[str, Mapping[int, int | None]]
    members: tuple[GroupMember, ...]

    def behind(self, version: int) -> list[tuple[str, int]]:
        """The partitions, as topic and number, that are not yet folded by a version."""
        return [
            (topic, number)
            for topic, versions in self.in_force.items()
            for number, found in versions.items()
            if found is None or found < version
        ]

    def lacking(self, version: int) -> list[GroupMember]:
        """The members whose code does not have a version, or who do not say whether it has."""
        return [m for m in self.members if m.supported_logic is None or m.supported_logic < version]


class Upgrades:
    """An operator's view of a cluster's logic versions. Every method blocks, and raises ClusterError and ReadError."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._names = Names(settings.prefix)
        self._cluster = Cluster(settings)
        self._counts = {name: topic.partitions for name, topic in self._cluster.check().items()}

    def status(self) -> UpgradeStatus:
        """How things are now."""
        described = groups.describe(
            self._cluster.client, [self._names.group(role) for role in GROUPS]
        ).values()
        members = sorted(
            (member for group in described for member in group.members), key=lambda m: (m.group, m.name)
        )
        return UpgradeStatus(self._in_force(), tuple(members))

    def _in_force(self) -> dict[str, dict[int, int | None]]:
        changelogs = {topic: self._names.changelog(processor) for processor, topic in PROCESSORS.items()}
        reader = Reader(
            self._settings, self._names.group("upgrade"), self._cluster.client, list(changelogs.values())
        )
        try:
            return {
                topic: {
                    number: None if position is None else position.logic_version
                    for number in range(self._counts[topic])
                    for position in (last_position(reader, changelog, number),)
                }
                for topic, changelog in changelogs.items()
            }
        finally:
            reader.close()

    def finalize(
        self, version: int = SUPPORTED_LOGIC_VERSION, timeout_s: float = 60.0
    ) -> list[tuple[str, int]]:
        """Have every partition folded by a version from now on; returns those that were behind it.

        `timeout_s` is how long their owners may take. Raises UpgradeRefusedError while a live member lacks the version,
        or when owners did not follow in time.
        """
        status = self.status()
        lacking = status.lacking(version)
        if lacking:
            raise UpgradeRefusedError(
                f"logic version {version} cannot be raised yet, these live members do not have it: "
                f"{', '.join(map(described, lacking))}; upgrade or stop them, and try again"
            )
        behind = status.behind(version)
        if behind:
            self._append(behind, version)
            self._wait(version, timeout_s)
        return behind

    def _append(self, places: list[tuple[str, int]], version: int) -> None:
        """Append the markers. One too many changes nothing, nor does one that comes again."""
        failed: list[str] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error.str())

        codec = Codec(BODY_TYPES)
        producer = Producer(self._settings.producer(), logger=LOG)
        for topic, number in places:
            value = wire.value_of(codec, marker(topic, number, version))
            producer.produce(self._names.topic(topic), value, b"", number, on_delivery=delivered)
        left = producer.flush(APPEND_TIMEOUT_S)
        producer.purge()
        producer.close()
        if left or failed:
            reason = failed[0] if failed else f"no answer within {APPEND_TIMEOUT_S:.0f} s"
            raise UpgradeRefusedError(f"markers could not be written, try again: {reason}")

    def _wait(self, version: int, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while behind := self.status().behind(version):
            if time.monotonic() > deadline_s:
                places = ", ".join(f"{topic}/{number}" for topic, number in behind)
                raise UpgradeRefusedError(
                    f"the markers of logic version {version} are written, but after {timeout_s:.0f} s there is no "
                    f"checkpoint behind them of {places}: they come into force once these partitions have owners"
                )
            time.sleep(_LOOK_AGAIN_S)


def described(member: GroupMember) -> str:
    """A member for people."""
    has = "an unknown logic version" if member.supported_logic is None else f"up to {member.supported_logic}"
    return f"{member.name} in {member.group} at {member.host} ({has})"


def versions_of_release() -> str:
    """The logic versions that this release has, for people."""
    return f"{OLDEST_LOGIC_VERSION} to {SUPPORTED_LOGIC_VERSION}"
