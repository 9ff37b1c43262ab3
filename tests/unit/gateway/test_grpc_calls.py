"""Calls over a real connection: what clients may ask, how calls end, and what breaks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway import errors
from gateway.errors import ApiError
from gateway.grpc_calls import Call, Calls, Messages, Write
from gateway.grpc_server import GrpcServer, listen
from tests.unit.gateway.conftest import refusal

LARGEST = 4 * 1024 * 1024
STREAMS = 1000


class Service:
    """Methods for every way to answer."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting = self.failures = 0
        self.go = asyncio.Event()

    async def echo(self, request: bytes, call: Call) -> bytes:
        return request

    async def fail(self, request: bytes, call: Call) -> bytes:
        self.failures += 1
        raise ApiError(errors.NOT_FOUND, f" {request.decode()} ", b"\0details\xff")

    async def crash(self, request: bytes, call: Call) -> bytes:
        raise ZeroDivisionError

    async def repeat(self, request: bytes, call: Call) -> bytes:
        return b"x" * int(request)

    async def remaining(self, request: bytes, call: Call) -> bytes:
        return str(call.time_remaining()).encode()

    async def headers(self, request: bytes, call: Call) -> bytes:
        return repr(dict(call.headers)).encode()

    async def wait(self, request: bytes, call: Call) -> bytes:
        """Waits until it is cancelled."""
        self.arrived.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.ended.set_result("cancelled")
            raise
        return b""

    async def together(self, request: bytes, call: Call) -> bytes:
        """Answers once as many calls wait as the request says."""
        self.waiting += 1
        if self.waiting == int(request):
            self.go.set()
        await self.go.wait()
        return b""

    async def each(self, messages: Messages, write: Write) -> None:
        """Answers each message with itself, and "end" with an error."""
        while (message := await messages.read()) is not None:
            if message == b"end":
                raise ApiError(errors.ABORTED, "as asked")
            await write(message)

    async def watch(self, messages: Messages, write: Write) -> None:
        """Answers once and waits until it is cancelled."""
        await write(await messages.only())
        await self.wait(b"", None)  # type: ignore[arg-type]


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def server(service: Service) -> AsyncIterator[tuple[GrpcServer, int]]:
    unary = ("echo", "fail", "crash", "repeat", "remaining", "headers", "wait", "together")
    streams = ("each", "watch")
    calls = Calls(
        {f"/t.S/{name}": getattr(service, name) for name in unary},
        {f"/t.S/{name}": getattr(service, name) for name in streams},
    )
    server = GrpcServer(calls)
    port = await server.start("127.0.0.1:0")
    yield server, port
    await server.stop()


@pytest.fixture
async def channel(server: tuple[GrpcServer, int]) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server[1]}", options=options) as channel:
        yield channel


def call(channel: grpc.aio.Channel, method: str, request: bytes = b"", **options: Any) -> Any:
    options.setdefault("timeout", 20)
    return channel.unary_unary(f"/t.S/{method}")(request, **options)


def send(channel: grpc.aio.Channel, method: str, requests: Iterable[bytes]) -> Any:
    return channel.stream_unary(f"/t.S/{method}")(iter(requests), timeout=20)


def request_to(
    name: str, *headers: tuple[bytes, bytes], method: str = "POST", content_type: bytes = b"application/grpc"
) -> dict[str, Any]:
    """A call as the HTTP/2 server tells of it."""
    return {
        "type": "http",
        "method": method,
        "path": f"/t.S/{name}",
        "headers": [(b"content-type", content_type), *headers],
        "extensions": {"http.response.trailers": {}},
    }


@pytest.mark.parametrize("size", [0, 1, 20_000, LARGEST])
async def test_requests_of_every_size_are_answered(channel: grpc.aio.Channel, size: int) -> None:
    request = os.urandom(size)
    assert await call(channel, "echo", request) == request


async def test_answer_may_be_larger_than_what_the_client_takes_at_once(channel: grpc.aio.Channel) -> None:
    assert await call(channel, "repeat", b"30000000") == b"x" * 30_000_000


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_requests_may_be_compressed(channel: grpc.aio.Channel, compression: grpc.Compression) -> None:
    request = b"again and again, " * 10_000
    assert await call(channel, "echo", request, compression=compression) == request


async def test_request_over_the_limit_is_refused_and_the_connection_lives(channel: grpc.aio.Channel) -> None:
    assert await refusal(call(channel, "echo", bytes(LARGEST + 1))) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "grpc: received message larger than max (4194305 vs. 4194304)",
    )
    packed = call(channel, "echo", bytes(LARGEST + 1), compression=grpc.Compression.Gzip)
    code, message = await refusal(packed)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message.startswith("grpc: received message after decompression larger than max")
    assert await call(channel, "echo", b"next") == b"next"


@pytest.mark.parametrize("requests", [[], [b"a", b"b"]])
async def test_unary_method_takes_one_request(channel: grpc.aio.Channel, requests: list[bytes]) -> None:
    assert (await refusal(send(channel, "echo", requests)))[0] == grpc.StatusCode.UNIMPLEMENTED
    assert await send(channel, "echo", [b"one"]) == b"one"


async def test_failure_has_code_message_and_details(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, "fail", "50 % of nothing: é\n".encode())
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert error.value.details() == " 50 % of nothing: é\n "
    assert dict(error.value.trailing_metadata() or ())["grpc-status-details-bin"] == b"\0details\xff"


async def test_crash_is_told_and_harms_no_other_call(channel: grpc.aio.Channel) -> None:
    code, message = await refusal(call(channel, "crash"))
    assert (code, "its log has the reason" in message) == (grpc.StatusCode.INTERNAL, True)
    assert await call(channel, "echo", b"next") == b"next"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/t.S/none", "unknown method none for service t.S"),
        ("/t.None/echo", "unknown service t.None"),
        ("/", 'malformed method name: "/"'),
    ],
)
async def test_unknown_methods_are_named(channel: grpc.aio.Channel, path: str, message: str) -> None:
    found = await refusal(channel.unary_unary(path)(b"", timeout=20))
    assert found == (grpc.StatusCode.UNIMPLEMENTED, message)


async def test_deadlines_reach_the_method(channel: grpc.aio.Channel) -> None:
    assert 0 < float(await call(channel, "remaining", timeout=20)) <= 21
    assert await call(channel, "remaining", timeout=None) == b"None"


async def test_headers_reach_the_method(channel: grpc.aio.Channel) -> None:
    found = await call(channel, "headers", metadata=(("client-name", "temporal-go"),))
    assert b"b'client-name': b'temporal-go'" in found


async def test_deadline_ends_the_method(channel: grpc.aio.Channel, service: Service) -> None:
    code, _ = await refusal(call(channel, "wait", timeout=0.2))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.wait_for(service.ended, 20) == "cancelled"


async def test_server_tells_of_a_deadline_that_has_passed(service: Service) -> None:
    """The client of this call has no clock of its own."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if service.arrived.is_set():
            await asyncio.get_running_loop().create_future()
        service.arrived.set()
        return {"type": "http.request", "body": b"\0\0\0\0\0", "more_body": False}

    async def keep(event: Any) -> None:
        sent.append(event)

    scope = request_to("wait", (b"grpc-timeout", b"1m"))
    await Calls({"/t.S/wait": service.wait}, {})(scope, receive, keep)
    assert dict(sent[0]["headers"])[b"grpc-status"] == b"4"


async def test_client_that_cancels_ends_the_method(channel: grpc.aio.Channel, service: Service) -> None:
    waiting = call(channel, "wait")
    await asyncio.wait_for(service.arrived.wait(), 20)
    waiting.cancel()
    assert await asyncio.wait_for(service.ended, 20) == "cancelled"


async def test_connection_that_closes_ends_the_method(
    server: tuple[GrpcServer, int], service: Service
) -> None:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server[1]}")
    waiting = call(channel, "wait")
    await asyncio.wait_for(service.arrived.wait(), 20)
    await channel.close()
    assert await asyncio.wait_for(service.ended, 20) == "cancelled"
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_many_calls_wait_on_one_connection(channel: grpc.aio.Channel) -> None:
    number = str(STREAMS).encode()
    assert set(await asyncio.gather(*(call(channel, "together", number) for _ in range(STREAMS)))) == {b""}


async def test_client_that_cancels_very_many_calls_goes_on(
    server: tuple[GrpcServer, int], service: Service
) -> None:
    """h2corn takes more than some 200 in 10 s for an attack and ends the connection; clients make another."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server[1]}", options=options) as channel:
        waiting = [call(channel, "together", b"0") for _ in range(STREAMS)]
        while service.waiting < STREAMS:  # noqa: ASYNC110 (calls of the server reach it)
            await asyncio.sleep(0.01)
        for one in waiting:
            one.cancel()
        assert await call(channel, "echo", b"next", wait_for_ready=True) == b"next"
    server_side = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(server_side) < STREAMS


async def test_clients_try_again_what_has_not_begun(server: tuple[GrpcServer, int], service: Service) -> None:
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["NOT_FOUND"],
    }
    config = json.dumps({"methodConfig": [{"name": [{"service": "t.S"}], "retryPolicy": retry}]})
    options = [("grpc.service_config", config)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server[1]}", options=options) as channel:
        await refusal(call(channel, "fail", b""))
    assert service.failures == 4


async def test_headers_are_bounded(channel: grpc.aio.Channel) -> None:
    many = tuple((f"header-{number}", "value") for number in range(300))
    assert b"header-299" in await call(channel, "headers", metadata=many)
    code, _ = await refusal(call(channel, "headers", metadata=(("large", "x" * 70_000),)))
    assert code != grpc.StatusCode.OK
    assert await call(channel, "echo", b"next") == b"next"


async def test_deadline_ends_a_stream(channel: grpc.aio.Channel, service: Service) -> None:
    watch = channel.unary_stream("/t.S/watch")(b"first", timeout=0.5)
    await watch.read()
    assert await watch.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.wait_for(service.ended, 20) == "cancelled"


async def test_stop_ends_calls_that_go_on(
    server: tuple[GrpcServer, int], channel: grpc.aio.Channel, service: Service
) -> None:
    waiting = call(channel, "wait")
    await asyncio.wait_for(service.arrived.wait(), 20)
    await server[0].stop()
    assert (await refusal(waiting))[0] == grpc.StatusCode.UNAVAILABLE
    assert await service.ended == "cancelled"
    await server[0].stop()


async def test_server_that_cannot_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    server = GrpcServer(Calls({}, {}))

    async def fail(self: object) -> None:
        raise ValueError("as asked")

    before = asyncio.all_tasks()
    with monkeypatch.context() as patched:
        patched.setattr("h2corn.Server.serve", fail)
        with pytest.raises(ValueError, match="as asked"):
            await asyncio.wait_for(server.start("127.0.0.1:0"), 20)
    await server.stop()
    assert asyncio.all_tasks() == before
    port = await server.start("127.0.0.1:0")
    with pytest.raises(OSError, match="cannot listen at"):
        await GrpcServer(Calls({}, {})).start(f"127.0.0.1:{port}")
    await server.stop()


async def test_server_that_is_cancelled_while_it_starts_leaves_nothing_behind() -> None:
    server = GrpcServer(Calls({}, {}))
    before = asyncio.all_tasks()
    starting = asyncio.create_task(server.start("127.0.0.1:0"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await server.stop()
    assert asyncio.all_tasks() == before


async def test_end_that_nobody_asked_for_is_told() -> None:
    told: list[BaseException] = []
    server = GrpcServer(Calls({}, {}), on_failure=told.append)
    await server.start("127.0.0.1:0")
    assert server._server is not None and server._serving is not None
    server._server.shutdown()
    await server._serving
    await asyncio.sleep(0)
    assert [str(reason) for reason in told] == ["the HTTP/2 server ended: stopped"]
    await server.stop()
    again = GrpcServer(Calls({}, {}), on_failure=told.append)
    await again.start("127.0.0.1:0")
    await again.stop()
    assert len(told) == 1


async def test_streams_go_both_ways(channel: grpc.aio.Channel) -> None:
    stream = channel.stream_stream("/t.S/each")(timeout=20)
    for message in (b"", b"one", b"z" * 100_000):
        await stream.write(message)
        assert await stream.read() == message
    await stream.done_writing()
    assert await stream.read() == grpc.aio.EOF
    assert await stream.code() == grpc.StatusCode.OK


async def test_stream_may_fail_after_its_answers(channel: grpc.aio.Channel) -> None:
    stream = channel.stream_stream("/t.S/each")(timeout=20)
    await stream.write(b"one")
    assert await stream.read() == b"one"
    await stream.write(b"end")
    assert await stream.code() == grpc.StatusCode.ABORTED
    assert await stream.details() == "as asked"


async def test_stop_ends_streams_with_unavailable(
    server: tuple[GrpcServer, int], channel: grpc.aio.Channel, service: Service
) -> None:
    watch = channel.unary_stream("/t.S/watch")(b"first", timeout=20)
    assert await watch.read() == b"first"
    await asyncio.wait_for(service.arrived.wait(), 20)
    await server[0].stop()
    assert await watch.code() == grpc.StatusCode.UNAVAILABLE
    assert await service.ended == "cancelled"
    assert (await refusal(call(channel, "echo", b"")))[0] == grpc.StatusCode.UNAVAILABLE


async def test_stream_ends_with_its_client(channel: grpc.aio.Channel, service: Service) -> None:
    watch = channel.unary_stream("/t.S/watch")(b"first", timeout=20)
    await watch.read()
    await asyncio.wait_for(service.arrived.wait(), 20)
    watch.cancel()
    assert await asyncio.wait_for(service.ended, 20) == "cancelled"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(10_000),
    ],
    ids=["http1", "no-frames", "tls", "zeros"],
)
async def test_what_is_no_grpc_is_cut_off(
    server: tuple[GrpcServer, int], channel: grpc.aio.Channel, sent: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server[1])
    writer.write(sent)
    with contextlib.suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert await call(channel, "echo", b"next") == b"next"


@pytest.mark.parametrize(
    ("method", "content_type", "takes_trailers"),
    [
        ("GET", b"application/grpc", True),
        ("POST", b"application/json", True),
        ("POST", b"application/grpc-web+proto", True),
        ("POST", b"", True),
        ("POST", b"application/grpc", False),
    ],
)
async def test_other_requests_are_told_what_the_port_speaks(
    method: str, content_type: bytes, takes_trailers: bool
) -> None:
    sent: list[Any] = []

    async def keep(event: Any) -> None:
        sent.append(event)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is read")

    scope = request_to("echo", method=method, content_type=content_type)
    if not takes_trailers:
        scope["extensions"] = {}
    await Calls({}, {})(scope, receive, keep)
    assert sent[0]["status"] == 415
    assert b"gRPC" in sent[1]["body"]


@pytest.mark.parametrize("body", [b"\0\0\0", b"\0\0\0\0\5four", b"\1\0\0\0\1x", b"\7\0\0\0\1x"])
async def test_broken_messages_are_refused(service: Service, body: bytes) -> None:
    sent: list[Any] = []

    async def keep(event: Any) -> None:
        sent.append(event)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    await Calls({"/t.S/echo": service.echo}, {})(request_to("echo"), receive, keep)
    assert dict(sent[0]["headers"])[b"grpc-status"] == b"13"


async def test_messages_come_in_any_pieces(service: Service) -> None:
    whole = b"".join(len(part).to_bytes(5, "big") + part for part in (b"first", b"", b"second"))
    for size in (1, 3, 7, len(whole)):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]

        async def receive(pieces: list[bytes] = pieces) -> dict[str, Any]:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        messages = Messages(receive, b"identity")
        assert [await messages.read() for _ in range(4)] == [b"first", b"", b"second", None]


@pytest.mark.parametrize(
    ("address", "families"),
    [
        ("127.0.0.1:0", {socket.AF_INET}),
        ("0.0.0.0:0", {socket.AF_INET}),
        ("[::1]:0", {socket.AF_INET6}),
        ("[::]:0", {socket.AF_INET6}),
    ],
)
def test_addresses_are_listened_at(address: str, families: set[int]) -> None:
    sockets = listen(address, shares_port=False)
    try:
        assert {found.family for found in sockets} == families
        assert len({found.getsockname()[1] for found in sockets}) == 1
        port = sockets[0].getsockname()[1]
        with pytest.raises(OSError):
            listen(f"{address.rpartition(':')[0]}:{port}", shares_port=False)
    finally:
        for found in sockets:
            found.close()


def test_name_without_an_address_is_an_error() -> None:
    with pytest.raises(OSError):
        listen("no-such-host.invalid:0", shares_port=False)
