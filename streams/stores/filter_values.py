"""Literals of a list filter, turned into values of their attribute's type."""

import datetime
import re

from streams.stores.filter_model import FilterError, Value
from streams.stores.search_attributes import (
    SCHEDULE_ID,
    SCHEDULE_WORKFLOW_ID_PREFIX,
    Attribute,
    ValueType,
)

MIN_INT64 = -(2**63)
MAX_INT64 = 2**63 - 1
LATEST_TIME_NS = MAX_INT64 - 1
"""Times beyond what nanoseconds in 64 bits can hold count as this; a run that is open closes later still."""

STATUS_NAMES = (
    "Unspecified",
    "Running",
    "Completed",
    "Failed",
    "Canceled",
    "Terminated",
    "ContinuedAsNew",
    "TimedOut",
)
"""Names of ``WorkflowExecutionStatus``, at their number."""

_STATUS_NUMBERS = {
    **{name: number for number, name in enumerate(STATUS_NAMES)},
    **{
        "WORKFLOW_EXECUTION_STATUS_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper(): number
        for number, name in enumerate(STATUS_NAMES)
    },
}
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5, micro sign
    "μs": 10**3,  # U+03BC, Greek mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)
_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,5})?", re.ASCII)
_DURATION_PART = re.compile(r"(\d{1,20})?(?:\.(\d{0,20}))?(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,9}):(\d{1,2}):(\d{1,2})", re.ASCII)


class Literal:
    """A literal as it stands in the filter: `text` is unquoted; exactly one kind holds."""

    def __init__(self, kind: str, text: str, position: int) -> None:
        """`kind` is ``string``, ``number`` or ``bool``; `position` counts characters from 1."""
        self.kind = kind
        self.text = text
        self.position = position


def convert(attribute: Attribute, literal: Literal) -> Value:
    """Turn a literal into a value of `attribute`'s type.

    Raises `FilterError` at the literal's position when it is of another type.
    """
    if attribute.field == "ExecutionStatus":
        return _status(literal)
    if attribute.field == "ExecutionDuration" and literal.kind == "string":
        return _duration_ns(attribute, literal)
    if attribute.type is ValueType.DATETIME:
        return _time_ns(attribute, literal)
    if attribute.type in (ValueType.INT, ValueType.DOUBLE):
        return _number(attribute, literal)
    if attribute.type is ValueType.BOOL:
        if literal.kind != "bool":
            raise _bad_value(attribute, literal)
        return literal.text == "true"
    return _string(attribute, literal)


def _status(literal: Literal) -> int:
    if literal.kind == "string" and (number := _STATUS_NUMBERS.get(literal.text)) is not None:
        return number
    if literal.kind == "number" and _INTEGER.fullmatch(literal.text):
        number = int(literal.text)
        if MIN_INT64 <= number <= MAX_INT64:
            return number
    raise FilterError(f"invalid expression: invalid ExecutionStatus value '{literal.text}'", literal.position)


def _time_ns(attribute: Attribute, literal: Literal) -> int:
    if literal.kind == "number" and _INTEGER.fullmatch(literal.text):
        return min(max(int(literal.text), MIN_INT64), LATEST_TIME_NS)
    if literal.kind != "string":
        raise _bad_value(attribute, literal)
    time_ns = parse_rfc3339_ns(literal.text)
    if time_ns is None:
        raise FilterError(f"invalid expression: unable to parse datetime '{literal.text}'", literal.position)
    return min(max(time_ns, MIN_INT64), LATEST_TIME_NS)


def parse_rfc3339_ns(text: str) -> int | None:
    """Nanoseconds since the epoch of an RFC 3339 time; None when it is not one."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    try:
        time = datetime.datetime.fromisoformat(match[1]).replace(tzinfo=datetime.UTC)
    except ValueError:
        return None
    since = time - _EPOCH
    seconds = since.days * 86400 + since.seconds
    if match[4] is not None:
        offset = int(match[5]) * 3600 + int(match[6]) * 60
        seconds -= offset if match[4] == "+" else -offset
    return seconds * 10**9 + int((match[2] or "0")[:9].ljust(9, "0"))


def _duration_ns(attribute: Attribute, literal: Literal) -> int:
    text = literal.text
    if _INTEGER.fullmatch(text):
        duration_ns: int | None = int(text)
    else:
        duration_ns = _parse_go_duration_ns(text)
        if duration_ns is None:
            duration_ns = _parse_clock_ns(text)
    if duration_ns is None or not MIN_INT64 <= duration_ns <= MAX_INT64:
        raise FilterError(
            f"invalid value for search attribute {attribute.name}: {text} (invalid duration)",
            literal.position,
        )
    return duration_ns


def _parse_go_duration_ns(text: str) -> int | None:
    """A Go duration (``1h5m``, ``-1.5s``), with ``d`` for 24 hours as the real server adds."""
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    total_ns = at = 0
    while match := _DURATION_PART.match(unsigned, at):
        whole, fraction, unit = match.groups()
        if not whole and not fraction:
            return None
        unit_ns = _NANOSECONDS[unit]
        total_ns += int(whole or "0") * unit_ns
        if fraction:
            total_ns += int(fraction) * unit_ns // 10 ** len(fraction)
        at = match.end()
    if at == 0 or at != len(unsigned):
        return None
    return -total_ns if text[0] == "-" else total_ns


def _parse_clock_ns(text: str) -> int | None:
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (int(part) for part in match.groups())
    if minutes > 59 or seconds > 59:
        return None
    return (hours * 3600 + minutes * 60 + seconds) * 10**9


def _number(attribute: Attribute, literal: Literal) -> int | float:
    if literal.kind != "bool" and _INTEGER.fullmatch(literal.text):
        number = int(literal.text)
        return number if MIN_INT64 <= number <= MAX_INT64 else float(number)
    if literal.kind != "bool" and _NUMBER.fullmatch(literal.text):
        return float(literal.text)
    raise _bad_value(attribute, literal)


def _string(attribute: Attribute, literal: Literal) -> str:
    # The real server, too, lets a number stand for a keyword of the same digits.
    if literal.kind == "bool" or (literal.kind == "number" and attribute.type is not ValueType.KEYWORD):
        raise _bad_value(attribute, literal)
    if any("\ud800" <= char <= "\udfff" for char in literal.text):
        raise FilterError("invalid expression: value is not valid UTF-8", literal.position)
    if attribute.name == SCHEDULE_ID and attribute.field == "WorkflowId":
        return SCHEDULE_WORKFLOW_ID_PREFIX + literal.text
    return literal.text


def _bad_value(attribute: Attribute, literal: Literal) -> FilterError:
    shown = f'"{literal.text}"' if literal.kind == "string" else literal.text
    return FilterError(
        f"invalid value for search attribute {attribute.name} of type {type_name(attribute)}: {shown}",
        literal.position,
    )


def type_name(attribute: Attribute) -> str:
    """The API's name of an attribute's type, such as ``KeywordList``."""
    return attribute.type.name.title().replace("_", "")
