"""Rows for tests, and an independent reading of what a filter means."""

import operator
from collections.abc import Callable
from typing import Any

from streams.stores.filter_model import (
    All,
    AnyOf,
    Between,
    Compare,
    Condition,
    In,
    IsNull,
    ListFilter,
    Negated,
    Operator,
    StartsWith,
)
from streams.stores.search_attributes import Attribute, SearchAttributes, SearchValue, Source, ValueType
from streams.stores.text_match import text_matches
from streams.stores.visibility import VisibilityRow

NAMESPACE = "ns"
START_NS = 1_700_000_000 * 10**9

ATTRIBUTES = SearchAttributes(
    {
        "Words": ValueType.TEXT,
        "Key": ValueType.KEYWORD,
        "Number": ValueType.INT,
        "Ratio": ValueType.DOUBLE,
        "Flag": ValueType.BOOL,
        "When": ValueType.DATETIME,
        "Tags": ValueType.KEYWORD_LIST,
    }
)

_FIELDS = {
    "WorkflowId": "workflow_id",
    "RunId": "run_id",
    "WorkflowType": "workflow_type",
    "StartTime": "start_time_ns",
    "ExecutionTime": "execution_time_ns",
    "CloseTime": "close_time_ns",
    "ExecutionStatus": "status",
    "TaskQueue": "task_queue",
    "HistoryLength": "history_length",
    "HistorySizeBytes": "history_size_bytes",
    "ExecutionDuration": "execution_duration_ns",
    "StateTransitionCount": "state_transition_count",
    "ParentWorkflowId": "parent_workflow_id",
    "ParentRunId": "parent_run_id",
    "RootWorkflowId": "root_workflow_id",
    "RootRunId": "root_run_id",
}
_OPERATORS: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def row(
    run_id: str, *, start: int = 0, closed: int | None = None, version: int = 1, **fields: Any
) -> VisibilityRow:
    """A row that started `start` seconds, and closed `closed` seconds, after a fixed moment."""
    attributes = fields.pop("attributes", {})
    start_ns = START_NS + start * 10**9
    defaults: dict[str, Any] = {
        "namespace_id": NAMESPACE,
        "workflow_id": f"wf-{run_id}",
        "workflow_type": "Order",
        "status": 1 if closed is None else 2,
        "start_time_ns": start_ns,
        "execution_time_ns": start_ns,
        "close_time_ns": None if closed is None else START_NS + closed * 10**9,
        "task_queue": "queue",
        "root_workflow_id": f"wf-{run_id}",
        "root_run_id": run_id,
    }
    typed = {name: SearchValue(ATTRIBUTES.find(name).type, value) for name, value in attributes.items()}  # type: ignore[union-attr]
    return VisibilityRow(**{**defaults, **fields}, run_id=run_id, search_attributes=typed, version=version)


def matching(rows: list[VisibilityRow], wanted: ListFilter) -> list[VisibilityRow]:
    """The rows that a filter means, in the order it asks for."""
    found = [
        row
        for row in rows
        if (wanted.names_division or "TemporalNamespaceDivision" not in row.search_attributes)
        and (wanted.condition is None or holds(wanted.condition, row) is True)
    ]
    if not wanted.order_by:
        return sorted(found, key=default_order)
    found.sort(key=lambda row: row.run_id)
    for sort in reversed(wanted.order_by):
        held = [(value_of(sort.attribute, row), row) for row in found]
        present = [pair for pair in held if pair[0] is not None]
        present.sort(key=lambda pair: pair[0], reverse=sort.descending)
        if sort.descending:
            present = _stable_descending(held)
        found = [row for _, row in present] + [row for value, row in held if value is None]
    return found


def _stable_descending(held: list[tuple[Any, VisibilityRow]]) -> list[tuple[Any, VisibilityRow]]:
    values = sorted({value for value, _ in held if value is not None}, reverse=True)
    return [pair for value in values for pair in held if pair[0] == value]


def default_order(row: VisibilityRow) -> tuple[int, int, int, str]:
    if row.close_time_ns is None:
        return (0, 0, -row.start_time_ns, row.run_id)
    return (1, -row.close_time_ns, -row.start_time_ns, row.run_id)


def value_of(attribute: Attribute, row: VisibilityRow) -> Any:
    if attribute.source is Source.SYSTEM:
        return getattr(row, _FIELDS[attribute.field])
    held = row.search_attributes.get(attribute.field)
    return None if held is None else held.value


def holds(condition: Condition, row: VisibilityRow) -> bool | None:
    """Three-valued, as SQL is: None where an attribute is missing."""
    match condition:
        case All(terms):
            results = [holds(term, row) for term in terms]
            return False if False in results else None if None in results else True
        case AnyOf(terms):
            results = [holds(term, row) for term in terms]
            return True if True in results else None if None in results else False
        case Negated(term):
            result = holds(term, row)
            return None if result is None else not result
        case IsNull(attribute, negated):
            return (value_of(attribute, row) is None) != negated
    return _leaf_holds(condition, row)


def _leaf_holds(condition: Condition, row: VisibilityRow) -> bool | None:
    value = value_of(condition.attribute, row)
    if condition.attribute.field == "CloseTime" and value is None:
        value = 2**63 - 1
    if condition.attribute.type is ValueType.TEXT:
        return text_matches(value, condition.value) == (condition.operator is Operator.EQUAL)
    if condition.attribute.type is ValueType.KEYWORD_LIST:
        wanted = condition.values if isinstance(condition, In) else (condition.value,)
        negated = condition.negated if isinstance(condition, In) else condition.operator is Operator.NOT_EQUAL
        return any(item in wanted for item in value or ()) != negated
    if value is None:
        return None
    match condition:
        case Compare(_, operator_, wanted):
            return _OPERATORS[operator_](value, wanted)
        case In(_, values, negated):
            return (value in values) != negated
        case Between(_, low, high, negated):
            return (low <= value <= high) != negated
        case StartsWith(_, prefix, negated):
            return value.startswith(prefix) != negated
    raise AssertionError(condition)
