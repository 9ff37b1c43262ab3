"""One process of a cluster's member: its roles, put together, from start to drain."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib import metadata
from typing import Any, Final

import structlog
from temporalio.api.common.v1 import SearchAttributes

from gateway.metrics import Registry
from gateway.server import Gateway
from gateway.service_metrics import ServiceMetrics
from server import cluster_metrics
from server.closes import count_close
from server.errors import StartupError
from server.logs import log_format
from server.ports import address
from server.preparation import prepare
from server.settings import Settings
from server.stores import Stores, open_stores
from streams import topology
from streams.bodies import RunVisible
from streams.kafka.admin import Cluster, ClusterError
from streams.kafka.engine import KafkaEngine
from streams.kafka.materialised import MaterialisedOffsets
from streams.kafka.materializer import Materializer
from streams.kafka.member import Member
from streams.kafka.names import PROCESSORS
from streams.kafka.presence import Presence
from streams.kafka.registry import RegistryFollower
from streams.kafka.replies import LocalGateways
from streams.kafka.reply_sockets import ReplySockets, directory_of
from streams.kafka.tail import TailError
from streams.kafka.topic_events import TopicEvents
from streams.limits import Limits
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.failures import EngineFailedError
from streams.runtime.logic import UnsupportedLogicError
from streams.stores.damage import StoreError
from streams.stores.search_attributes import PREDEFINED_ATTRIBUTES

CATCH_UP_S: Final = 10.0
"""How long a materializer waits for what the registry has on attributes it does not know."""

_log = structlog.get_logger(__name__)


class MemberProcess:
    """Get it from :func:`start_member`. Implements :class:`server.process.Server` but for the file."""

    def __init__(self, settings: Settings, index: int, limits: Limits, registry: Registry) -> None:
        self._settings = settings
        self._kafka = settings.kafka.model_copy(update={"member_name": _member_name(settings, index)})
        self._index = index
        self._limits = limits
        self._metrics = registry
        self._service_metrics = ServiceMetrics(registry, metadata.version("odradek-server"))
        self._loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[BaseException] = self._loop.create_future()
        self._codec = Codec(BODY_TYPES)
        self._sockets = directory_of(self._kafka) if settings.serve.local_replies else None
        sockets = ReplySockets(self._sockets)
        self._local = LocalGateways(sockets)
        self._stack = AsyncExitStack()
        self._stack.callback(sockets.close)
        self._members: list[Member] = []
        self._materializers: list[Materializer] = []
        self._namespaces: RegistryFollower | None = None
        self._engine: KafkaEngine | None = None
        self._gateway: Gateway | None = None
        self._draining = False
        self.port = 0
        """The gateway's, 0 without one."""

    # For whoever runs it

    async def failed(self) -> BaseException:
        """Waits until the process cannot go on, and returns the reason."""
        return await asyncio.shield(self._failure)

    async def drain(self) -> None:
        """Takes no more calls and ends the waiting polls with empty answers."""
        self._draining = True
        if self._gateway is not None:
            await self._gateway.drain()
            await self._gateway.stop()

    async def stop(self) -> None:
        """Leaves everything, with a last checkpoint of each partition."""
        await self._stack.aclose()

    def why_not_ready(self) -> str:
        """Why no work should come here yet, empty when it may."""
        if self._draining:
            return "draining"
        for member in self._members:
            reason = cluster_metrics.why_not_ready(member.status)
            if reason:
                return reason
        for materializer in self._materializers:
            reason = cluster_metrics.why_materializer_not_ready(materializer)
            if reason:
                return reason
        if self._namespaces is not None and not self._namespaces.is_whole:
            return "the registry was not yet read whole"
        if "gateway" in self._settings.serve.roles:
            if self._engine is None or not self._engine.is_ready:
                return "gateway: no replies can be read"
            if not self.port:
                return "gateway: the namespaces are not yet prepared"
        return ""

    @property
    def lacks_logic(self) -> bool:
        """Whether it cannot go on because another release's code has to: starting it again does not help."""
        return self._failure.done() and isinstance(self._failure.result(), UnsupportedLogicError)

    def why_stuck(self) -> str:
        """Why the process should be ended, empty when it is well."""
        if self._failure.done():
            return str(self._failure.result())
        now_ms = time.time_ns() // 1_000_000
        reasons = [cluster_metrics.why_stuck(member.status, now_ms) for member in self._members]
        reasons += map(cluster_metrics.why_materializer_stuck, self._materializers)
        return next((reason for reason in reasons if reason), "")

    # Putting it together

    async def start(self) -> None:
        """Start the roles. Raises StartupError."""
        roles: set[str] = set(self._settings.serve.roles)
        try:
            await asyncio.to_thread(Cluster(self._kafka).check)
            if roles & {"gateway", "materializer"}:
                self._namespaces = await self._start_registry()
            if roles & {"gateway", "materializer", "history"}:
                self._stores = await self._open_stores()
            if "materializer" in roles and self._materializes():
                await self._start_materializers(self._stores)
            self._start_members(roles)
            if "gateway" in roles:
                await self._start_gateway(self._stores)
        except (ClusterError, TailError, StoreError, EngineFailedError) as error:
            raise StartupError(str(error)) from error

    def _materializes(self) -> bool:
        """A file has one writer: the first process."""
        return self._settings.serve.sqlite_stores is None or self._index == 0

    async def _start_registry(self) -> RegistryFollower:
        namespaces = RegistryFollower(self._kafka, self._codec, self._fail_from_thread)
        self._stack.push_async_callback(asyncio.to_thread, namespaces.stop)
        await asyncio.to_thread(namespaces.start)
        return namespaces

    async def _open_stores(self) -> Stores:
        stores = await asyncio.to_thread(open_stores, self._settings, self._types_of)
        self._stack.push_async_callback(asyncio.to_thread, stores.close)
        return stores

    async def _start_materializers(self, stores: Stores) -> None:
        history = Materializer(
            self._kafka,
            topology.HISTORY,
            stores.history_sink(),
            self._codec,
            self._fail_from_thread,
            deletions=stores.visibility_sink(),
        )
        visibility = Materializer(
            self._kafka,
            topology.VISIBILITY,
            stores.visibility_sink(),
            self._codec,
            self._fail_from_thread,
            prepare=self._before_visible,
        )
        for materializer in (history, visibility):
            await asyncio.to_thread(materializer.start)
            self._materializers.append(materializer)
            self._stack.push_async_callback(asyncio.to_thread, materializer.stop)
        cluster_metrics.add_materializers(self._metrics, self._materializers)

    def _before_visible(self, bodies: Sequence[Any]) -> None:
        """What is to be done before rows are written. Closes are counted here; those written again count again."""
        self._know_attributes(bodies)
        closed = [body for body in bodies if isinstance(body, RunVisible) and body.close_time_ns]
        if closed:
            self._loop.call_soon_threadsafe(self._count_closes, closed)

    def _count_closes(self, runs: Sequence[RunVisible]) -> None:
        for run in runs:
            count_close(self._service_metrics, run)

    def _know_attributes(self, bodies: Sequence[Any]) -> None:
        """Have the registry up to date before values of attributes are written whose types it has yet to tell."""
        assert self._namespaces is not None
        for body in bodies:
            if isinstance(body, RunVisible) and body.search_attributes:
                types = self._namespaces.types_of(body.namespace)
                fields = SearchAttributes.FromString(body.search_attributes).indexed_fields
                if any(name not in types and name not in PREDEFINED_ATTRIBUTES for name in fields):
                    self._namespaces.catch_up(CATCH_UP_S)
                    return

    def _types_of(self, namespace: str) -> Mapping[str, int]:
        assert self._namespaces is not None
        return self._namespaces.types_of(namespace)

    def _start_members(self, roles: set[str]) -> None:
        for role in PROCESSORS:
            if role in roles:
                member = Member(
                    role,
                    self._kafka,
                    deliver_locally=self._local.deliver,
                    materialised=self._materialised() if role == "history" else None,
                    on_end=partial(self._ended, role),
                )
                member.start()
                self._members.append(member)
                self._stack.push_async_callback(asyncio.to_thread, member.stop)
        if self._members:
            cluster_metrics.add_partitions(self._metrics, [member.status for member in self._members])

    def _materialised(self) -> MaterialisedOffsets:
        """How far the history store has got, wherever it is written."""
        sink = self._stores.history_sink()
        return MaterialisedOffsets(lambda: sink.positions(topology.HISTORY))

    async def _start_gateway(self, stores: Stores) -> None:
        assert self._namespaces is not None
        settings = self._settings.serve
        partition = settings.reply_partition
        presence = Presence(self._kafka, "gateway")
        self._stack.push_async_callback(asyncio.to_thread, presence.stop)
        await asyncio.to_thread(presence.start)
        engine = KafkaEngine(
            self._kafka,
            gateway_id(settings.gateway_id, settings.port, self._index),
            self._codec,
            self._namespaces,
            stores.history,
            on_failure=self._fail,
            reply_partition=None if partition is None else partition + self._index,
            local=self._local,
            sockets=self._sockets,
            unstored=TopicEvents(
                self._settings.kafka, self._codec, partial(stores.history_sink().positions, topology.HISTORY)
            ),
        )
        self._stack.push_async_callback(engine.stop)
        await engine.start()
        self._engine = engine
        await prepare(engine, settings, self._limits, engine.address)
        gateway = Gateway(
            engine,
            stores.visibility,
            self._limits,
            self._service_metrics,
            engine.address,
            shares_port=settings.processes > 1,
            log_format=log_format(),
            on_failure=self._fail,
        )
        self._stack.push_async_callback(gateway.stop)
        cluster_metrics.add_gateway(self._metrics, engine, gateway)
        self._gateway = gateway
        try:
            self.port = await gateway.start(address(settings.ip, settings.port))
        except OSError as error:
            raise StartupError(str(error)) from None

    # Failures

    def _ended(self, role: str, reason: BaseException | None) -> None:
        if reason is not None:
            self._fail_from_thread(reason)

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_result(error)

    def _fail_from_thread(self, error: BaseException) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(partial(self._fail, error))


def _member_name(settings: Settings, index: int) -> str:
    """What a process is called in its groups, start after start."""
    return gateway_id(settings.kafka.member_name or settings.serve.gateway_id, settings.serve.port, index)


def gateway_id(given: str, port: int, index: int) -> str:
    """What tells one gateway from all others of the cluster, start after start."""
    return f"{given or f'{socket.gethostname()}-{port}'}-{index}"
