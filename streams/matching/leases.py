"""Which gateways live: a poll is matched only while its gateway's lease holds (fold.md rule 19)."""

from __future__ import annotations

from streams.bodies import GatewayLease
from streams.matching.state import BLOCKED, GATEWAYS, LEASE, BlockedQueue
from streams.runtime.context import Context


def lease_of(context: Context, gateway: str) -> GatewayLease | None:
    """What is known of a gateway."""
    lease: GatewayLease | None = context.table(GATEWAYS.name).peek(gateway).get(LEASE)
    return lease


def lapsed(lease: GatewayLease, now_ms: int) -> bool:
    """Whether the lease has run out; it may be renewed."""
    return lease.expires_ms != 0 and lease.expires_ms < now_ms


def renew(context: Context, lease: GatewayLease) -> list[str]:
    """Note a lease; returns the keys of queues that may now have a match, in order.

    A lease of an earlier epoch than the one known changes nothing.
    """
    entity = context.table(GATEWAYS.name).entity(lease.gateway)
    known: GatewayLease | None = entity.get(LEASE)
    if known is not None and lease.epoch < known.epoch:
        return []
    entity.put(LEASE, "", lease)
    if lapsed(lease, context.now_ms):
        return []
    blocked = [key for key, _ in entity.items(BLOCKED)]
    for key in blocked:
        entity.drop(BLOCKED, key)
    return blocked


def note_blocked(context: Context, gateway: str, queue_key: str) -> None:
    """Remember that the queue waits for the gateway's lease to be renewed."""
    entity = context.table(GATEWAYS.name).entity(gateway)
    if entity.get(BLOCKED, queue_key) is None:
        entity.put(BLOCKED, queue_key, BlockedQueue(context.now_ms))
