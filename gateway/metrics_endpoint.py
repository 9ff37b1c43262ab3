"""``GET /metrics``, and probes such as ``/ready``, over HTTP/1.1, on the event loop."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from gateway.metrics import CONTENT_TYPE, Registry

REQUEST_TIMEOUT_S: Final = 10.0
MAX_HEADER_BYTES: Final = 8192


Probe = Callable[[], str]
"""Says why the answer is no; empty for yes."""


class MetricsEndpoint:
    """A small HTTP server: one request a connection, which is how it is scraped.

    ``probes``, by path, are answered with 200 or, with the reason, 503.
    """

    def __init__(self, registry: Registry, probes: Mapping[str, Probe] | None = None) -> None:
        self._registry = registry
        self._probes = probes or {}
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, ip: str, port: int) -> None:
        """Listens on ``ip`` and ``port``, 0 for a free one; the port in use is then in ``port``.

        Raises ``OSError`` if the port is taken.
        """
        self._server = await asyncio.start_server(
            self._serve, ip, port, limit=MAX_HEADER_BYTES, reuse_port=False
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening."""
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._respond(head))
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that does not speak HTTP is left alone
        finally:
            writer.close()

    def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        paths = ("/metrics", *self._probes)
        if path.decode(errors="replace") not in paths:
            return _response("404 Not Found", f"only {', '.join(paths)} is served here\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "only GET is served here\n")
        response = self._answer(path.decode())
        return response if method == b"GET" else response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def _answer(self, path: str) -> bytes:
        if path == "/metrics":
            return _response("200 OK", self._registry.render(), CONTENT_TYPE)
        reason = self._probes[path]()
        return _response("503 Service Unavailable", f"{reason}\n") if reason else _response("200 OK", "yes\n")


def _response(status: str, text: str, content_type: str = "text/plain; charset=utf-8") -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
