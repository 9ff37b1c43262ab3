"""Limits on how many calls may be under way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope

from gateway import errors
from streams.limits import Limits

_QUIET_S = 0.02
_CONCURRENT = ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT
_NAMESPACE = ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
_SYSTEM = ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_SYSTEM


class CallsUnderWay:
    """Brings all calls to an end so that clients know which of them had no effect.

    gRPC cancels the calls that a stopping server has not looked at, and clients take that for an answer; they
    try again when a connection ends. So calls that come late are held until none is left to look at.
    """

    def __init__(self) -> None:
        self._count = 0
        self._held = 0
        self._ending = False

    def enter(self) -> bool:
        """Let a call in, unless it comes late and has to be held."""
        if self._ending:
            return False
        self._count += 1
        return True

    async def hold(self) -> None:
        """Keep a call that comes late until gRPC ends it."""
        self._held += 1
        await asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        """A call that was let in has ended."""
        self._count -= 1

    async def end(self, timeout_s: float) -> None:
        """Let no more in, and return when there are none and no more come, at most `timeout_s` seconds later."""
        self._ending = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                quiet = False
                while not quiet:
                    before = self._count, self._held
                    await asyncio.sleep(_QUIET_S)
                    quiet = before == (0, self._held) and not self._count


class Gate(Protocol):
    """Counts calls that are under way."""

    def enter(self, namespace: str) -> None:
        """Let a call in. Raises ApiError (RESOURCE_EXHAUSTED) when there are too many."""

    def leave(self, namespace: str) -> None:
        """A call that was let in has ended."""


class ShortCalls:
    """One limit on all calls that do not wait for long."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._count = 0

    def enter(self, namespace: str) -> None:
        if self._count >= self._limits.requests_in_flight:
            raise errors.exhausted("too many requests in flight", _SYSTEM, _CONCURRENT)
        self._count += 1

    def leave(self, namespace: str) -> None:
        self._count -= 1


class LongCalls:
    """A limit on the long polls of one method in each namespace; `total` is shared by all methods."""

    def __init__(self, limits: Limits, total: ShortCalls) -> None:
        self._limits = limits
        self._total = total
        self._counts: dict[str, int] = {}

    def enter(self, namespace: str) -> None:
        count = self._counts.get(namespace, 0)
        most = self._limits.long_polls_per_method
        if most and count >= most:
            raise errors.exhausted("namespace concurrent poller limit exceeded", _NAMESPACE, _CONCURRENT)
        self._total.enter(namespace)
        self._counts[namespace] = count + 1

    def leave(self, namespace: str) -> None:
        self._total.leave(namespace)
        count = self._counts[namespace] - 1
        if count:
            self._counts[namespace] = count
        else:
            del self._counts[namespace]
