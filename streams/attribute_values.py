"""Search attributes as clients and workflows set them: known names, values of the right type, bounded sizes.

Source: common/searchattribute/{validator,mapper,encode_value}.go of the real server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from google.protobuf.text_encoding import CEscape
from temporalio.api.common.v1 import Payload, SearchAttributes

from streams.limits import Limits
from streams.stores.search_attributes import PREDEFINED_ATTRIBUTES, SYSTEM_ATTRIBUTES, ValueType

SETTABLE: Final = frozenset(PREDEFINED_ATTRIBUTES) - {
    "TemporalWorkerDeploymentVersion",
    "TemporalWorkflowVersioningBehavior",
    "TemporalWorkerDeployment",
}
"""Predefined attributes that clients may set."""

TYPE_NAMES: Final = {
    type_: "".join(part.capitalize() for part in type_.name.split("_")) for type_ in ValueType
}
"""What payloads' metadata calls the types."""

_INT64: Final = 2**63


class InvalidSearchAttributes(ValueError):
    """Search attributes that cannot be set; the message is the API's."""


def check(attributes: SearchAttributes, namespace: str, custom: Mapping[str, int], limits: Limits) -> None:
    """Check search attributes that are to be set, and mark each value with its type.

    `custom` maps the namespace's own attributes to IndexedValueType numbers. Raises InvalidSearchAttributes.
    """
    check_names(attributes, namespace, custom)
    check_values(attributes, custom, limits)
    check_sizes(attributes, limits)
    mark_types(attributes, custom)


def check_names(attributes: SearchAttributes, namespace: str, custom: Mapping[str, int]) -> None:
    """Refuse names that the namespace does not know. Raises InvalidSearchAttributes."""
    for name in sorted(attributes.indexed_fields):
        if name not in SYSTEM_ATTRIBUTES and name not in PREDEFINED_ATTRIBUTES and name not in custom:
            raise InvalidSearchAttributes(
                f"Namespace {namespace} has no mapping defined for search attribute {name}"
            )


def check_values(attributes: SearchAttributes, custom: Mapping[str, int], limits: Limits) -> None:
    """Refuse too many, what cannot be set, and values of another type. Raises InvalidSearchAttributes."""
    fields = attributes.indexed_fields
    if len(fields) > limits.search_attributes_keys:
        raise InvalidSearchAttributes(
            f"number of search attributes {len(fields)} exceeds limit {limits.search_attributes_keys}"
        )
    for name in sorted(fields):
        if name in SYSTEM_ATTRIBUTES or (name in PREDEFINED_ATTRIBUTES and name not in SETTABLE):
            raise InvalidSearchAttributes(f"{name} attribute can't be set in SearchAttributes")
        type_, payload = _type_of(name, custom), fields[name]
        if not _is_of_type(payload, type_):
            raise InvalidSearchAttributes(
                f"invalid value for search attribute {name} of type {TYPE_NAMES[type_]}: {_shown(payload)}"
            )


def check_sizes(attributes: SearchAttributes, limits: Limits) -> None:
    """Refuse values that are too large, one by one or together. Raises InvalidSearchAttributes."""
    for name in sorted(attributes.indexed_fields):
        size_bytes = len(attributes.indexed_fields[name].data)
        if size_bytes > limits.search_attribute_value_bytes:
            raise InvalidSearchAttributes(
                f"search attribute {name} value size {size_bytes} exceeds size limit "
                f"{limits.search_attribute_value_bytes}"
            )
    if attributes.ByteSize() > limits.search_attributes_total_bytes:
        raise InvalidSearchAttributes(
            f"total size of search attributes {attributes.ByteSize()} exceeds size limit "
            f"{limits.search_attributes_total_bytes}"
        )


def mark_types(attributes: SearchAttributes, custom: Mapping[str, int]) -> None:
    """Mark each value with its type, unless the client has said one."""
    for name, payload in attributes.indexed_fields.items():
        if "type" not in payload.metadata:
            payload.metadata["type"] = TYPE_NAMES[_type_of(name, custom)].encode()


def _type_of(name: str, custom: Mapping[str, int]) -> ValueType:
    return PREDEFINED_ATTRIBUTES.get(name) or ValueType(custom[name])


def _decode(payload: Payload) -> Any:
    """The value of a payload. Raises ValueError for encodings that search attributes do not have."""
    encoding = payload.metadata.get("encoding", b"")
    if encoding == b"binary/null":
        return None
    if encoding != b"json/plain":
        raise ValueError(f"encoding {encoding!r}")
    try:
        return json.loads(payload.data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_of_type(payload: Payload, type_: ValueType) -> bool:
    try:
        value = _decode(payload)
    except ValueError:
        return False
    if value is None:
        return True
    is_one = _CHECKS[type_]
    if isinstance(value, list):
        if len(value) > 1 and type_ is not ValueType.KEYWORD_LIST:
            return False
        return all(item is None or is_one(item) for item in value)
    return type_ is not ValueType.KEYWORD_LIST and is_one(value)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_time(value: Any) -> bool:
    if not isinstance(value, str) or "T" not in value:
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def _is_double(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


_CHECKS: Final[Mapping[ValueType, Callable[[Any], bool]]] = {
    ValueType.TEXT: _is_text,
    ValueType.KEYWORD: _is_text,
    ValueType.KEYWORD_LIST: _is_text,
    ValueType.BOOL: lambda value: isinstance(value, bool),
    ValueType.INT: _is_integer,
    ValueType.DOUBLE: _is_double,
    ValueType.DATETIME: _is_time,
}


def _shown(payload: Payload) -> str:
    """A wrong value, as the real server writes it."""
    if payload.metadata.get("encoding") == b"binary/plain":
        return "[" + " ".join(map(str, payload.data)) + "]"
    try:
        value = _decode(payload)
    except ValueError:
        return f"value from <{_go_text(payload)}>"
    return _go(value)


def _go_text(payload: Payload) -> str:
    """A payload in Go's text format."""
    parts = [
        f'metadata:{{key:"{CEscape(key.encode(), True)}" value:"{CEscape(payload.metadata[key], False)}"}}'
        for key in sorted(payload.metadata)
    ]
    if payload.data:
        parts.append(f'data:"{CEscape(payload.data, False)}"')
    return " ".join(parts)


def _go(value: Any) -> str:
    match value:
        case None:
            return "<nil>"
        case bool():
            return str(value).lower()
        case int() | float():
            return _go_number(value)
        case list():
            return "[" + " ".join(map(_go, value)) + "]"
        case dict():
            return "map[" + " ".join(f"{key}:{_go(value[key])}" for key in sorted(value)) + "]"
        case _:
            return str(value)


def _go_number(number: int | float) -> str:
    """A number as Go's %v writes a float64: its shortest digits, with an exponent below -4 and above 5."""
    try:
        value = float(number)
    except OverflowError:
        return "+Inf" if number > 0 else "-Inf"
    if not math.isfinite(value):
        return str(value)
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    power = len(digits) - 1 + exponent
    if -4 <= power < 6:
        return format(Decimal(repr(value)).normalize(), "f")
    fraction = "".join(map(str, digits[1:]))
    mantissa = f"{digits[0]}.{fraction}" if fraction else str(digits[0])
    return f"{'-' if sign else ''}{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
