"""Calls of gRPC, as an ASGI server hands them over: from a request's bytes to the status that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import structlog

from gateway import errors, grpc_wire
from gateway.errors import ApiError
from gateway.grpc_wire import PREFIX_BYTES
from streams.limits import GRPC_MESSAGE_MAX_BYTES

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

Write = Callable[[bytes], Awaitable[None]]
Unary = Callable[[bytes, "Call"], Awaitable[bytes]]
"""Answers a request with a response, both encoded. Raises ApiError."""
Stream = Callable[["Messages", Write], Awaitable[None]]
"""Answers what it reads with what it writes. Raises ApiError."""

_HEADERS: Final = [
    (b"content-type", grpc_wire.CONTENT_TYPE),
    (b"grpc-accept-encoding", grpc_wire.ACCEPTED_ENCODINGS),
]
_START: Final[Event] = {
    "type": "http.response.start",
    "status": 200,
    "headers": _HEADERS,
    "trailers": True,
}
_OK: Final[Event] = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_PATH_SHOWN: Final = 300
_LATE: Final = ApiError(errors.DEADLINE_EXCEEDED, "The call's deadline has passed.")

_log = structlog.get_logger(__name__)


class ClientLeftError(Exception):
    """The client has ended the call, or its connection."""


class Call:
    """What a call says of itself in its headers. Raises ApiError for a deadline or encoding that is not valid.

    `headers` has them by name; of those that come more than once, the last.
    """

    __slots__ = ("_deadline_s", "encoding", "headers", "timeout_s")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        self.headers = headers
        self.encoding = headers.get(b"grpc-encoding", b"identity")
        self.timeout_s: float | None = None
        if self.encoding != b"identity":
            grpc_wire.check_encoding(self.encoding)
        if timeout := headers.get(b"grpc-timeout"):
            self.timeout_s = grpc_wire.timeout_s(timeout)
            self._deadline_s = time.monotonic() + self.timeout_s

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline, None without one."""
        if self.timeout_s is None:
            return None
        return max(0.0, self._deadline_s - time.monotonic())


class Messages:
    """The messages of a call, in order, at most GRPC_MESSAGE_MAX_BYTES each."""

    __slots__ = ("_data", "_encoding", "_ended", "_receive")

    def __init__(self, receive: Receive, encoding: bytes) -> None:
        self._receive = receive
        self._encoding = encoding
        self._data: bytes | bytearray = b""
        self._ended = False

    async def read(self) -> bytes | None:
        """The next message, None after the last. Raises ApiError, and ClientLeftError."""
        while len(self._data) < PREFIX_BYTES:
            if not await self._more():
                if self._data:
                    raise ApiError(errors.INTERNAL, "The last message is incomplete.")
                return None
        end = PREFIX_BYTES + grpc_wire.length_of(self._data, GRPC_MESSAGE_MAX_BYTES)
        while len(self._data) < end:
            if not await self._more():
                raise ApiError(errors.INTERNAL, "The last message is incomplete.")
        data, self._data = self._data, self._data[end:]
        payload = bytes(data[PREFIX_BYTES:end])
        return grpc_wire.unpack(data[0], payload, self._encoding, GRPC_MESSAGE_MAX_BYTES)

    async def only(self) -> bytes:
        """The one message of a call that has no more. Raises as :meth:`read`."""
        message = await self.read()
        if message is None or await self.read() is not None:
            raise ApiError(
                errors.UNIMPLEMENTED, "cardinality violation: this method takes exactly one request"
            )
        return message

    async def _more(self) -> bool:
        """Whether there was more to receive."""
        if self._ended:
            return False
        event = await self._receive()
        if event["type"] != "http.request":
            raise ClientLeftError
        self._ended = not event.get("more_body", False)
        body = event.get("body", b"")
        if not self._data:
            self._data = body
        elif body:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += body
        return True


class _Watch:
    """Ends a call's task before it is done, and knows why."""

    __slots__ = ("_loop", "_task", "_timer", "ended", "failure")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self._loop = loop
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self.ended = False
        self.failure: ApiError | None = None

    def deadline(self, timeout_s: float) -> None:
        """End the task after so many seconds."""
        self._timer = self._loop.call_later(timeout_s, self.end, _LATE)

    def end(self, failure: ApiError) -> None:
        """End the task; the client is told of the failure."""
        if not self.ended:
            self.ended, self.failure = True, failure
            self._task.cancel()

    def close(self) -> None:
        """Leave the task alone."""
        if self._timer is not None:
            self._timer.cancel()
        if self.ended:
            self._task.uncancel()
        self.ended = True


class Calls:
    """An ASGI application that answers calls, by the paths of their methods.

    `unary` methods take one message and answer with one; `streams` read and write as they like. h2corn cancels a call
    whose client leaves. To be made on the loop that serves it.
    """

    def __init__(self, unary: Mapping[str, Unary], streams: Mapping[str, Stream]) -> None:
        self._unary = unary
        self._streams = streams
        self._streaming: set[_Watch] = set()
        self._loop = asyncio.get_running_loop()  # which Python 3.11 takes a system call to find

    def end_streams(self) -> None:
        """End all streams that are open, with UNAVAILABLE."""
        for watch in self._streaming:
            watch.end(errors.shutting_down())

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        with contextlib.suppress(OSError):  # from `send`, once the client has gone
            headers = dict(scope["headers"])
            if _is_grpc(scope, headers):
                await self._serve(scope["path"], headers, receive, send)
            else:
                await send({"type": "http.response.start", "status": 415, "headers": []})
                await send({"type": "http.response.body", "body": b"This port speaks gRPC.\n"})

    async def _serve(self, path: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        """Answer a call, unless its client leaves."""
        response = _Response(send)
        watch = _Watch(self._loop)
        answer: bytes | None = None
        failure: ApiError | None = None
        try:
            call = Call(headers)
            if call.timeout_s is not None:
                watch.deadline(call.timeout_s)
            unary = self._unary.get(path)
            if unary is not None:
                answer = await unary(await Messages(receive, call.encoding).only(), call)
            else:
                await self._stream(path, call, watch, receive, response)
        except ApiError as error:
            failure = error
        except ClientLeftError:
            return
        except asyncio.CancelledError:
            if watch.failure is None:  # by h2corn, as the client has left
                raise
            failure = watch.failure
        except Exception:
            _log.exception("a call failed", method=path[:_PATH_SHOWN])
            failure = errors.failed()
        finally:
            watch.close()
        if answer is not None:
            await response.answer(answer)
        else:
            await response.end(failure)

    async def _stream(
        self, path: str, call: Call, watch: _Watch, receive: Receive, response: _Response
    ) -> None:
        stream = self._streams.get(path)
        if stream is None:
            raise self._unknown(path)
        self._streaming.add(watch)
        try:
            await stream(Messages(receive, call.encoding), response.write)
        finally:
            self._streaming.discard(watch)

    def _unknown(self, path: str) -> ApiError:
        service, _, method = path[1:_PATH_SHOWN].rpartition("/")
        if not service:
            return errors.unimplemented(f'malformed method name: "{path[:_PATH_SHOWN]}"')
        known = any(other.startswith(f"/{service}/") for other in (*self._unary, *self._streams))
        if known:
            return errors.unimplemented(f"unknown method {method} for service {service}")
        return errors.unimplemented(f"unknown service {service}")


class _Response:
    """What is sent to the client of a call."""

    __slots__ = ("_send", "_started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def answer(self, message: bytes) -> None:
        """Send the only message, and the end."""
        await self._send(_START)
        await self._send({"type": "http.response.body", "body": grpc_wire.frame(message), "more_body": False})
        await self._send(_OK)

    async def write(self, message: bytes) -> None:
        """Send one of the messages."""
        await self._start()
        await self._send({"type": "http.response.body", "body": grpc_wire.frame(message), "more_body": True})

    async def end(self, failure: ApiError | None) -> None:
        """Send the status, of a failure if there is one."""
        trailers = _OK["headers"]
        if failure is not None:
            trailers = grpc_wire.trailers(failure.code, failure.message, failure.status)
        if self._started:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            await self._send({"type": "http.response.trailers", "headers": trailers})
        else:  # nothing but trailers: clients try again by themselves only what has not begun
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *trailers]}
            )
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send(_START)


def _is_grpc(scope: Event, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is of gRPC, and its client takes trailers, which end every call."""
    return (
        scope["method"] == "POST"
        and grpc_wire.is_content_type(headers.get(b"content-type", b""))
        and "http.response.trailers" in scope["extensions"]
    )
