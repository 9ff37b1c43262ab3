"""The connection to Cassandra: made when it is first needed, and tried again until it stands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

import msgspec
from cassandra import (
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    ProtocolVersion,
    UnresolvableContactPoints,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, ResponseFuture
from cassandra.concurrent import execute_concurrent
from cassandra.connection import ConnectionException
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.query import PreparedStatement, Statement, tuple_factory

from streams.stores.damage import StoreError
from streams.stores.settings import CassandraSettings

Row = tuple[Any, ...]

RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MOST_S: Final = 5.0
"""First and longest wait between tries to reach a node that is down."""

FAILURE_HOLDS_S: Final = 1.0
"""How long a failure to connect answers whoever asks, before the next one tries again."""

RETRIES: Final = 2

# The driver logs each try to reach each node that is down; what matters reaches callers as StoreError.
logging.getLogger("cassandra").setLevel(logging.CRITICAL)

FAILURES = (DriverException, NoHostAvailable, ConnectionException, UnresolvableContactPoints, OSError)


class _Retry(RetryPolicy):  # type: ignore[misc]
    """Any statement may be repeated: it writes the same cells with the same timestamp."""

    def on_read_timeout(self, query: object, *, retry_num: int, **info: object) -> tuple[int, None]:
        """A replica was slow: the coordinator may ask another one."""
        return self._again(self.RETRY, retry_num)

    def on_write_timeout(self, query: object, *, retry_num: int, **info: object) -> tuple[int, None]:
        """A replica was slow to acknowledge."""
        return self._again(self.RETRY, retry_num)

    def on_unavailable(self, query: object, *, retry_num: int, **info: object) -> tuple[int, None]:
        """The coordinator sees too few replicas; another one may see more."""
        return self._again(self.RETRY_NEXT_HOST, retry_num)

    def on_request_error(
        self, query: object, consistency: object, *, retry_num: int, **info: object
    ) -> tuple[int, None]:
        """The coordinator is overloaded, starting or gone."""
        return self._again(self.RETRY_NEXT_HOST, retry_num)

    def _again(self, how: int, retry_num: int) -> tuple[int, None]:
        return (how if retry_num < RETRIES else self.RETHROW), None


class Connected(msgspec.Struct, frozen=True):
    """A session in the keyspace, with its statements prepared."""

    session: Any
    statements: Mapping[str, PreparedStatement]


class CassandraConnection:
    """A session shared by all threads of a process, and the statements it prepares, by name.

    A cluster that cannot be reached when the process starts is no reason to fail: each use tries, and raises
    StoreError as long as that is in vain. Make it after the process has forked, not before.
    """

    def __init__(self, settings: CassandraSettings, statements: Mapping[str, str]) -> None:
        self._settings = settings
        self._texts = statements
        self._lock = threading.Lock()
        self._cluster: Any = None
        self._connected: Connected | None = None
        self._failure: StoreError | None = None
        self._failed_s = 0.0

    def connect(self) -> Connected:
        """The session, in the calling thread. Raises StoreError."""
        return self._connected or self._connect()

    def _connect(self) -> Connected:
        with self._lock:
            if self._connected is not None:
                return self._connected  # by another thread
            if self._failure is not None and time.monotonic() < self._failed_s + FAILURE_HOLDS_S:
                raise self._failure
            try:
                self._connected = self._open()
            except FAILURES as error:
                self._failure, self._failed_s = of_cassandra(error, self._settings), time.monotonic()
                raise self._failure from error
            return self._connected

    def _open(self) -> Connected:
        cluster = open_cluster(self._settings)
        try:
            session = cluster.connect()
            session.set_keyspace(self._settings.keyspace)
            prepared = {}
            for name, text in self._texts.items():
                statement = session.prepare(text)
                statement.is_idempotent = True
                prepared[name] = statement
        except BaseException:
            cluster.shutdown()
            raise
        self._cluster = cluster
        return Connected(session, prepared)

    def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Execute statements at the same time and give the rows of each. Blocks. Raises StoreError."""
        session = self.connect().session
        pairs = [(statement, None) for statement in statements]
        try:
            results = execute_concurrent(session, pairs, concurrency=self._settings.concurrent_writes)
            return [list(result.result_or_exc) for result in results]
        except FAILURES as error:
            raise of_cassandra(error, self._settings) from error

    async def connected(self) -> Connected:
        """The session; the event loop goes on while it is made. Raises StoreError."""
        if self._connected is not None:
            return self._connected
        return await asyncio.to_thread(self.connect)

    async def pages(self, statement: Statement) -> AsyncGenerator[list[Row], None]:
        """Execute a statement and give its rows, a page at a time as they are asked for. Raises StoreError."""
        session = (await self.connected()).session
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[list[Row]] = loop.create_future()

        def arrived(rows: list[Row] | None) -> None:
            _call(loop, _set_result, waiting, rows or [])

        def failed(error: Exception) -> None:
            _call(loop, _set_exception, waiting, error)

        try:
            response: ResponseFuture = session.execute_async(statement)
            response.add_callbacks(arrived, failed)
            while True:
                yield await waiting
                if not response.has_more_pages:
                    return
                waiting = loop.create_future()
                response.start_fetching_next_page()
        except FAILURES as error:
            raise of_cassandra(error, self._settings) from error

    def close(self) -> None:
        """Close every connection; idempotent."""
        with self._lock:
            cluster, self._cluster, self._connected = self._cluster, None, None
        if cluster is not None:
            cluster.shutdown()


def open_cluster(settings: CassandraSettings) -> Any:
    """The driver's cluster object for the settings, not connected yet. Raises OSError for unreadable keys."""
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.local_dc)),
        retry_policy=_Retry(),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        request_timeout=settings.request_timeout_ms / 1000,
        row_factory=tuple_factory,
    )
    login = None
    if settings.username:
        login = PlainTextAuthProvider(settings.username, settings.password.get_secret_value())
    return Cluster(
        settings.contact_points,
        port=settings.port,
        auth_provider=login,
        ssl_context=_tls(settings),
        # Known to every Cassandra since 3.0; version 5 adds checksums, which cost the client more than they give.
        protocol_version=ProtocolVersion.V4,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=settings.connect_timeout_ms / 1000,
        control_connection_timeout=settings.connect_timeout_ms / 1000,
        reconnection_policy=ExponentialReconnectionPolicy(
            RECONNECT_FIRST_S, RECONNECT_MOST_S, max_attempts=None
        ),
    )


def _tls(settings: CassandraSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    context = ssl.create_default_context(cafile=settings.tls_ca)
    # Nodes are known by address, which certificates seldom name; the authority vouches for them.
    context.check_hostname = False
    if settings.tls_certificate is not None:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context


def of_cassandra(error: BaseException, settings: CassandraSettings) -> StoreError:
    """What a failure says of the store, in a sentence."""
    where = f"Cassandra at {', '.join(settings.contact_points)} port {settings.port}"
    if isinstance(error, NoHostAvailable) and error.errors:
        error = _first_of(error.errors) or error
    if isinstance(error, InvalidRequest):
        return StoreError(f"{where} refuses: {error}; has `odradek stores migrate` been run?")
    return StoreError(f"{where} does not answer: {error}")


def _first_of(errors: Any) -> BaseException | None:
    found = next(iter(errors.values() if isinstance(errors, Mapping) else errors), None)
    return found if isinstance(found, BaseException) else None


def _call(
    loop: asyncio.AbstractEventLoop, function: Any, waiting: asyncio.Future[list[Row]], value: Any
) -> None:
    """Call on the loop, from one of the driver's threads; a loop that has ended waits for nothing."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, waiting, value)


def _set_result(waiting: asyncio.Future[list[Row]], rows: list[Row]) -> None:
    if not waiting.done():
        waiting.set_result(rows)


def _set_exception(waiting: asyncio.Future[list[Row]], error: BaseException) -> None:
    if not waiting.done():
        waiting.set_exception(error)
