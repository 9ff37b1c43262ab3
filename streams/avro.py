"""Avro encoding of records and table rows.

Every msgspec Struct that is written to a log or a table has a schema of the same name in `schemas/avro/`; its
fields are the struct's fields, in the same order. Encoding is deterministic: no maps, no floats.
"""

from __future__ import annotations

import functools
import io
import json
from importlib import resources
from typing import Any, TypeVar

import fastavro
import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class DecodeError(ValueError):
    """Bytes that do not match the schema they are said to follow."""


@functools.cache
def schema_files() -> dict[str, str]:
    """The text of every schema file, by record name."""
    found: dict[str, str] = {}
    root = resources.files("schemas") / "avro"
    for folder in (root / "internal", root / "public"):
        if folder.is_dir():
            for file in folder.iterdir():
                if file.name.endswith(".avsc"):
                    found[file.name.removesuffix(".avsc")] = file.read_text()
    return found


@functools.cache
def schema_of(name: str) -> Any:
    """The parsed schema of the record called `name`, with the records it refers to loaded first.

    Raises KeyError when no schema of that name exists.
    """
    known: dict[str, Any] = {}
    return _parse(name, known)


def _parse(name: str, known: dict[str, Any]) -> Any:
    definition = json.loads(schema_files()[name])
    for field in definition["fields"]:
        for reference in _references(field["type"]):
            if f"odradek.{reference}" not in known:
                _parse(reference, known)
    return fastavro.parse_schema(definition, named_schemas=known)


def _references(field_type: Any) -> list[str]:
    if isinstance(field_type, list):
        return [name for branch in field_type for name in _references(branch)]
    if isinstance(field_type, dict):
        return _references(field_type["items"]) if field_type.get("type") == "array" else []
    return [field_type.removeprefix("odradek.")] if field_type.startswith("odradek.") else []


def encode(value: msgspec.Struct) -> bytes:
    """The Avro bytes of `value` under the schema named like its class."""
    out = io.BytesIO()
    plain = msgspec.to_builtins(value, builtin_types=(bytes,))
    fastavro.schemaless_writer(out, schema_of(type(value).__name__), plain)
    return out.getvalue()


def decode(cls: type[T], data: bytes) -> T:
    """The struct of class `cls` that `data` holds.

    Raises DecodeError when the bytes do not follow the schema or leave a rest.
    """
    stream = io.BytesIO(data)
    try:
        plain = fastavro.schemaless_reader(stream, schema_of(cls.__name__), None)
        value = msgspec.convert(plain, cls)
    except Exception as error:
        raise DecodeError(f"not a {cls.__name__}: {error}") from error
    if stream.tell() != len(data):
        raise DecodeError(f"not a {cls.__name__}: {len(data) - stream.tell()} bytes too many")
    return value
