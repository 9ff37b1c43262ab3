"""Values of search attributes as the API's payloads."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from temporalio.api.common.v1 import Payload

from streams.attribute_values import TYPE_NAMES
from streams.stores.search_attributes import ValueType

_SECOND_NS = 1_000_000_000


def encode(type_: ValueType, value: str | int | float | bool | tuple[str, ...]) -> Payload:
    """A value as JSON, marked with its type."""
    plain = _time(value) if type_ is ValueType.DATETIME and isinstance(value, int) else value
    return Payload(
        metadata={"encoding": b"json/plain", "type": TYPE_NAMES[type_].encode()},
        data=json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode(),
    )


def _time(time_ns: int) -> str:
    """RFC 3339 with as many digits of a second as there are."""
    seconds, nanos = divmod(time_ns, _SECOND_NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{text}{fraction}Z"
