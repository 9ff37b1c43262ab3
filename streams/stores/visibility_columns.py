"""How a visibility row is laid out in columns.

Search attributes are one JSON object whose keys carry the type (``k:OrderId``), so that values of an
attribute that was removed and registered anew with another type do not show up under the new one.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from streams.stores.damage import StoreDamagedError
from streams.stores.search_attributes import NAMESPACE_DIVISION, SearchValue, ValueType
from streams.stores.visibility import VisibilityRow

_TYPES = {
    "namespace_id": str,
    "workflow_id": str,
    "run_id": str,
    "close_order": int,
    "start_time_ns": int,
    "status": int,
    "namespace_division": str | None,
    "execution_time_ns": int,
    "close_time_ns": int | None,
    "workflow_type": str,
    "task_queue": str,
    "history_length": int | None,
    "history_size_bytes": int | None,
    "execution_duration_ns": int | None,
    "state_transition_count": int | None,
    "parent_workflow_id": str | None,
    "parent_run_id": str | None,
    "root_workflow_id": str,
    "root_run_id": str,
    "version": int,
    "search_attributes": str | None,
    "memo": bytes,
}

COLUMNS = tuple(_TYPES)

KEY_COLUMNS = COLUMNS[:3]

_TYPE_LETTERS = {
    ValueType.TEXT: "t",
    ValueType.KEYWORD: "k",
    ValueType.INT: "i",
    ValueType.DOUBLE: "f",
    ValueType.BOOL: "b",
    ValueType.DATETIME: "d",
    ValueType.KEYWORD_LIST: "l",
}
_LETTER_TYPES = {letter: type_ for type_, letter in _TYPE_LETTERS.items()}
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])


def attribute_key(name: str, type_: ValueType) -> str:
    """The key of an attribute in the JSON object."""
    return f"{_TYPE_LETTERS[type_]}:{name}"


def row_values(row: VisibilityRow, close_order: int) -> tuple[Any, ...]:
    """Values of a row in the order of `COLUMNS`."""
    attributes = row.search_attributes
    division = attributes.get(NAMESPACE_DIVISION)
    return (
        row.namespace_id,
        row.workflow_id,
        row.run_id,
        close_order,
        row.start_time_ns,
        row.status,
        None if division is None else division.value,
        row.execution_time_ns,
        row.close_time_ns,
        row.workflow_type,
        row.task_queue,
        row.history_length,
        row.history_size_bytes,
        row.execution_duration_ns,
        row.state_transition_count,
        row.parent_workflow_id,
        row.parent_run_id,
        row.root_workflow_id,
        row.root_run_id,
        row.version,
        _encode_attributes(attributes) if attributes else None,
        row.memo,
    )


def check_types(values: tuple[Any, ...]) -> None:
    """Raise StoreDamagedError unless each column, in the order of `COLUMNS`, is of the type it was written with."""
    if all(map(isinstance, values, _TYPES.values())):
        return
    wrong = [
        name
        for (name, type_), value in zip(_TYPES.items(), values, strict=True)
        if not isinstance(value, type_)
    ]
    raise _damaged(values, f"{', '.join(wrong)} of a wrong type")


def _damaged(values: tuple[Any, ...], why: object) -> StoreDamagedError:
    return StoreDamagedError(f"the row of run {values[2]!r} in the visibility store is damaged: {why}")


def row_of(values: tuple[Any, ...]) -> VisibilityRow:
    """The row whose columns, in the order of `COLUMNS`, are `values`. Raises StoreDamagedError."""
    try:
        return _row_of(values)
    except (ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise _damaged(values, error) from error


def _row_of(values: tuple[Any, ...]) -> VisibilityRow:
    fields = dict(zip(COLUMNS, values, strict=True))
    del fields["close_order"], fields["namespace_division"]
    stored = fields["search_attributes"]
    fields["search_attributes"] = {} if stored is None else _decode_attributes(stored)
    return VisibilityRow(**fields)


def _encode_attributes(attributes: Mapping[str, SearchValue]) -> str:
    return _encoder.encode(
        {attribute_key(name, held.type): held.value for name, held in attributes.items()}
    ).decode()


def _decode_attributes(stored: str) -> dict[str, SearchValue]:
    attributes = {}
    for key, value in _decoder.decode(stored).items():
        type_ = _LETTER_TYPES[key[0]]
        attributes[key[2:]] = SearchValue(type_, _restored(type_, value))
    return attributes


def _restored(type_: ValueType, value: Any) -> Any:
    if type_ is ValueType.KEYWORD_LIST:
        return tuple(value)
    # A database may show a whole number without its point.
    return float(value) if type_ is ValueType.DOUBLE else value
