"""Owners and takeovers when logic changes (fold.md rule 9). That of a single partition: tests/unit/runtime."""

from __future__ import annotations

import pytest

from streams.bodies import Pair
from streams.runtime import logic
from streams.runtime.logic import LogicMarker, UnsupportedLogicError, marker
from streams.runtime.records import Record, UnknownType
from tests.simulation.test_rules import Case, acknowledge, fold
from tests.simulation.upgrades import NEW
from tests.simulation.world import World

NEWER = UnknownType("FutureCommand", "unknown record type 'FutureCommand'", b"")


@pytest.fixture
def case() -> Case:
    return Case()


def append(case: Case, record: Record) -> Record:
    """Append a record as it is."""
    log = case.log
    record = record.copy(offset=log.end, time_ms=2_000)
    log.records.append(record)
    log.epochs.append(1)
    return record


def needs(case: Case, what: str) -> Record:
    """Append what takes a newer release: a marker, or a record of a type that only that one knows."""
    if what == "marker":
        return append(case, marker("in", 0, 2))
    return append(case, Record("in", 0, "k", NEWER, source="x/0", origin_offset=3))


@pytest.fixture(autouse=True)
def old_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 1)


@pytest.mark.parametrize("what", ["marker", "record"])
class TestRule9:
    def test_an_owner_that_lacks_it_acknowledges_nothing_and_leaves(self, case: Case, what: str) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        fold(owner, needs(case, what))
        assert isinstance(owner.leaving, UnsupportedLogicError)
        assert "start a newer release" in str(owner.leaving)
        assert owner.partition.offset == 0
        assert not (owner.must_checkpoint or owner.letters)
        assert [offset for offset, _, _ in owner.replies] == [0]
        with pytest.raises(AssertionError, match="another release"):
            fold(owner, case.log.add("add"))

    def test_it_may_release_once_what_it_did_is_in_a_checkpoint(self, case: Case, what: str) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        assert not owner.may_release
        fold(owner, needs(case, what))
        assert not owner.may_release
        acknowledge(owner)
        assert not owner.may_release
        case.write(owner)
        assert owner.may_release

    def test_with_nothing_to_finish_it_may_release_at_once(self, case: Case, what: str) -> None:
        owner = case.take_over()
        fold(owner, needs(case, what))
        assert owner.may_release

    def test_the_next_owner_folds_it_once(
        self, case: Case, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        met = needs(case, what)
        fold(owner, met)
        acknowledge(owner)
        case.write(owner)
        monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 2)
        if what == "record":
            met.body = Pair("add", "")
        newer = case.take_over()
        assert newer.partition.offset == met.offset - 1
        fold(newer, met)
        assert newer.leaving is None
        assert newer.partition.logic.version == (2 if what == "marker" else 0)


class TestRule9Takeovers:
    def test_a_member_that_lacks_the_version_of_the_checkpoint_takes_nothing_over(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 2)
        owner = case.take_over()
        fold(owner, append(case, marker("in", 0, 2)))
        case.write(owner)
        monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 1)
        with pytest.raises(UnsupportedLogicError, match="version 2"):
            case.take_over()
        monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 2)
        assert case.take_over().partition.logic.version == 2

    def test_a_parked_record_that_it_does_not_know_is_not_taken_over_either(self, case: Case) -> None:
        owner = case.take_over()
        behind = {"source": "x/0", "origin_offset": 9, "previous_offset": 8, "previous_index": 0}
        parked = case.log.add("add", **behind)
        fold(owner, parked)
        acknowledge(owner)
        case.write(owner)
        parked.body = NEWER
        with pytest.raises(UnsupportedLogicError, match="FutureCommand"):
            case.take_over()


def test_rule_9_logic_changes_in_mid_tail_of_a_simulation() -> None:
    """Every record is folded again, by owners of both releases and from the start: same bytes, same version."""
    world = World(2)
    world.run()
    for seat in world.seats:
        bodies = [record.body for record in seat.log.records]
        at = bodies.index(LogicMarker(NEW))
        assert 0 < at < len(bodies) - 1
        assert not any(isinstance(body, Pair) for body in bodies[:at]) or seat.log.topic == "tasks"
