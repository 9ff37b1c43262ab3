"""Logic versions: by which logic a record is folded, once releases would fold it differently (fold.md rule 9).

A marker in the log raises the version of its partition; the version is kept in checkpoints, so that a refold runs
the logic that folded the record first. Where logic differs, pure code asks `context.logic_version >= N`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streams.runtime.records import Record, UnknownType

SUPPORTED_LOGIC_VERSION = 4
"""The newest logic that this code has. Every change of what an old record would leave raises it by one."""

OLDEST_LOGIC_VERSION = 0
"""The oldest logic that this code still has; 0 is that of a log without a marker."""

MARKER_SOURCE = "logic"
"""The source of markers. They are in no chain: order and repetition change nothing, since markers only rise."""


class LogicMarker(msgspec.Struct, frozen=True):
    """From here on the partition is folded by logic of this version, unless it already has a higher one."""

    version: int


class UnsupportedLogicError(Exception):
    """This member's code cannot fold the partition on, another release's can: it has to release it and leave.

    The record it met was not folded, and nothing was changed. The message says what is needed.
    """


class Logic:
    """The logic version in force in one partition, and what its member's code supports.

    `supported` is the newest version that the code has, that of this release unless given.
    """

    def __init__(self, name: str, supported: int | None = None) -> None:
        self.version = 0
        self.supported = SUPPORTED_LOGIC_VERSION if supported is None else supported
        self._name = name

    def restore(self, version: int, parked: Iterable[Record]) -> None:
        """Go on with a checkpoint's version and its parked records. Raises UnsupportedLogicError."""
        self._check_version(version)
        self._check_age(version)
        for record in parked:
            self._check_type(record)
        self.version = version

    def take(self, record: Record) -> bool:
        """Whether the record is a marker, which is in force from now on; else it is to be folded.

        Raises UnsupportedLogicError.
        """
        body = record.body
        if isinstance(body, LogicMarker):
            self._check_version(body.version)
            self.version = max(self.version, body.version)
            return True
        if self.version < OLDEST_LOGIC_VERSION or isinstance(body, UnknownType):
            self._check_age(self.version)
            self._check_type(record)
        return False

    def _check_version(self, version: int) -> None:
        if version > self.supported:
            raise UnsupportedLogicError(
                f"{self._name} is folded by logic version {version}, this release has versions up to "
                f"{self.supported}: start a newer release"
            )

    def _check_age(self, version: int) -> None:
        if version < OLDEST_LOGIC_VERSION:
            raise UnsupportedLogicError(
                f"{self._name} is folded by logic version {version}, this release has versions from "
                f"{OLDEST_LOGIC_VERSION} on: start a release that has both, and raise the version there first"
            )

    def _check_type(self, record: Record) -> None:
        if isinstance(record.body, UnknownType):
            raise UnsupportedLogicError(
                f"{self._name}: record {record.offset} is of type {record.body.type!r}, which this release does "
                "not know: start a newer release"
            )


def marker(topic: str, partition: int, version: int) -> Record:
    """The record that raises a partition to a version."""
    return Record(topic, partition, "", LogicMarker(version), source=MARKER_SOURCE, origin_offset=version)
