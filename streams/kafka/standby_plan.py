"""Who keeps a copy of which partitions: worked out by each member for itself, from the group as everybody sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from streams.kafka.groups import GroupMember


def followed_by(
    member_id: str, members: Sequence[GroupMember], topic: str, partitions: int, standbys: int
) -> frozenset[int]:
    """The partitions of a topic that a member follows, of which another is the owner.

    Each partition is followed by `standbys` members, or by all but the owner where there are fewer. Those on other
    hosts than the owner's come first, since a host's disk is of no use while the host is down; after that, each
    partition has an order of its own among the members' names, so that one that comes or goes moves only its share.
    """
    followed = set()
    for number in range(partitions):
        owner = next((member for member in members if (topic, number) in member.partitions), None)
        others = sorted(
            (member for member in members if member is not owner),
            key=lambda member: (
                owner is not None and member.host == owner.host,
                _rank(member.name, number),
                member.id,
            ),
        )
        if any(member.id == member_id for member in others[:standbys]):
            followed.add(number)
    return frozenset(followed)


def _rank(name: str, number: int) -> bytes:
    return hashlib.blake2b(f"{number}/{name}".encode(), digest_size=8).digest()
