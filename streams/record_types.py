"""Every body that internal records may have, by name."""

from __future__ import annotations

import inspect

import msgspec

from streams import bodies
from streams.runtime.logic import LogicMarker
from streams.runtime.records import Tick

BODY_TYPES: dict[str, type[msgspec.Struct]] = {
    name: cls
    for name, cls in inspect.getmembers(bodies, inspect.isclass)
    if issubclass(cls, msgspec.Struct) and cls.__module__ == bodies.__name__
} | {"Tick": Tick, "LogicMarker": LogicMarker}
