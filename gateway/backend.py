"""What every handler works with: namespaces, limits, and calls to the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
from temporalio.api.enums.v1 import NamespaceState

from gateway import errors
from gateway.engine import Engine
from gateway.replies import Replies
from streams.bodies import Call, NamespaceConfig
from streams.limits import Limits
from streams.runtime.records import Correlation, Reply
from streams.topology import COMMANDS, workflow_key

REGISTERED: Final = (NamespaceState.NAMESPACE_STATE_REGISTERED,)
OPEN: Final = (NamespaceState.NAMESPACE_STATE_REGISTERED, NamespaceState.NAMESPACE_STATE_DEPRECATED)
ALL: Final = (*OPEN, NamespaceState.NAMESPACE_STATE_DELETED)

CALL_TIMEOUT_S: Final = 60.0
"""How long a call may take whose client set no deadline."""


class Context(Protocol):
    """The part of a call that handlers use beside its request."""

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The client's headers, by their names in lower case."""

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline, None without one."""


class Backend:
    """Shared by all handlers of a gateway."""

    def __init__(self, engine: Engine, limits: Limits, name: str) -> None:
        self.engine = engine
        self.limits = limits
        self.name = name
        self.replies = Replies(name)
        self._ends_early: dict[asyncio.Future[Reply], Exception] = {}

    def begin(self) -> None:
        """Register with the engine; before it no call can be made."""
        self.replies.begin(self.engine.attach_gateway(self.name, self.replies.deliver))

    def namespace(self, name: str, allowed: Sequence[NamespaceState.ValueType] = OPEN) -> NamespaceConfig:
        """The namespace of a request. Raises ApiError unless it exists, in one of the `allowed` states."""
        config = self.engine.namespaces.get(name)
        if config is None:
            if not name:
                raise errors.invalid("Namespace is empty.")
            if len(name.encode()) > self.limits.id_length:
                raise errors.invalid("Namespace length exceeds limit.")
            raise errors.namespace_not_found(name)
        if config.state not in allowed:
            raise errors.namespace_state(name, NamespaceState.ValueType(config.state), allowed)
        return config

    async def call(
        self,
        method: str,
        namespace: str,
        workflow_id: str,
        run_id: str,
        request: bytes,
        context: Context,
        *,
        opens_run: bool = False,
        after_event_id: int = 0,
        offer_id: int = 0,
        offer_deadline_ms: int = 0,
    ) -> Reply:
        """Append an API call about one workflow and await its reply, or raise it as an ApiError."""
        timeout_s = context.time_remaining()
        body = Call(
            method,
            namespace,
            workflow_id,
            run_id,
            request,
            str(uuid.uuid4()) if opens_run else "",
            int((time.time() + (CALL_TIMEOUT_S if timeout_s is None else timeout_s)) * 1000),
            after_event_id=after_event_id,
            offer_id=offer_id,
            offer_deadline_ms=offer_deadline_ms,
        )
        # The call is ended at the client's deadline.
        return await self.ask(
            COMMANDS,
            workflow_key(namespace, workflow_id),
            body,
            CALL_TIMEOUT_S if timeout_s is None else None,
        )

    async def ask(
        self,
        topic: str,
        key: str,
        body: msgspec.Struct,
        timeout_s: float | None = None,
        *,
        if_drained: Exception | None = None,
        if_left: Callable[[Correlation], None] | None = None,
    ) -> Reply:
        """Append a record and await its reply, at most `timeout_s` seconds.

        A call that may wait for others, a worker's among them, gives up with `if_drained` when the gateway is
        drained, and tells `if_left` when its client goes away. Raises ApiError when the reply is an error,
        TimeoutError when there is none in time.
        """
        correlation, future = self.replies.expect()
        if if_drained is not None:
            self._ends_early[future] = if_drained
        self.engine.append(topic, key, body, correlation)
        timer = self.replies.time_out(future, timeout_s) if timeout_s is not None else None
        try:
            reply = await future
        except asyncio.CancelledError:
            if if_left is not None:
                if_left(correlation)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self.replies.forget(correlation.id)
            if if_drained is not None:
                del self._ends_early[future]
        if reply.code:
            raise errors.ApiError(reply.code, reply.message, reply.body)
        return reply

    def drain(self) -> None:
        """End all calls that may wait for others."""
        for future, error in self._ends_early.items():
            if not future.done():
                future.set_exception(error)

    def now_ms(self) -> int:
        """The time, in milliseconds since 1970."""
        return int(time.time() * 1000)
