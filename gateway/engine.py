"""What the gateway needs of the engine below it, whichever log that runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from streams.bodies import NamespaceConfig
from streams.runtime.records import Correlation, Reply


class Engine(Protocol):
    """Appends records, delivers replies, reads what was materialised."""

    def attach_gateway(self, name: str, on_reply: Callable[[int, Reply], None]) -> int:
        """Register the gateway `name`; `on_reply(call id, reply)` runs on the loop. Returns its epoch, in ms."""

    def append(
        self, topic: str, key: str, body: msgspec.Struct, correlation: Correlation | None = None
    ) -> None:
        """Append a record. Never blocks; the reply comes once what it rests on is durable.

        LimitsChanged and GatewayLease go to every partition of their topic. A record that cannot be appended is
        answered with UNAVAILABLE.
        """

    async def flush(self) -> None:
        """Wait until everything folded so far is durable and visible in the stores, where the log can tell that."""

    @property
    def namespaces(self) -> Mapping[str, NamespaceConfig]:
        """The namespaces that exist, by name, as of the newest durable change."""

    async def read_events(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """Encoded events of a run in ascending order from `first_event_id`, recent ones included.

        Contiguous; at least one event when any exists, else as many as `max_bytes` allow. Raises
        streams.stores errors when the store is down.
        """
