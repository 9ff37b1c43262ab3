"""Search attributes between the API's payloads and typed values."""

from __future__ import annotations

import json
from collections.abc import Mapping

from temporalio.api.common.v1 import Payload, SearchAttributes

from streams.stores.filter_values import MAX_INT64, MIN_INT64, parse_rfc3339_ns
from streams.stores.search_attributes import PREDEFINED_ATTRIBUTES, SearchValue, ValueType


class SearchValueError(ValueError):
    """A payload that is not a value of its attribute's type."""


_MARKED_TYPES: Mapping[bytes, ValueType] = {
    "".join(part.capitalize() for part in type_.name.split("_")).encode(): type_ for type_ in ValueType
}


def decode_search_values(
    message: SearchAttributes, types: Mapping[str, int], *, trust_marks: bool = False
) -> dict[str, SearchValue]:
    """The typed values of search attributes; `types` are the namespace's custom attributes (IndexedValueType).

    With `trust_marks` an attribute that is in none of these has the type that its payload is marked with: for
    readers that may hear of attributes later than of their values.

    Attributes that are unknown, unset, or not of their type are left out: they were refused when they were set,
    or their attribute has been removed since.
    """
    found: dict[str, SearchValue] = {}
    for name in sorted(message.indexed_fields):
        number = types.get(name) or PREDEFINED_ATTRIBUTES.get(name)
        if number is None and trust_marks:
            number = _MARKED_TYPES.get(message.indexed_fields[name].metadata.get("type", b""))
        if number is None:
            continue
        try:
            value = decode_search_value(message.indexed_fields[name], ValueType(number))
        except SearchValueError:
            continue
        if value is not None:
            found[name] = value
    return found


def decode_search_value(payload: Payload, type_: ValueType) -> SearchValue | None:
    """The typed value of one payload, None when it is null or an empty list.

    Raises SearchValueError.
    """
    if not payload.data:
        return None
    try:
        value = json.loads(payload.data)
    except ValueError as error:
        raise SearchValueError("not JSON") from error
    if value is None or value == []:
        return None
    if isinstance(value, list) and type_ is not ValueType.KEYWORD_LIST:
        if len(value) > 1:
            raise SearchValueError(f"a list is not a value of type {type_.name}")
        value = value[0]
    return SearchValue(type_, _typed(value, type_))


def _typed(value: object, type_: ValueType) -> str | int | float | bool | tuple[str, ...]:
    if type_ is ValueType.KEYWORD_LIST:
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) for item in items):
            return tuple(items)
    elif type_ in (ValueType.TEXT, ValueType.KEYWORD):
        if isinstance(value, str):
            return value
    elif type_ is ValueType.BOOL:
        if isinstance(value, bool):
            return value
    elif type_ is ValueType.INT:
        if isinstance(value, int) and not isinstance(value, bool) and MIN_INT64 <= value <= MAX_INT64:
            return value
    elif type_ is ValueType.DOUBLE:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, str):
        time_ns = parse_rfc3339_ns(value)
        if time_ns is not None:
            return time_ns
    raise SearchValueError(f"{value!r} is not a value of type {type_.name}")
