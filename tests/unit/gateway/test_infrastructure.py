"""Health and reflection, as any gRPC client asks for them."""

import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from temporalio.api.workflowservice.v1 import service_pb2

from gateway.grpc_calls import Calls
from gateway.grpc_server import GrpcServer
from gateway.infrastructure import Infrastructure

SERVICE = service_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def infrastructure() -> Infrastructure:
    return Infrastructure([SERVICE])


@pytest.fixture
async def channel(infrastructure: Infrastructure) -> AsyncIterator[grpc.aio.Channel]:
    await infrastructure.begin()
    server = GrpcServer(Calls(infrastructure.unary, infrastructure.streams))
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop()


async def status(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_follows_the_server(
    channel: grpc.aio.Channel, infrastructure: Infrastructure, service: str
) -> None:
    assert await status(channel, service) == NOT_SERVING
    await infrastructure.serve()
    assert await status(channel, service) == SERVING
    await infrastructure.drain()
    assert await status(channel, service) == NOT_SERVING


async def test_an_unknown_service_is_not_found(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status(channel, "temporal.api.Nothing")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_watcher_sees_the_drain(channel: grpc.aio.Channel, infrastructure: Infrastructure) -> None:
    await infrastructure.serve()
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == SERVING
    await infrastructure.drain()
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()


async def reflect(channel: grpc.aio.Channel, version: str, **request: str) -> object:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(**request))
    await call.done_writing()
    return await call.read()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services(channel: grpc.aio.Channel, version: str) -> None:
    response = await reflect(channel, version, list_services="")
    assert {service.name for service in response.list_services_response.service} == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_describes_the_api(channel: grpc.aio.Channel) -> None:
    response = await reflect(channel, "v1", file_containing_symbol=SERVICE)
    assert len(response.file_descriptor_response.file_descriptor_proto) > 0


@pytest.mark.parametrize(
    "method",
    [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_bytes_that_are_no_message_are_refused(channel: grpc.aio.Channel, method: str) -> None:
    call = channel.stream_stream(f"/{method}")(iter([b"\xff"]), timeout=20)
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_reflection_costs_nothing_until_it_is_used() -> None:
    code = "import gateway.infrastructure, sys; sys.exit('grpc_reflection.v1alpha' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
