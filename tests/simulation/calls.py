"""The coroutines of real gateway handlers on virtual time, with a simulated gateway for a backend.

What they await is begun when it is awaited, and resumes them with a result; a gateway that dies drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from gateway.errors import ApiError
from streams.bodies import Call, NamespaceConfig
from streams.limits import Limits
from streams.runtime.records import Reply
from streams.topology import COMMANDS, workflow_key

if TYPE_CHECKING:
    from tests.simulation.gateways import Gateway
    from tests.simulation.world import World

Resume = Callable[[Any], None]

FLUSH_MS = 20


class _Awaited:
    """Something under way: `begin` gets what to resume with its result, or with an ApiError to raise."""

    def __init__(self, begin: Callable[[Resume], None]) -> None:
        self.begin = begin

    def __await__(self) -> Generator[_Awaited, Any, Any]:
        result = yield self
        if isinstance(result, ApiError):
            raise result
        return result


def drive(coroutine: Coroutine[Any, Any, Any], done: Resume, value: Any = None) -> None:
    """Run a gateway's coroutine; `done` gets what it returns, or the ApiError that it raises."""
    try:
        waited = coroutine.send(value)
    except StopIteration as stop:
        done(stop.value)
    except ApiError as error:
        done(error)
    else:
        waited.begin(lambda result: drive(coroutine, done, result))


class Backend:
    """Implements what handlers use of `gateway.backend.Backend`, and of its engine. Reads take `read_ms`."""

    limits = Limits()

    def __init__(self, world: World, gateway: Gateway, read_ms: int = 0) -> None:
        self.engine = self
        self._read_ms = read_ms
        self._world = world
        self._gateway = gateway
        self._epoch = gateway.epoch

    def namespace(self, name: str) -> NamespaceConfig:
        return self._world.config

    async def call(
        self,
        method: str,
        namespace: str,
        workflow_id: str,
        run_id: str,
        request: bytes,
        _: Any,
        *,
        after_event_id: int = 0,
    ) -> Reply:
        body = Call(method, namespace, workflow_id, run_id, request, after_event_id=after_event_id)
        return await self.ask(COMMANDS, workflow_key(namespace, workflow_id), body)

    async def ask(self, topic: str, key: str, body: Any, timeout_s: float | None = None) -> Reply:
        reply: Reply = await _Awaited(lambda resume: self._gateway.ask(topic, key, body, self._epoch, resume))
        if reply.code:
            raise ApiError(reply.code, reply.message, reply.body)
        return reply

    def append(self, topic: str, key: str, body: Any) -> None:
        self._gateway.tell(topic, key, body, self._epoch)

    async def flush(self) -> None:
        await _Awaited(lambda resume: self._world.at(FLUSH_MS, resume, None))

    async def read_events(
        self, run_id: str, first: int, last: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        if self._read_ms:
            await _Awaited(lambda resume: self._world.at(self._read_ms, resume, None))
        found = self._world.history.read(run_id, first, last, max_bytes)
        return self._gateway.with_held(run_id, found, first, last)


class Patient:
    """The context of a call: it may take as long as it needs."""

    def time_remaining(self) -> None:
        return None
