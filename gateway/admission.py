"""Limits on how many calls may be under way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope

from gateway import errors
from streams.limits import Limits

_CONCURRENT = ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT
_NAMESPACE = ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE
_SYSTEM = ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_SYSTEM


class CallsUnderWay:
    """Brings all calls to an end: those that come late are refused, so that clients know that they had no effect."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._ending = False

    def enter(self) -> None:
        """Let a call in. Raises ApiError (UNAVAILABLE) for one that comes late."""
        if self._ending:
            raise errors.shutting_down()
        self._count += 1

    def leave(self) -> None:
        """A call that was let in has ended."""
        self._count -= 1
        if self._ending and not self._count:
            self._none.set()

    async def end(self, timeout_s: float) -> None:
        """Let no more in, and return when there are none, at most `timeout_s` seconds later."""
        self._ending = True
        if self._count:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._none.wait()


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
