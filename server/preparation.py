"""What the settings want in the engine before the first call: limits, namespaces, search attributes."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest

from gateway import errors
from gateway.backend import Backend
from gateway.engine import Engine
from gateway.errors import ApiError
from server.errors import StartupError
from streams.bodies import LimitsChanged, NamespaceCall, NumberPair
from streams.limits import Limits, limits_to_numbers
from streams.stores.search_attributes import PREDEFINED_ATTRIBUTES, SYSTEM_ATTRIBUTES
from streams.topology import COMMANDS, REGISTRY_KEY, TASKS

DEFAULT_NAMESPACE: Final = "default"
RETENTION_S: Final = 24 * 3600
"""How long the dev server keeps closed runs, as the real one does."""

ASK_TIMEOUT_S: Final = 10.0
SHOWN_RETRY_S: Final = 0.05

_BUILT_IN: Final = {**SYSTEM_ATTRIBUTES, **PREDEFINED_ATTRIBUTES}
_log = structlog.get_logger(__name__)

_TYPES: Final = {
    "Text": IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "Double": IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
    "Bool": IndexedValueType.INDEXED_VALUE_TYPE_BOOL,
    "Datetime": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}


class Wanted(Protocol):
    """The settings that say what there is to be."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Namespaces beside `default`."""

    @property
    def search_attributes(self) -> Mapping[str, str]:
        """Types of search attributes, by name; every namespace gets them."""


async def prepare(engine: Engine, wanted: Wanted, limits: Limits, gateway: str) -> None:
    """Puts ``limits`` in force and adds what is missing, as the gateway of that name, which attaches afterwards.

    Waits for the owner of the namespaces when there is something to add. Raises :class:`StartupError`.
    """
    backend = Backend(engine, limits, gateway)
    backend.begin()
    pairs = tuple(NumberPair(key, value) for key, value in limits_to_numbers(limits).items())
    for topic in (COMMANDS, TASKS):
        engine.append(topic, REGISTRY_KEY, LimitsChanged(pairs))
    for name in wanted.search_attributes:
        if name in _BUILT_IN:
            raise StartupError(f"the search attribute {name} is one of the server's own")
    attributes = {name: int(_TYPES[type_]) for name, type_ in wanted.search_attributes.items()}
    for name in dict.fromkeys((DEFAULT_NAMESPACE, *wanted.namespaces)):
        if name not in engine.namespaces:
            request = RegisterNamespaceRequest(
                namespace=name, workflow_execution_retention_period=Duration(seconds=RETENTION_S)
            )
            await _change(backend, "RegisterNamespace", name, request)
            await _until(engine, lambda name=name: name in engine.namespaces)  # type: ignore[misc]
        await _add_attributes(backend, name, attributes)
    await engine.flush()


async def _add_attributes(backend: Backend, namespace: str, wanted: Mapping[str, int]) -> None:
    engine = backend.engine
    known = _attributes(engine, namespace)
    missing = {name: type_ for name, type_ in wanted.items() if name not in known}
    if missing:
        request = AddSearchAttributesRequest(namespace=namespace)
        request.search_attributes.update(missing)  # type: ignore[arg-type]
        await _change(backend, "AddSearchAttributes", namespace, request)
        await _until(engine, lambda: missing.keys() <= _attributes(engine, namespace).keys())
        known = _attributes(engine, namespace)
    for name, type_ in wanted.items():
        if known[name] != type_:
            raise StartupError(
                f"the search attribute {name} of namespace {namespace} exists with another type"
            )


async def _change(backend: Backend, method: str, namespace: str, request: Message) -> None:
    """Have a namespace changed, as soon as its owner is there; another member may have done the same before."""
    call = NamespaceCall(method, namespace, request.SerializeToString(), str(uuid.uuid4()))
    while True:
        try:
            await backend.ask(COMMANDS, REGISTRY_KEY, call, ASK_TIMEOUT_S)
        except TimeoutError:
            _log.warning(
                "the owner of the namespaces does not answer yet", waits_for=method, namespace=namespace
            )
        except ApiError as error:
            if error.code == errors.ALREADY_EXISTS:
                return
            if error.code != errors.UNAVAILABLE:
                raise StartupError(f"namespace {namespace} cannot be prepared: {error}") from None
            await asyncio.sleep(SHOWN_RETRY_S)
        else:
            return


async def _until(engine: Engine, shown: Callable[[], bool]) -> None:
    """Wait until a change that was made is seen here."""
    while True:
        await engine.flush()
        if shown():
            return
        await asyncio.sleep(SHOWN_RETRY_S)


def _attributes(engine: Engine, namespace: str) -> dict[str, int]:
    return {pair.key: pair.value for pair in engine.namespaces[namespace].attributes}
