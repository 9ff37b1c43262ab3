"""Readiness and liveness follow from what members say of themselves."""

from __future__ import annotations

import pytest

from server.cluster_metrics import STUCK_FOLD_MS, STUCK_LOOP_MS, why_not_ready, why_stuck
from streams.kafka.status import MemberStatus, PartitionStatus, State

NOW_MS = 10_000_000


def _member(*states: State, joined: bool = True) -> MemberStatus:
    partitions = {
        number: PartitionStatus("history", number, state, "the reason." if state == "refused" else "")
        for number, state in enumerate(states)
    }
    return MemberStatus("history", partitions, loop_time_ms=NOW_MS, joined=joined)


def test_ready_is_who_owns_all_that_it_is_assigned() -> None:
    assert why_not_ready(_member("owned", "owned")) == ""
    assert why_not_ready(_member()) == ""


def test_who_has_not_joined_is_not_ready() -> None:
    assert why_not_ready(_member(joined=False)) == "history: not yet in its group"


@pytest.mark.parametrize("state", ["restoring", "halted", "leaving"])
def test_one_partition_that_is_not_owned_is_enough(state: State) -> None:
    assert why_not_ready(_member("owned", state)) == f"history: partition 1 is {state}"


def test_a_refusal_says_why() -> None:
    assert why_not_ready(_member("refused", "owned")) == "history: partition 0 is refused. the reason"


def test_who_folds_and_goes_round_is_alive() -> None:
    status = _member("owned")
    status.folding_since_ms = NOW_MS - STUCK_FOLD_MS
    assert why_stuck(status, NOW_MS) == ""


def test_a_fold_that_does_not_end_is_stuck() -> None:
    status = _member("owned")
    status.folding_since_ms = NOW_MS - STUCK_FOLD_MS - 1
    assert why_stuck(status, NOW_MS) == f"history: a fold has taken {STUCK_FOLD_MS + 1} ms so far"


def test_a_thread_that_does_not_go_round_is_stuck() -> None:
    status = _member("owned")
    status.loop_time_ms = NOW_MS - STUCK_LOOP_MS - 1
    assert why_stuck(status, NOW_MS) == f"history: its thread was last seen {STUCK_LOOP_MS + 1} ms ago"
