"""A list filter's tree, checked against the namespace's attributes and turned into `filter_model`.

Importing this module imports sqlglot, which is slow: `list_filter` does so when the first filter is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from streams.stores.filter_grammar import INVALID, MALFORMED, UNSUPPORTED, parse_tree
from streams.stores.filter_model import (
    All,
    AnyOf,
    Between,
    Compare,
    Condition,
    FilterError,
    In,
    IsNull,
    ListFilter,
    Negated,
    Operator,
    Sort,
    StartsWith,
    Value,
)
from streams.stores.filter_values import Literal, convert, type_name
from streams.stores.search_attributes import NAMESPACE_DIVISION, Attribute, SearchAttributes, ValueType

MAX_QUERY_CHARS = 256 * 1024
MAX_CONDITIONS = 500
"""SQLite refuses trees of expressions deeper than 1,000."""
MAX_VALUES = 10_000
"""SQLite refuses statements of more than 32,766 parameters."""
MAX_SORT_KEYS = 8

_OPERATORS: dict[type[exp.Expr], Operator] = {
    exp.EQ: Operator.EQUAL,
    exp.NEQ: Operator.NOT_EQUAL,
    exp.LT: Operator.LESS,
    exp.LTE: Operator.LESS_OR_EQUAL,
    exp.GT: Operator.GREATER,
    exp.GTE: Operator.GREATER_OR_EQUAL,
}
_EQUALITY = (Operator.EQUAL, Operator.NOT_EQUAL)
_RANGE_TYPES = (ValueType.DATETIME, ValueType.DOUBLE, ValueType.INT, ValueType.KEYWORD)


def parse_query(query: str, attributes: SearchAttributes) -> ListFilter:
    """Parse a filter that is not blank; see `list_filter.parse`."""
    if len(query) > MAX_QUERY_CHARS:
        raise FilterError(f"{MALFORMED}: longer than {MAX_QUERY_CHARS} characters")
    return _Reader(attributes).filter_of(parse_tree(query))


class _Reader:
    """Turns sqlglot's tree into a checked filter, keeping count of its size."""

    def __init__(self, attributes: SearchAttributes) -> None:
        self._attributes = attributes
        self._conditions = 0
        self._values = 0
        self._names_division = False

    def filter_of(self, tree: exp.Select) -> ListFilter:
        where = tree.args.get("where")
        group_by = self._group_by(tree.args.get("group") or [])
        order_by = self._order_by(tree.args.get("order") or [])
        if group_by and order_by:
            raise FilterError(f"{UNSUPPORTED}: 'order by' clause is not supported with 'group by' clause")
        return ListFilter(
            condition=None if where is None else self._condition(where),
            order_by=order_by,
            group_by_status=group_by,
            names_division=self._names_division,
        )

    def _group_by(self, names: list[exp.Expr]) -> bool:
        if len(names) > 1:
            raise FilterError(
                f"{UNSUPPORTED}: 'group by' clause supports only a single field", _position(names[1])
            )
        for name in names:
            if self._attribute(name, filtering=False).field != "ExecutionStatus":
                raise FilterError(
                    f"{UNSUPPORTED}: 'group by' clause is only supported for ExecutionStatus "
                    "search attribute",
                    _position(name),
                )
        return bool(names)

    def _order_by(self, keys: list[exp.Expr]) -> tuple[Sort, ...]:
        if len(keys) > MAX_SORT_KEYS:
            raise FilterError(
                f"{UNSUPPORTED}: 'order by' clause of more than {MAX_SORT_KEYS} fields",
                _position(keys[0].this),
            )
        sorts = []
        for key in keys:
            attribute = self._attribute(key.this, filtering=False)
            if attribute.type in (ValueType.TEXT, ValueType.KEYWORD_LIST):
                raise FilterError(
                    f"{UNSUPPORTED}: unable to sort by field of {type_name(attribute)} type",
                    _position(key.this),
                )
            sorts.append(Sort(attribute, descending=bool(key.args["desc"])))
        return tuple(sorts)

    def _condition(self, node: exp.Expr) -> Condition:
        if isinstance(node, exp.Paren):
            return self._condition(node.this)
        if isinstance(node, exp.Connector):
            terms = tuple(self._condition(term) for term in _operands(node))
            return All(terms) if isinstance(node, exp.And) else AnyOf(terms)
        if isinstance(node, exp.Not):
            return self._negated(node.this)
        return self._leaf(node, negated=False)

    def _negated(self, node: exp.Expr) -> Condition:
        if isinstance(node, exp.In | exp.Between | exp.StartsWith | exp.Is):
            return self._leaf(node, negated=True)
        return Negated(self._condition(node))

    def _leaf(self, node: exp.Expr, negated: bool) -> Condition:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"{UNSUPPORTED}: more than {MAX_CONDITIONS} conditions", _position(node))
        if isinstance(node, exp.Is):
            return IsNull(self._attribute(node.this), negated)
        if isinstance(node, exp.In):
            return self._in(node, negated)
        if isinstance(node, exp.Between):
            return self._between(node, negated)
        if isinstance(node, exp.StartsWith):
            return self._starts_with(node, negated)
        if operator := _OPERATORS.get(type(node)):
            return self._compare(node, operator)
        if isinstance(node, exp.Like):
            raise FilterError(f"{INVALID}: invalid operator 'like'", _position(node))
        if isinstance(node, exp.Column):
            raise FilterError(f"{INVALID}: incomplete expression", _position(node))
        raise FilterError(f"{UNSUPPORTED}: expected a comparison", _position(node))

    def _compare(self, node: exp.Expr, operator: Operator) -> Compare:
        attribute = self._attribute(node.this)
        if operator not in _EQUALITY:
            self._refuse(
                node, attribute, f"operator '{operator.value}'", ValueType.TEXT, ValueType.KEYWORD_LIST
            )
        value = self._value(attribute, node.args["expression"])
        if attribute.type is ValueType.TEXT and not str(value).strip(" "):
            raise FilterError(
                f"{INVALID}: unexpected value for Text type search attribute (no tokens found)",
                _position(node.args["expression"]),
            )
        return Compare(attribute, operator, value)

    def _in(self, node: exp.In, negated: bool) -> In:
        attribute = self._attribute(node.this)
        self._refuse(node, attribute, "operator 'in'", ValueType.TEXT)
        return In(attribute, tuple(self._value(attribute, value) for value in node.expressions), negated)

    def _between(self, node: exp.Between, negated: bool) -> Between:
        attribute = self._attribute(node.this)
        if attribute.type not in _RANGE_TYPES:
            raise FilterError(
                f"{INVALID}: cannot do range condition on search attribute '{attribute.name}' "
                f"of type {type_name(attribute)}",
                _position(node),
            )
        low = self._value(attribute, node.args["low"])
        return Between(attribute, low, self._value(attribute, node.args["high"]), negated)

    def _starts_with(self, node: exp.StartsWith, negated: bool) -> StartsWith:
        attribute = self._attribute(node.this)
        prefix = node.args["expression"]
        unfit = tuple(kind for kind in ValueType if kind is not ValueType.KEYWORD)
        self._refuse(node, attribute, "operator 'starts_with'", *unfit)
        if attribute.field == "ExecutionStatus" or not (isinstance(prefix, exp.Literal) and prefix.is_string):
            raise FilterError(
                f"{INVALID}: right-hand side of 'starts_with' must be a literal string", _position(prefix)
            )
        return StartsWith(attribute, str(self._value(attribute, prefix)), negated)

    def _refuse(self, node: exp.Expr, attribute: Attribute, what: str, *unfit: ValueType) -> None:
        if attribute.type in unfit:
            raise FilterError(
                f"{INVALID}: {what} not supported for {type_name(attribute)} type search attribute "
                f"'{attribute.name}'",
                _position(node),
            )

    def _attribute(self, node: exp.Expr, filtering: bool = True) -> Attribute:
        if not isinstance(node, exp.Column):
            raise FilterError(f"{INVALID}: must be a column name", _position(node))
        attribute = self._attributes.find(node.name)
        if attribute is None:
            raise FilterError(
                f"{INVALID}: column name '{node.name}' is not a valid search attribute", _position(node)
            )
        if filtering and attribute.field == NAMESPACE_DIVISION:
            self._names_division = True
        return attribute

    def _value(self, attribute: Attribute, node: exp.Expr) -> Value:
        self._values += 1
        position = _position(node)
        if self._values > MAX_VALUES:
            raise FilterError(f"{UNSUPPORTED}: more than {MAX_VALUES} values", position)
        if isinstance(node, exp.Column):
            raise FilterError(
                f"{UNSUPPORTED}: column name on the right side of comparison expression "
                f"(did you forget to quote '{node.name}'?)",
                position,
            )
        if isinstance(node, exp.Boolean):
            return convert(attribute, Literal("bool", "true" if node.this else "false", position))
        if isinstance(node, exp.Literal):
            return convert(attribute, Literal("string" if node.is_string else "number", node.this, position))
        raise FilterError(f"{INVALID}: unexpected value type", position)


def _operands(node: exp.Connector) -> list[exp.Expr]:
    """Operands of a chain of one connector, which the parser nests to the left, in their order."""
    operands = []
    current: exp.Expr = node
    while type(current) is type(node):
        operands.append(current.args["expression"])
        current = current.this
    operands.append(current)
    operands.reverse()
    return operands


def _position(node: exp.Expr) -> int:
    """Where the leftmost part of a node that knows its place stands, counted from 1."""
    starts: Iterator[int] = (part.meta["start"] for part in node.walk() if "start" in part.meta)
    return min(starts, default=0) + 1
