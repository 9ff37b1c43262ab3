"""The embedded server: the engine over one SQLite file, and a gateway to it, in this process."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

from gateway.metrics import Registry
from gateway.server import Gateway
from gateway.service_metrics import ServiceMetrics
from server.closes import count_close
from server.errors import StartupError
from server.logs import log_format
from server.ports import address
from server.preparation import prepare
from server.settings import DevSettings
from streams.embedded import EmbeddedEngine
from streams.limits import Limits
from streams.matching.backlog import backlogs
from streams.matching.state import QUEUES
from streams.runtime.database import DatabaseError
from streams.runtime.failures import EngineFailedError
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.tables import StorageError
from streams.topology import TASKS

GATEWAY: Final = "gateway-0"


class EmbeddedServer:
    """Implements :class:`server.process.Server`. Get it from :func:`start_embedded`."""

    def __init__(
        self, engine: EmbeddedEngine, gateway: Gateway, port: int, failure: asyncio.Future[BaseException]
    ) -> None:
        self._engine = engine
        self._gateway = gateway
        self._failure = failure
        self.port = port

    async def failed(self) -> BaseException:
        """Waits until the engine cannot go on, and returns the reason."""
        return await asyncio.shield(self._failure)

    async def drain(self) -> None:
        """Takes no more calls; waiting polls end with empty answers."""
        await self._gateway.drain()
        await self._gateway.stop()

    async def stop(self) -> None:
        """Writes a checkpoint and closes the file."""
        if self._failure.done():
            await self._gateway.stop(grace_s=0)  # nothing will answer what is in flight
        else:
            await self._gateway.stop()
        await self._engine.stop()


async def start_embedded(
    settings: DevSettings, path: Path, limits: Limits, registry: Registry
) -> EmbeddedServer:
    """Starts the embedded server over ``path``. Raises :class:`StartupError`."""
    failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def fail(reason: BaseException) -> None:
        if not failure.done():
            failure.set_result(reason)

    metrics = ServiceMetrics(registry, metadata.version("odradek-server"))
    try:
        engine = EmbeddedEngine(path, on_failure=fail, on_visible=partial(count_close, metrics))
    except DatabaseError as error:
        raise StartupError(str(error)) from None
    except StorageError as error:
        raise StartupError(_damaged(path, error)) from error
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.stop)
        try:
            await engine.start()
            await prepare(engine, settings, limits, GATEWAY)
        except EngineFailedError as error:
            if isinstance(error.__cause__, UnsupportedLogicError):
                raise StartupError(f"cannot start from {path}: {error}; nothing was changed in it") from None
            raise StartupError(_damaged(path, error)) from error
        queues = engine.partitions[TASKS].tables[QUEUES.name]
        metrics.add_backlogs(partial(backlogs, queues))
        gateway = Gateway(
            engine,
            engine.visibility_store,
            limits,
            metrics,
            GATEWAY,
            log_format=log_format(),
            on_failure=fail,
        )
        try:
            port = await gateway.start(address(settings.ip, settings.port))
        except OSError as error:
            raise StartupError(str(error)) from None
        stack.pop_all()
    return EmbeddedServer(engine, gateway, port, failure)


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"cannot start from {path}: {error}."
        " Put a copy of the file in its place, or start with another file; nothing was changed in this one"
    )
