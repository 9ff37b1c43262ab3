"""Who keeps copies of which partitions follows from the group alone."""

from __future__ import annotations

import pytest

from streams.kafka.groups import GroupMember, _member
from streams.kafka.standby_plan import followed_by

TOPIC = "odradek.commands"


def _of(number: int, host: str = "", partitions: tuple[int, ...] = ()) -> GroupMember:
    return GroupMember(
        "odradek-history",
        f"id-{number}",
        f"member-{number}",
        host or f"10.0.0.{number}",
        1,
        frozenset((TOPIC, partition) for partition in partitions),
    )


def _plans(members: list[GroupMember], partitions: int, standbys: int) -> list[frozenset[int]]:
    return [followed_by(member.id, members, TOPIC, partitions, standbys) for member in members]


def test_two_members_follow_each_other() -> None:
    members = [_of(1, partitions=(0, 2)), _of(2, partitions=(1, 3))]
    assert _plans(members, 4, 1) == [{1, 3}, {0, 2}]


@pytest.mark.parametrize("standbys", [1, 2, 3])
def test_each_partition_has_as_many_followers_as_wanted_none_of_them_its_owner(standbys: int) -> None:
    members = [_of(n, partitions=tuple(range(n, 24, 4))) for n in range(4)]
    plans = _plans(members, 24, standbys)
    for number in range(24):
        assert sum(number in plan for plan in plans) == standbys
        assert number not in plans[number % 4]


def test_with_fewer_members_than_wanted_all_others_follow() -> None:
    members = [_of(1, partitions=(0,)), _of(2, partitions=(1,))]
    assert _plans(members, 2, 5) == [{1}, {0}]


def test_one_alone_follows_nothing_and_a_stranger_to_the_group_neither() -> None:
    members = [_of(1, partitions=(0, 1))]
    assert _plans(members, 2, 1) == [frozenset()]
    assert followed_by("other", members, TOPIC, 2, 1) == frozenset()


def test_another_host_than_the_owners_comes_first() -> None:
    members = [_of(1, "a", (0, 1)), _of(2, "a", (2, 3)), _of(3, "b", (4, 5)), _of(4, "b", (6, 7))]
    plans = _plans(members, 8, 1)
    assert plans[0] | plans[1] == {4, 5, 6, 7}
    assert plans[2] | plans[3] == {0, 1, 2, 3}


def test_a_member_that_comes_moves_only_its_share() -> None:
    members = [_of(n, partitions=tuple(range(n, 60, 3))) for n in range(3)]
    before = _plans(members, 60, 1)
    after = _plans([*members, _of(9)], 60, 1)
    for old, new in zip(before, after, strict=False):
        assert new <= old
    assert 10 <= len(after[3]) <= 40


def test_the_order_in_which_the_broker_names_members_makes_no_difference() -> None:
    members = [_of(n, partitions=tuple(range(n, 12, 3))) for n in range(3)]
    assert _plans(members, 12, 1) == _plans(members[::-1], 12, 1)[::-1]


class _Described:
    """A member as an administrator's client describes it."""

    class assignment:
        topic_partitions: tuple[()] = ()

    member_id, host = "id", "/10.0.0.1"

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id


@pytest.mark.parametrize(
    ("client_id", "name", "supported"),
    [
        ("odradek.logic-2.host-7233-0", "host-7233-0", 2),
        ("team.a.logic-13.my.host", "my.host", 13),
        ("rdkafka", "rdkafka", None),
    ],
)
def test_a_client_id_tells_the_name_and_the_logic(client_id: str, name: str, supported: int | None) -> None:
    member = _member("group", _Described(client_id))
    assert (member.name, member.supported_logic, member.host) == (name, supported, "10.0.0.1")
