"""How a visibility row is laid out in columns.

Search attributes are one JSON object whose keys carry the type (``k:OrderId``), so that values of an
attribute that was removed and registered anew with another type do not show up under the new one.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from streams.stores.search_attributes import NAMESPACE_DIVISION, SearchValue, ValueType
from streams.stores.visibility import VisibilityRow

COLUMNS = (
    "namespace_id",
    "workflow_id",
    "run_id",
    "close_order",
    "start_time_ns",
    "status",
    "namespace_division",
    "execution_time_ns",
    "close_time_ns",
    "workflow_type",
    "task_queue",
    "history_length",
    "history_size_bytes",
    "execution_duration_ns",
    "state_transition_count",
    "parent_workflow_id",
    "parent_run_id",
    "root_workflow_id",
    "root_run_id",
    "version",
    "search_attributes",
    "memo",
)

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


def row_of(values: tuple[Any, ...]) -> VisibilityRow:
    """The row whose columns, in the order of `COLUMNS`, are `values`."""
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
        attributes[key[2:]] = SearchValue(type_, tuple(value) if type_ is ValueType.KEYWORD_LIST else value)
    return attributes
