"""What the settings want in the engine before the first call: limits, namespaces, search attributes."""

import uuid
from collections.abc import Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest

from gateway.engine import Engine
from server.errors import StartupError
from server.settings import DevSettings
from streams.bodies import LimitsChanged, NamespaceCall, NumberPair
from streams.limits import Limits, limits_to_numbers
from streams.topology import COMMANDS, REGISTRY_KEY, TASKS

DEFAULT_NAMESPACE: Final = "default"
RETENTION_S: Final = 24 * 3600
"""How long the dev server keeps closed runs, as the real one does."""

_TYPES: Final = {
    "Text": IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "Double": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
    "Bool": IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
    "Datetime": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}


async def prepare(engine: Engine, settings: DevSettings, limits: Limits) -> None:
    """Puts ``limits`` in force and adds what is missing. Raises :class:`StartupError`."""
    pairs = tuple(NumberPair(key, value) for key, value in limits_to_numbers(limits).items())
    for topic in (COMMANDS, TASKS):
        engine.append(topic, REGISTRY_KEY, LimitsChanged(pairs))
    names = list(dict.fromkeys((DEFAULT_NAMESPACE, *settings.namespaces)))
    _register(engine, names)
    await engine.flush()
    wanted = {name: int(_TYPES[type_]) for name, type_ in settings.search_attributes.items()}
    if wanted:
        _add_attributes(engine, names, wanted)
        await engine.flush()
        _check_attributes(engine, names, wanted)


def _register(engine: Engine, names: Iterable[str]) -> None:
    for name in names:
        if name not in engine.namespaces:
            request = RegisterNamespaceRequest(
                namespace=name, workflow_execution_retention_period=Duration(seconds=RETENTION_S)
            )
            call = NamespaceCall("RegisterNamespace", name, request.SerializeToString(), str(uuid.uuid4()))
            engine.append(COMMANDS, REGISTRY_KEY, call)


def _add_attributes(engine: Engine, names: Iterable[str], wanted: dict[str, int]) -> None:
    for name in names:
        known = _attributes(engine, name)
        missing = {attribute: type_ for attribute, type_ in wanted.items() if attribute not in known}
        if missing:
            request = AddSearchAttributesRequest(namespace=name)
            request.search_attributes.update(missing)  # type: ignore[arg-type]
            call = NamespaceCall("AddSearchAttributes", name, request.SerializeToString(), "")
            engine.append(COMMANDS, REGISTRY_KEY, call)


def _check_attributes(engine: Engine, names: Iterable[str], wanted: dict[str, int]) -> None:
    for name in names:
        known = _attributes(engine, name)
        for attribute, type_ in wanted.items():
            if attribute not in known:
                raise StartupError(f"the search attribute {attribute} is one of the server's own")
            if known[attribute] != type_:
                raise StartupError(
                    f"the search attribute {attribute} of namespace {name} exists with another type"
                )


def _attributes(engine: Engine, namespace: str) -> dict[str, int]:
    return {pair.key: pair.value for pair in engine.namespaces[namespace].attributes}
