"""gRPC health and reflection beside the API's services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from gateway import errors
from gateway.backend import Context
from gateway.errors import ApiError
from gateway.grpc_calls import Messages, Stream, Unary, Write

HEALTH_SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION_SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


class Infrastructure:
    """Health of each service by its full name, and reflection of them all.

    Everything is NOT_SERVING until :meth:`serve`, and again, for good, from :meth:`drain` on.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = tuple(services)
        self._health = HealthServicer()
        self._reflection: Any = None

    async def begin(self) -> None:
        """Say that no service takes calls yet."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def serve(self) -> None:
        """Tells clients that every service takes calls."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Tells clients to go elsewhere."""
        await self._health.enter_graceful_shutdown()

    @property
    def unary(self) -> Mapping[str, Unary]:
        """Methods that answer once, by path."""
        return {f"/{HEALTH_SERVICE}/Check": self._check}

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The other methods, by path."""
        reflection = {f"/{service}/ServerReflectionInfo": self._reflect for service in REFLECTION_SERVICES}
        return {f"/{HEALTH_SERVICE}/Watch": self._watch, **reflection}

    async def _check(self, data: bytes, context: Context) -> bytes:
        answer = await self._health.Check(_parse(health_pb2.HealthCheckRequest, data), _Refusing())
        encoded: bytes = answer.SerializeToString()
        return encoded

    async def _watch(self, messages: Messages, write: Write) -> None:
        request = _parse(health_pb2.HealthCheckRequest, await messages.only())
        await self._health.Watch(request, _Writing(write))

    async def _reflect(self, messages: Messages, write: Write) -> None:
        """The two versions of the service differ in nothing but their names."""
        # Imported at the first call, to keep it out of the start-up.
        from grpc_reflection.v1alpha import reflection_pb2
        from grpc_reflection.v1alpha._async import ReflectionServicer

        if self._reflection is None:
            self._reflection = ReflectionServicer((*self._services, HEALTH_SERVICE, *REFLECTION_SERVICES))

        async def requests() -> AsyncIterator[Any]:
            while (data := await messages.read()) is not None:
                yield _parse(reflection_pb2.ServerReflectionRequest, data)

        async for response in self._reflection.ServerReflectionInfo(requests(), None):
            await write(response.SerializeToString())

    async def _set(self, status: Any) -> None:
        for service in ("", *self._services):
            await self._health.set(service, status)


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise errors.no_message() from None


class _Refusing:
    """As much of grpc's context as a health check needs."""

    async def abort(self, code: grpc.StatusCode) -> NoReturn:
        raise ApiError(code.value[0], errors.CODES[code.value[0]].name)


class _Writing:
    """As much of grpc's context as a health watch needs."""

    def __init__(self, write: Write) -> None:
        self._write = write

    async def write(self, response: Any) -> None:
        await self._write(response.SerializeToString())
