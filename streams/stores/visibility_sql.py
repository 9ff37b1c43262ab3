"""SELECTs over the visibility table, in SQLAlchemy Core.

Importing this module imports SQLAlchemy, which is slow: stores do so when the first filter is run. What
databases do differently (types, JSON, full text) is in `AttributeSql`, of which each database has its own.

Paging stays right while rows are written because the order is frozen at the first page: its token holds
the greatest `close_order` of that moment, and a run that closed later still counts as open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import sqlalchemy as sa

from streams.stores.filter_model import (
    All,
    AnyOf,
    Between,
    Compare,
    Condition,
    In,
    IsNull,
    ListFilter,
    Operator,
    Sort,
    StartsWith,
    Value,
)
from streams.stores.page_token import SortKey
from streams.stores.schema import OPEN_ORDER
from streams.stores.search_attributes import NAMESPACE_DIVISION, Attribute, Source, ValueType
from streams.stores.visibility import STATUS_RUNNING
from streams.stores.visibility_columns import COLUMNS, KEY_COLUMNS
from streams.stores.visibility_hints import Hints, hints_of, required_terms

SqlCondition = sa.ColumnElement[bool]
SqlValue = sa.ColumnElement[object]

INTEGER_COLUMNS = frozenset(
    name
    for name in COLUMNS
    if name.endswith(("_ns", "_order", "_length", "_bytes", "_count")) or name in ("status", "version")
)
TABLE = sa.Table(
    "visibility",
    sa.MetaData(),
    *(
        sa.Column(
            name,
            sa.BigInteger() if name in INTEGER_COLUMNS else sa.LargeBinary() if name == "memo" else sa.Text(),
            primary_key=name in KEY_COLUMNS,
        )
        for name in COLUMNS
    ),
)
_C = TABLE.c

_SYSTEM_COLUMNS = {
    "WorkflowId": _C.workflow_id,
    "RunId": _C.run_id,
    "WorkflowType": _C.workflow_type,
    "StartTime": _C.start_time_ns,
    "ExecutionTime": _C.execution_time_ns,
    "CloseTime": _C.close_time_ns,
    "ExecutionStatus": _C.status,
    "TaskQueue": _C.task_queue,
    "HistoryLength": _C.history_length,
    "HistorySizeBytes": _C.history_size_bytes,
    "ExecutionDuration": _C.execution_duration_ns,
    "StateTransitionCount": _C.state_transition_count,
    "ParentWorkflowId": _C.parent_workflow_id,
    "ParentRunId": _C.parent_run_id,
    "RootWorkflowId": _C.root_workflow_id,
    "RootRunId": _C.root_run_id,
}
_SET_AT_CLOSE = {
    "CloseTime": None,
    "ExecutionStatus": STATUS_RUNNING,
    "HistoryLength": None,
    "HistorySizeBytes": None,
    "ExecutionDuration": None,
    "StateTransitionCount": None,
}
"""Attributes that change when a run closes, with what an open run is sorted by."""

_FIRST_CHAR_AFTER_SURROGATES = "\ue000"


class AttributeSql(ABC):
    """How one database reads the search attributes in their JSON column."""

    @abstractmethod
    def value(self, attribute: Attribute, value: Value) -> str | int | float | SqlValue:
        """A filter's value as it is compared with the attribute's column or `scalar`."""

    @abstractmethod
    def scalar(self, attribute: Attribute) -> SqlValue:
        """The value of an attribute that is no list; NULL without one."""

    @abstractmethod
    def list_holds(self, attribute: Attribute, values: Sequence[str]) -> SqlCondition:
        """Whether a KeywordList holds any of `values`; false without one."""

    @abstractmethod
    def text_matches(self, attribute: Attribute, wanted: str) -> SqlCondition:
        """Whether a Text holds any word of `wanted`; false without one."""

    @abstractmethod
    def narrowed(self, term: Compare | In) -> SqlCondition | None:
        """What an index on search attributes can find all matches of a term by; None where there is none."""


class VisibilitySql:
    """Builds SELECTs for filters, over one database's JSON."""

    def __init__(self, attribute_sql: AttributeSql) -> None:
        self._attribute_sql = attribute_sql

    def frozen_order(self, namespace_id: str) -> sa.Select[tuple[int]]:
        """The greatest `close_order` of a closed run: what a list's first page freezes the order at."""
        return (
            sa.select(_C.close_order)
            .where(_C.namespace_id == namespace_id, _C.close_order < OPEN_ORDER)
            .order_by(_C.close_order.desc())
            .limit(1)
        )

    def count(self, namespace_id: str, wanted: ListFilter) -> sa.Select[tuple[int, int]]:
        """Counts by status."""
        return (
            sa.select(_C.status, sa.func.count())
            .where(*self._matching(namespace_id, wanted, hints_of(wanted.condition)))
            .group_by(_C.status)
            .order_by(_C.status)
        )

    def open_runs(
        self, namespace_id: str, wanted: ListFilter, frozen: int, after: tuple[int, str] | None, limit: int
    ) -> list[sa.Select[tuple[object, ...]]]:
        """Runs open when the order was frozen, behind `after` (start time, run id): each part is in order.

        Those still open are in the index's order; those closed since are few and get sorted.
        """
        hints = hints_of(wanted.condition)
        close_order = _close_order(hints)
        still_open = close_order == OPEN_ORDER
        closed_since = sa.and_(close_order > frozen, close_order < OPEN_ORDER)
        parts = [(still_open, hints.maybe_open), (closed_since, hints.maybe_closed)]
        behind: list[SqlCondition] = []
        if after is not None:
            start_time_ns, run_id = after
            behind = [
                _C.start_time_ns <= start_time_ns,
                sa.or_(_C.start_time_ns < start_time_ns, _C.run_id > run_id),
            ]
        return [
            sa.select(*_C)
            .where(*self._matching(namespace_id, wanted, hints), part, *behind)
            .order_by(_C.start_time_ns.desc(), _C.run_id)
            .limit(limit)
            for part, possible in parts
            if possible
        ]

    def closed_runs(
        self, namespace_id: str, wanted: ListFilter, frozen: int, after: int | None, limit: int
    ) -> list[sa.Select[tuple[object, ...]]]:
        """Runs closed when the order was frozen, behind the `close_order` `after`; none or one part."""
        hints = hints_of(wanted.condition)
        if not hints.maybe_closed:
            return []
        close_order = _close_order(hints)
        behind = close_order <= frozen if after is None else close_order < after
        return [
            sa.select(*_C)
            .where(*self._matching(namespace_id, wanted, hints), behind)
            .order_by(close_order.desc())
            .limit(limit)
        ]

    def sorted_runs(
        self, namespace_id: str, wanted: ListFilter, frozen: int, after: Sequence[SortKey], limit: int
    ) -> sa.Select[tuple[object, ...]]:
        """Runs in the filter's own order behind the sort keys `after`: those keys, then the columns.

        The last key is the run id. Only keys are sorted; the rows of the page are then looked up.
        """
        keys = [self._sort_key(sort, frozen) for sort in wanted.order_by]
        descending = [sort.descending for sort in wanted.order_by]
        keys.append(_C.run_id)
        descending.append(False)
        conditions = self._matching(namespace_id, wanted, hints_of(wanted.condition))
        if after:
            conditions.append(_behind(keys, descending, after))
        page = (
            sa.select(*(_C[name] for name in KEY_COLUMNS), *_labelled(keys))
            .where(*conditions)
            .order_by(*_ordering(keys, descending))
            .limit(limit)
            .subquery("page")
        )
        page_keys = [page.c[f"key{index}"] for index in range(len(keys))]
        return (
            sa.select(*page_keys, *_C)
            .select_from(page.join(TABLE, sa.and_(*(page.c[name] == _C[name] for name in KEY_COLUMNS))))
            .order_by(*_ordering(page_keys, descending))
        )

    def _matching(self, namespace_id: str, wanted: ListFilter, hints: Hints) -> list[SqlCondition]:
        conditions: list[SqlCondition] = [_C.namespace_id == namespace_id]
        if wanted.condition is not None:
            conditions.append(self._condition(wanted.condition))
        if not wanted.names_division:
            conditions.append(_C.namespace_division.is_(None))
        if hints.closed_after_ns is not None:
            conditions.append(_close_order(hints) >= hints.closed_after_ns)
        for term in required_terms(wanted.condition):
            if isinstance(term, Compare | In) and _is_custom(term.attribute):
                narrowed = self._attribute_sql.narrowed(term)
                if narrowed is not None:
                    conditions.append(narrowed)
        return conditions

    def _condition(self, condition: Condition) -> SqlCondition:
        if isinstance(condition, All):
            return sa.and_(*(self._condition(term) for term in condition.terms))
        if isinstance(condition, AnyOf):
            return sa.or_(*(self._condition(term) for term in condition.terms))
        if isinstance(condition, Compare):
            return self._compare(condition)
        if isinstance(condition, In):
            return self._in(condition)
        if isinstance(condition, Between):
            column = self._column(condition.attribute)
            low = self._attribute_sql.value(condition.attribute, condition.low)
            high = self._attribute_sql.value(condition.attribute, condition.high)
            return _negated_if(condition.negated, sa.and_(column >= low, column <= high))
        if isinstance(condition, StartsWith):
            prefix = str(self._attribute_sql.value(condition.attribute, condition.prefix))
            return _negated_if(condition.negated, _starts_with(self._column(condition.attribute), prefix))
        if isinstance(condition, IsNull):
            column = self._plain_column(condition.attribute)
            return column.is_not(None) if condition.negated else column.is_(None)
        return sa.not_(self._condition(condition.term))

    def _compare(self, condition: Compare) -> SqlCondition:
        attribute, operator = condition.attribute, condition.operator
        if attribute.type in (ValueType.TEXT, ValueType.KEYWORD_LIST):
            wanted = str(condition.value)
            holds = (
                self._attribute_sql.text_matches(attribute, wanted)
                if attribute.type is ValueType.TEXT
                else self._attribute_sql.list_holds(attribute, [wanted])
            )
            return _negated_if(operator is Operator.NOT_EQUAL, holds)
        column = self._column(attribute)
        value = self._attribute_sql.value(attribute, condition.value)
        if operator is Operator.EQUAL:
            return column == value
        if operator is Operator.NOT_EQUAL:
            return column != value
        if operator is Operator.LESS:
            return column < value
        if operator is Operator.LESS_OR_EQUAL:
            return column <= value
        if operator is Operator.GREATER:
            return column > value
        return column >= value

    def _in(self, condition: In) -> SqlCondition:
        if condition.attribute.type is ValueType.KEYWORD_LIST:
            items = [str(value) for value in condition.values]
            return _negated_if(condition.negated, self._attribute_sql.list_holds(condition.attribute, items))
        column = self._column(condition.attribute)
        values = [self._attribute_sql.value(condition.attribute, value) for value in condition.values]
        return column.not_in(values) if condition.negated else column.in_(values)

    def _column(self, attribute: Attribute) -> SqlValue:
        """A column to compare; as in the real server, a run that is open closes later than any time."""
        column = self._plain_column(attribute)
        return sa.func.coalesce(column, OPEN_ORDER) if attribute.field == "CloseTime" else column

    def _plain_column(self, attribute: Attribute) -> SqlValue:
        if attribute.source is Source.SYSTEM:
            return _SYSTEM_COLUMNS[attribute.field]
        if attribute.field == NAMESPACE_DIVISION:
            return _C.namespace_division
        return self._attribute_sql.scalar(attribute)

    def _sort_key(self, sort: Sort, frozen: int) -> SqlValue:
        column = self._plain_column(sort.attribute)
        if sort.attribute.field not in _SET_AT_CLOSE:
            return column
        return sa.case((_C.close_order > frozen, _SET_AT_CLOSE[sort.attribute.field]), else_=column)


def _close_order(hints: Hints) -> sa.ColumnElement[int]:
    # An expression keeps SQLite from walking the index by close order where the one by workflow id is better.
    return _C.close_order + 0 if hints.few_workflows else _C.close_order


def _is_custom(attribute: Attribute) -> bool:
    return attribute.source is Source.INDEXED and attribute.field != NAMESPACE_DIVISION


def _negated_if(negated: bool, condition: SqlCondition) -> SqlCondition:
    return sa.not_(condition) if negated else condition


def _labelled(keys: Sequence[SqlValue]) -> list[sa.Label[object]]:
    return [key.label(f"key{index}") for index, key in enumerate(keys)]


def _ordering(keys: Sequence[SqlValue], descending: Sequence[bool]) -> list[sa.ColumnElement[object]]:
    return [
        (key.desc() if down else key.asc()).nulls_last() for key, down in zip(keys, descending, strict=True)
    ]


def _behind(keys: Sequence[SqlValue], descending: Sequence[bool], after: Sequence[SortKey]) -> SqlCondition:
    """Rows that come after the given sort keys, where missing values come last."""
    alternatives: list[SqlCondition] = []
    same: list[SqlCondition] = []
    for key, down, last in zip(keys, descending, after, strict=True):
        if last is not None:
            further = key < last if down else key > last
            alternatives.append(sa.and_(*same, sa.or_(further, key.is_(None))))
        same.append(key.is_(None) if last is None else key == last)
    return sa.or_(*alternatives)


def _starts_with(column: SqlValue, prefix: str) -> SqlCondition:
    """A range, which an index can serve: strings compare by code point."""
    if not prefix:
        return column >= ""
    head = prefix.rstrip("\U0010ffff")
    if not head:
        return column >= prefix
    after_last = chr(ord(head[-1]) + 1)
    if "\ud800" <= after_last <= "\udfff":
        after_last = _FIRST_CHAR_AFTER_SURROGATES
    return sa.and_(column >= prefix, column < head[:-1] + after_last)
