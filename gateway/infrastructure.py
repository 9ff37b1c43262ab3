"""gRPC health and reflection beside the API's services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

HEALTH_SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION_SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
_REFLECTION_METHODS: Final = frozenset(f"/{service}/ServerReflectionInfo" for service in REFLECTION_SERVICES)


class Infrastructure:
    """Health of each service by its full name, and reflection of them all.

    Everything is NOT_SERVING until :meth:`serve`, and again, for good, from :meth:`drain` on. Add it to the
    server after the API's services: generic handlers are asked in order, for every call.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = tuple(services)
        self._health = HealthServicer()

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Adds both services to ``server``, which has not started yet."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*self._services, HEALTH_SERVICE, *REFLECTION_SERVICES)
        server.add_generic_rpc_handlers((_Reflection(names),))

    async def serve(self) -> None:
        """Tells clients that every service takes calls."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Tells clients to go elsewhere."""
        await self._health.enter_graceful_shutdown()

    async def _set(self, status: Any) -> None:
        for service in ("", *self._services):
            await self._health.set(service, status)


class _Reflection(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Imports what reflection needs at its first call, to keep it out of the start-up.

    The two versions of the service differ in nothing but their names.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services
        self._handler: grpc.RpcMethodHandler[Any, Any] | None = None

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method not in _REFLECTION_METHODS:
            return None
        if self._handler is None:
            self._handler = self._load()
        return self._handler

    def _load(self) -> grpc.RpcMethodHandler[Any, Any]:
        from grpc_reflection.v1alpha import reflection_pb2
        from grpc_reflection.v1alpha._async import ReflectionServicer

        servicer = ReflectionServicer(self._services)
        return grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
