"""The port that clients call: HTTP/2 by h2corn, which hands calls to an ASGI application (decision 0019)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

import structlog
from h2corn import Config, LogFormat, Server

from gateway.grpc_calls import Calls

_BACKLOG: Final = 1024
_LAST_CALLS_S: Final = 1.0
_MAX_STREAMS: Final = 2**31 - 1
_KEEPALIVE: Final = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 60),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 5),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 3),
    ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, 75_000),
)
"""Finds out within 75 s about clients that vanished, so that their polls end, whether or not something was sent to
them. Connections have it from the listening socket."""

_HEADERS_MAX_BYTES: Final = 65_536
"""Of a call, once unpacked: a few bytes on the wire may stand for very many."""

_log = structlog.get_logger(__name__)


class GrpcServer:
    """Serves `calls` until it is stopped.

    `shares_port` lets other processes listen at the same address; `log_format` is for what h2corn writes to standard
    error: where it listens, and what it did not expect. `on_failure` is told when it ends without having been stopped.
    """

    def __init__(
        self,
        calls: Calls,
        *,
        shares_port: bool = False,
        log_format: LogFormat = "text",
        on_failure: Callable[[BaseException], None] = lambda reason: None,
    ) -> None:
        self._calls = calls
        self._on_failure = on_failure
        self._shares_port = shares_port
        self._log_format = log_format
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, address: str) -> int:
        """Take calls at `address` (host:port, port 0 for a free one). Returns the port.

        Raises OSError when the address cannot be used.
        """
        with contextlib.ExitStack() as stack:
            try:
                sockets = [
                    stack.enter_context(found) for found in listen(address, shares_port=self._shares_port)
                ]
            except OSError as error:
                raise OSError(f"cannot listen at {address}: {error.strerror or error}") from None
            self._server = Server(self._calls, self._config(sockets))
            self._serving = asyncio.create_task(self._server.serve())
            started = asyncio.create_task(self._server.wait_started())
            try:
                await asyncio.wait((self._serving, started), return_when=asyncio.FIRST_COMPLETED)
                await (started if started.done() else self._serving)
            except BaseException:
                started.cancel()
                await self.stop()
                raise
            self._serving.add_done_callback(self._ended)
            # h2corn has sockets of its own from here on.
            port: int = sockets[0].getsockname()[1]
            return port

    async def stop(self) -> None:
        """End what is under way, and close the port and all connections."""
        server, serving = self._server, self._serving
        if server is not None and serving is not None:
            self._server = self._serving = None
            self._calls.end_streams()
            server.shutdown()
            (failure,) = await asyncio.gather(serving, return_exceptions=True)
            if failure is not None:
                _log.warning("the HTTP/2 server did not stop in order", reason=str(failure))

    def _ended(self, serving: asyncio.Task[None]) -> None:
        if serving is self._serving:
            reason = "was cancelled" if serving.cancelled() else serving.exception() or "stopped"
            self._on_failure(RuntimeError(f"the HTTP/2 server ended: {reason}"))

    def _config(self, sockets: list[socket.socket]) -> Config:
        """h2corn's settings: for gRPC alone, and with no limits of its own where it can be without."""
        return Config(
            bind=tuple(f"fd://{listening.fileno()}" for listening in sockets),
            lifespan="off",
            http1=False,
            grpc=True,
            access_log=False,
            log_format=self._log_format,
            date_header=False,
            runtime_threads=1,
            max_concurrent_streams=_MAX_STREAMS,
            h2_max_header_list_size=_HEADERS_MAX_BYTES,
            limit_request_fields=0,
            timeout_keep_alive=0.0,
            timeout_graceful_shutdown=_LAST_CALLS_S,
        )


def listen(address: str, *, shares_port: bool) -> list[socket.socket]:
    """Sockets that listen at each of the addresses that `address` names. Raises OSError."""
    host, _, port_text = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    port = int(port_text)
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, place in dict.fromkeys(found):
            own = (place[0], port, *place[2:])
            dual = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
            listening = socket.create_server(
                own, family=family, backlog=_BACKLOG, reuse_port=shares_port, dualstack_ipv6=dual
            )
            stack.callback(listening.close)
            for name, level, value in _KEEPALIVE:
                if hasattr(socket, name):
                    listening.setsockopt(level, getattr(socket, name), value)
            port = listening.getsockname()[1]
            sockets.append(listening)
        stack.pop_all()
    return sockets
