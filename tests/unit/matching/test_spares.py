"""Polls that take more than one task (decision 0016)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streams.bodies import GatewayLease, PollReturned, StartTask
from streams.matching.queue import SPARE, SPARE_TASKS
from streams.matching_processor import MatchingProcessor
from streams.runtime.logic import marker
from streams.runtime.partition import Outcome
from streams.topology import TASKS
from tests.support.folding import EPOCH, GATEWAY, Folding, emitted
from tests.unit.matching.test_queue import QUEUE, STICKY, add, poll, started


@pytest.fixture
def folding() -> Iterator[Folding]:
    """A partition of the newest logic whose whole log is folded again when the test is over."""
    folding = Folding(MatchingProcessor)
    folding.append(marker(TASKS, 0, SPARE_TASKS))
    yield folding
    folding.check_refold()


def hints(outcome: Outcome) -> list[int]:
    return [body.backlog_count for body in emitted(outcome) if isinstance(body, StartTask)]


def test_a_poll_takes_what_waits_under_the_numbers_that_follow_its_own(folding: Folding) -> None:
    for name in "abcde":
        add(folding, name)
    assert started(poll(folding, 10, spares=3)) == [("a", 10), ("b", 11), ("c", 12), ("d", 13)]
    folding.restart()
    assert started(poll(folding, 20, spares=3)) == [("e", 20)]


def test_each_task_tells_how_many_are_left_behind_it(folding: Folding) -> None:
    for name in "abc":
        add(folding, name)
    assert hints(poll(folding, 10, spares=1)) == [2, 1]
    assert hints(poll(folding, 20, spares=1)) == [0]


def test_a_poll_that_asks_for_one_task_gets_one(folding: Folding) -> None:
    add(folding, "a")
    add(folding, "b")
    assert started(poll(folding, 1)) == [("a", 1)]


def test_a_poll_that_had_to_wait_gets_one_task(folding: Folding) -> None:
    poll(folding, 10, spares=3)
    assert started(add(folding, "a")) == [("a", 10)]
    assert started(add(folding, "b")) == []


def test_urgent_tasks_come_first_here_too(folding: Folding) -> None:
    add(folding, "plain")
    add(folding, "update", urgent=True)
    assert started(poll(folding, 10, spares=1)) == [("update", 10), ("plain", 11)]


def test_a_task_that_has_expired_is_not_given(folding: Folding) -> None:
    add(folding, "a")
    add(folding, "query", expires_ms=folding.now_ms + 100)
    assert started(poll(folding, 10, spares=3, after_ms=200)) == [("a", 10)]


def test_a_spare_poll_whose_task_was_obsolete_does_not_wait(folding: Folding) -> None:
    add(folding, "a", STICKY)
    add(folding, "b", STICKY)
    second = emitted(poll(folding, 10, STICKY, spares=1))[1].poll
    assert (second.id, second.spares) == (11, SPARE)
    folding.send(PollReturned("ns", "workflow", second), STICKY)
    assert started(add(folding, "c", STICKY)) == []


def test_a_poll_that_comes_back_has_used_up_its_spares(folding: Folding) -> None:
    for name in "abcd":
        add(folding, name)
    first = emitted(poll(folding, 10, spares=1))[0].poll
    outcome = folding.send(PollReturned("ns", "workflow", first), QUEUE)
    assert started(outcome) == [("c", 10)]


def test_a_gateway_whose_lease_lapsed_gets_nothing_to_keep(folding: Folding) -> None:
    folding.send(GatewayLease(GATEWAY, EPOCH, folding.now_ms + 1_000), GATEWAY)
    add(folding, "a")
    add(folding, "b")
    assert started(poll(folding, 10, spares=1, after_ms=2_000)) == []
    outcome = folding.send(GatewayLease(GATEWAY, EPOCH, folding.now_ms + 1_000), GATEWAY)
    assert started(outcome) == [("a", 10)]


def test_rule_9_older_logic_gives_one_task() -> None:
    folding = Folding(MatchingProcessor)
    folding.append(marker(TASKS, 0, SPARE_TASKS - 1))
    for name in "abcd":
        add(folding, name)
    assert started(poll(folding, 10, spares=3)) == [("a", 10)]
    folding.append(marker(TASKS, 0, SPARE_TASKS))
    assert started(poll(folding, 20, spares=1)) == [("b", 20), ("c", 21)]
    folding.check_refold()
