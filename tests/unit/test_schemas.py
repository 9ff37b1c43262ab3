"""Every struct that is written has a schema of its name with the same fields, each explained."""

from __future__ import annotations

import inspect
import json

import msgspec
import pytest

from streams import avro, bodies
from streams.history import state
from streams.matching import state as matching_state
from streams.runtime import codec, partition
from streams.runtime.logic import LogicMarker
from streams.runtime.records import Tick

STRUCTS = sorted(
    {
        cls
        for module in (bodies, state, matching_state, codec, partition)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, msgspec.Struct)
        and cls.__module__ == module.__name__
        and not cls.__name__.startswith("_")
    }
    | {Tick, LogicMarker},
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda cls: cls.__name__)
def test_schema_has_the_fields_of_the_struct(cls: type[msgspec.Struct]) -> None:
    schema = json.loads(avro.schema_files()[cls.__name__])
    assert [field["name"] for field in schema["fields"]] == [f.name for f in msgspec.structs.fields(cls)]
    assert schema["doc"]
    assert not [field["name"] for field in schema["fields"] if not field.get("doc")]


def test_no_schema_is_left_over() -> None:
    assert set(avro.schema_files()) == {cls.__name__ for cls in STRUCTS}
