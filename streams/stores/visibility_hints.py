"""What a filter implies about when its runs closed, so that the index by close order can narrow the scan.

A hint only ever repeats what the filter says already; the filter itself is applied all the same.
"""

from collections.abc import Iterator

import msgspec

from streams.stores.filter_model import All, Between, Compare, Condition, In, IsNull, Operator
from streams.stores.visibility import STATUS_RUNNING

_FROM_BELOW = (Operator.GREATER, Operator.GREATER_OR_EQUAL, Operator.EQUAL)


class Hints(msgspec.Struct):
    """`closed_after_ns`: no match closed earlier; closing never precedes starting.

    `few_workflows`: matches are found fastest by their workflow ids, whatever they are sorted by.
    """

    maybe_open: bool = True
    maybe_closed: bool = True
    closed_after_ns: int | None = None
    few_workflows: bool = False


def hints_of(condition: Condition | None) -> Hints:
    """Derive hints from the terms that every match must fulfil."""
    hints = Hints()
    for term in required_terms(condition):
        if isinstance(term, IsNull) and term.attribute.field == "CloseTime":
            hints.maybe_open &= not term.negated
            hints.maybe_closed &= term.negated
        elif isinstance(term, Compare | In) and term.attribute.field == "ExecutionStatus":
            _narrow_by_status(hints, term)
        elif isinstance(term, Compare | In) and term.attribute.field == "WorkflowId":
            hints.few_workflows |= _names_values(term)
        elif isinstance(term, Compare | Between) and term.attribute.field in ("StartTime", "CloseTime"):
            _narrow_by_time(hints, term)
    return hints


def required_terms(condition: Condition | None) -> Iterator[Condition]:
    """The terms of a condition that every match must fulfil."""
    if isinstance(condition, All):
        for term in condition.terms:
            yield from required_terms(term)
    elif condition is not None:
        yield condition


def _names_values(term: Compare | In) -> bool:
    return not term.negated if isinstance(term, In) else term.operator is Operator.EQUAL


def _narrow_by_status(hints: Hints, term: Compare | In) -> None:
    if isinstance(term, In):
        if not term.negated:
            hints.maybe_open &= STATUS_RUNNING in term.values
            hints.maybe_closed &= any(value != STATUS_RUNNING for value in term.values)
    elif term.operator is Operator.EQUAL:
        hints.maybe_open &= term.value == STATUS_RUNNING
        hints.maybe_closed &= term.value != STATUS_RUNNING
    elif term.operator is Operator.NOT_EQUAL and term.value == STATUS_RUNNING:
        hints.maybe_open = False


def _narrow_by_time(hints: Hints, term: Compare | Between) -> None:
    if isinstance(term, Between):
        low = None if term.negated else term.low
    else:
        low = term.value if term.operator in _FROM_BELOW else None
    if isinstance(low, int):
        hints.closed_after_ns = low if hints.closed_after_ns is None else max(low, hints.closed_after_ns)
