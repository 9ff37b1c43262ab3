"""Replies between processes of one machine: through a socket of the gateway's instead of its partition of `replies`.

A socket file stands for each gateway, in a directory of the user's. Whoever cannot reach it, being on another machine,
in another container or of another user, sends by the topic, as does who finds the socket full (decision 0018).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streams import avro
from streams.bodies import ReplyRecord
from streams.kafka.settings import KafkaSettings

LOG = logging.getLogger(__name__)

MESSAGE_MAX_BYTES: Final = 400_000
"""A larger reply goes by the topic."""
BUFFER_BYTES: Final = 1_000_000
RETRY_S: Final = 1.0
"""How long a gateway that has no socket here is taken to have none."""
AT_ONCE: Final = 64
"""How many replies are read before the loop has its turn."""

# Keeps messages apart, and tells the sender when the reader is gone. Not every system has it for these sockets.
_KIND: Final = getattr(socket, "SOCK_SEQPACKET", None) if hasattr(socket, "AF_UNIX") else None


def directory_of(settings: KafkaSettings) -> Path | None:
    """Where sockets of this cluster's gateways are, made if need be; None where there can be none.

    Members find each other's by the same brokers and prefix, and the same user.
    """
    if _KIND is None:
        return None
    home = Path(tempfile.gettempdir()) / f"odradek-{os.getuid()}"
    name = hashlib.sha256(f"{settings.brokers}\n{settings.prefix}".encode()).hexdigest()[:16]
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        found = home.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            LOG.warning("%s is open to others: replies go through Kafka alone", home)
            return None
        (home / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        LOG.warning("no sockets can be made in %s (%s): replies go through Kafka alone", home, error)
        return None
    return home / name


def _path(directory: Path, address: str) -> str:
    """The socket of a gateway; paths of sockets have to be short."""
    return str(directory / hashlib.sha256(address.encode()).hexdigest()[:24])


def _open() -> socket.socket:
    assert _KIND is not None
    opened = socket.socket(socket.AF_UNIX, _KIND)
    opened.setblocking(False)
    return opened


class ReplySockets:
    """Sends replies to gateways of this machine. Thread-safe."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._connections: dict[str, socket.socket] = {}
        self._absent_until_s: dict[str, float] = {}

    def deliver(self, reply: ReplyRecord) -> bool:
        """Send a reply; False when it has to go by the topic."""
        if self._directory is None:
            return False
        with self._lock:
            connection = self._connections.get(reply.gateway) or self._connect(self._directory, reply.gateway)
            if connection is None:
                return False
            data = avro.encode(reply)
            if len(data) > MESSAGE_MAX_BYTES:
                return False
            try:
                connection.send(data)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EMSGSIZE, errno.ENOBUFS):
                    self._connections.pop(reply.gateway).close()
                return False
            return True

    def _connect(self, directory: Path, address: str) -> socket.socket | None:
        now_s = time.monotonic()
        if now_s < self._absent_until_s.get(address, now_s):
            return None
        connection = _open()
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_MAX_BYTES)
            connection.connect(_path(directory, address))
        except OSError:
            connection.close()
            self._absent_until_s[address] = now_s + RETRY_S
            return None
        self._absent_until_s.pop(address, None)
        self._connections[address] = connection
        return connection

    def close(self) -> None:
        """Send nothing more."""
        with self._lock:
            self._directory = None
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()


class ReplySocket:
    """The socket at which one gateway takes replies. Belongs to the running loop's thread.

    `damaged` counts what could not be decoded.
    """

    def __init__(self, directory: Path, address: str, take: Callable[[ReplyRecord], None]) -> None:
        """Listen; one that an earlier process of the same gateway has left is replaced. Raises OSError."""
        self._path = _path(directory, address)
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._connections: set[socket.socket] = set()
        self.damaged = 0
        directory.mkdir(mode=0o700, exist_ok=True)  # The last gateway that left has taken it away.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._listening = _open()
        try:
            self._listening.bind(self._path)
            self._listening.listen()
        except OSError:
            self._listening.close()
            raise
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Take no more."""
        self._loop.remove_reader(self._listening)
        self._listening.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)
            os.rmdir(os.path.dirname(self._path))
        for connection in list(self._connections):
            self._end(connection)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection, _ = self._listening.accept()
            connection.setblocking(False)
            self._connections.add(connection)
            self._loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                size = connection.recv_into(self._buffer)
            except BlockingIOError:
                return
            except ConnectionError:
                size = 0
            if not size:
                self._end(connection)
                return
            try:
                reply = avro.decode(ReplyRecord, bytes(self._buffer[:size]))
            except avro.DecodeError:
                self.damaged += 1
            else:
                self._take(reply)

    def _end(self, connection: socket.socket) -> None:
        self._connections.discard(connection)
        self._loop.remove_reader(connection)
        connection.close()
