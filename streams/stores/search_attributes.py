"""Search attributes: their types, and which names a namespace knows."""

import enum
from collections.abc import Mapping

import msgspec


class ValueType(enum.IntEnum):
    """Type of a search attribute, numbered as ``temporal.api.enums.v1.IndexedValueType``."""

    TEXT = 1
    KEYWORD = 2
    INT = 3
    DOUBLE = 4
    BOOL = 5
    DATETIME = 6
    KEYWORD_LIST = 7


class Source(enum.Enum):
    """Where the value of an attribute is kept."""

    SYSTEM = "system"
    """A property of the run itself."""
    INDEXED = "indexed"
    """Set by the workflow or the server, as one of the run's search attributes."""


class SearchValue(msgspec.Struct, frozen=True):
    """A search attribute's value with its type.

    Text and Keyword are `str`, KeywordList a tuple of `str`, Datetime nanoseconds since the epoch.
    """

    type: ValueType
    value: str | int | float | bool | tuple[str, ...]


class Attribute(msgspec.Struct, frozen=True):
    """An attribute as a filter names it: `name` is what the user wrote, `field` what it stands for."""

    name: str
    field: str
    type: ValueType
    source: Source


SYSTEM_ATTRIBUTES: Mapping[str, ValueType] = {
    "WorkflowId": ValueType.KEYWORD,
    "RunId": ValueType.KEYWORD,
    "WorkflowType": ValueType.KEYWORD,
    "StartTime": ValueType.DATETIME,
    "ExecutionTime": ValueType.DATETIME,
    "CloseTime": ValueType.DATETIME,
    "ExecutionStatus": ValueType.KEYWORD,
    "TaskQueue": ValueType.KEYWORD,
    "HistoryLength": ValueType.INT,
    "HistorySizeBytes": ValueType.INT,
    "ExecutionDuration": ValueType.INT,
    "StateTransitionCount": ValueType.INT,
    "ParentWorkflowId": ValueType.KEYWORD,
    "ParentRunId": ValueType.KEYWORD,
    "RootWorkflowId": ValueType.KEYWORD,
    "RootRunId": ValueType.KEYWORD,
}
"""Properties of a run that every namespace can filter by."""

PREDEFINED_ATTRIBUTES: Mapping[str, ValueType] = {
    "TemporalChangeVersion": ValueType.KEYWORD_LIST,
    "BinaryChecksums": ValueType.KEYWORD_LIST,
    "BuildIds": ValueType.KEYWORD_LIST,
    "BatcherNamespace": ValueType.KEYWORD,
    "BatcherUser": ValueType.KEYWORD,
    "TemporalScheduledStartTime": ValueType.DATETIME,
    "TemporalScheduledById": ValueType.KEYWORD,
    "TemporalSchedulePaused": ValueType.BOOL,
    "TemporalNamespaceDivision": ValueType.KEYWORD,
    "TemporalPauseInfo": ValueType.KEYWORD_LIST,
    "TemporalWorkerDeploymentVersion": ValueType.KEYWORD,
    "TemporalWorkflowVersioningBehavior": ValueType.KEYWORD,
    "TemporalWorkerDeployment": ValueType.KEYWORD,
}
"""Search attributes that the server or the SDKs set, known in every namespace."""

NAMESPACE_DIVISION = "TemporalNamespaceDivision"
"""Runs that have it belong to the server's own features; a filter that does not name it leaves them out."""

SCHEDULE_ID = "ScheduleId"
"""Stands for the workflow id of a schedule, without its prefix, where no custom attribute has the name."""

SCHEDULE_WORKFLOW_ID_PREFIX = "temporal-sys-scheduler:"


class SearchAttributes:
    """The attributes that a filter in one namespace may name."""

    def __init__(self, custom: Mapping[str, ValueType] | None = None) -> None:
        """`custom` are the attributes registered in the namespace.

        Raises `ValueError` for a name that a stored document's path cannot hold.
        """
        for name in custom or ():
            if not name or not name.isprintable() or '"' in name or "\\" in name:
                raise ValueError(f"search attribute name {name!r} may not hold quotes or control characters")
        self.custom: Mapping[str, ValueType] = dict(custom or {})

    def find(self, name: str) -> Attribute | None:
        """Look up a name as it stands in a filter: letter case counts."""
        if (system := SYSTEM_ATTRIBUTES.get(name)) is not None:
            return Attribute(name, name, system, Source.SYSTEM)
        indexed = PREDEFINED_ATTRIBUTES.get(name) or self.custom.get(name)
        if indexed is not None:
            return Attribute(name, name, indexed, Source.INDEXED)
        if name == SCHEDULE_ID:
            return Attribute(name, "WorkflowId", ValueType.KEYWORD, Source.SYSTEM)
        return None
