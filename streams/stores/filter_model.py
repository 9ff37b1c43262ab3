"""What a list filter means, after its text was parsed and checked; and how its errors look."""

from __future__ import annotations

import enum

import msgspec

from streams.stores.search_attributes import Attribute

Value = str | int | float | bool
"""A value typed as its attribute: times are nanoseconds since the epoch, durations nanoseconds."""


class FilterError(ValueError):
    """A list filter, or its page token, that cannot be used; the client gets INVALID_ARGUMENT.

    `reason` says what is wrong, in the real server's words where it has the error too; `position` counts
    the filter's characters from 1, None where the error has no place in the text.
    """

    def __init__(self, reason: str, position: int | None = None) -> None:
        self.reason = reason
        self.position = position
        where = "" if position is None else f" (at position {position})"
        super().__init__(f"invalid query: {reason}{where}")


class PageTokenError(FilterError):
    """A page token that is broken, or was made for another filter or namespace."""


class Operator(enum.Enum):
    """Comparison operators with one value."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class Compare(msgspec.Struct, frozen=True):
    """``attribute operator value``; for Text words in common, for KeywordList containment."""

    attribute: Attribute
    operator: Operator
    value: Value


class In(msgspec.Struct, frozen=True):
    """``attribute [NOT] IN (values)``."""

    attribute: Attribute
    values: tuple[Value, ...]
    negated: bool


class Between(msgspec.Struct, frozen=True):
    """``attribute [NOT] BETWEEN low AND high``, both ends included."""

    attribute: Attribute
    low: Value
    high: Value
    negated: bool


class StartsWith(msgspec.Struct, frozen=True):
    """``attribute [NOT] STARTS_WITH 'prefix'``; letter case counts."""

    attribute: Attribute
    prefix: str
    negated: bool


class IsNull(msgspec.Struct, frozen=True):
    """``attribute IS [NOT] NULL``."""

    attribute: Attribute
    negated: bool


class All(msgspec.Struct, frozen=True):
    """Terms joined by AND."""

    terms: tuple[Condition, ...]


class AnyOf(msgspec.Struct, frozen=True):
    """Terms joined by OR."""

    terms: tuple[Condition, ...]


class Negated(msgspec.Struct, frozen=True):
    """``NOT term``, in SQL's logic of three values: an attribute without a value stays unmatched."""

    term: Condition


Condition = Compare | In | Between | StartsWith | IsNull | All | AnyOf | Negated


class Sort(msgspec.Struct, frozen=True):
    """One key of ORDER BY; runs without the attribute come last in either direction."""

    attribute: Attribute
    descending: bool


class ListFilter(msgspec.Struct, frozen=True):
    """A parsed filter."""

    condition: Condition | None
    order_by: tuple[Sort, ...] = ()
    group_by_status: bool = False
    names_division: bool = False
    """The condition names TemporalNamespaceDivision; otherwise only runs without one are meant."""
