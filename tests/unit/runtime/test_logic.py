"""Logic versions of one partition (fold.md rule 9)."""

from __future__ import annotations

import pytest

from streams import avro
from streams.bodies import Pair
from streams.record_types import BODY_TYPES
from streams.runtime import logic
from streams.runtime.codec import Codec, Envelope
from streams.runtime.logic import LogicMarker, UnsupportedLogicError, marker
from streams.runtime.partition import Outcome
from streams.runtime.records import Record, Undecodable, UnknownType
from tests.support.folding import START_MS, Folding, described, emitted
from tests.support.versioned import VersionedProcessor

ADD = Pair("add", "")
NEWER = UnknownType("FutureCommand", "unknown record type 'FutureCommand'", b"\x02")


@pytest.fixture
def folding() -> Folding:
    return Folding(VersionedProcessor, supported_logic=2)


def raised(folding: Folding, version: int) -> Outcome:
    return folding.append(marker("in", 0, version))


def counts(outcome: Outcome) -> list[int]:
    return [body.value for body in emitted(outcome)]


def from_partition(body: object, offset: int, previous_offset: int = -1) -> Record:
    previous_index = -1 if previous_offset < 0 else 0
    origin = {"origin_offset": offset, "previous_offset": previous_offset, "previous_index": previous_index}
    return Record("in", 0, "k", body, source="other/3", **origin)


class TestRule9Markers:
    def test_logic_changes_with_the_record_after_the_marker(self, folding: Folding) -> None:
        raised(folding, 1)
        assert counts(folding.send(ADD, "k")) == [1]
        assert described(raised(folding, 2)) == [[], [], []]
        assert counts(folding.send(ADD, "k")) == [2, 3]
        folding.check_refold()

    def test_a_log_without_a_marker_is_folded_by_the_oldest_logic(self, folding: Folding) -> None:
        assert folding.partition.logic.version == 0
        assert counts(folding.send(ADD, "k")) == [1]

    def test_markers_only_rise(self, folding: Folding) -> None:
        for version, in_force in ((2, 2), (1, 2), (2, 2), (0, 2)):
            raised(folding, version)
            assert folding.partition.logic.version == in_force
        assert counts(folding.send(ADD, "k")) == [1, 2]
        folding.check_refold()

    def test_what_falls_due_is_folded_by_the_version_in_force(self, folding: Folding) -> None:
        folding.send(Pair("wake", str(START_MS + 5)), "k")
        raised(folding, 2)
        assert counts(folding.tick(after_ms=5)) == [5, 6]
        folding.check_refold()

    def test_what_waited_behind_a_gap_is_folded_by_the_version_in_force_when_it_is_filled(
        self, folding: Folding
    ) -> None:
        folding.append(from_partition(ADD, 2, 1))
        raised(folding, 2)
        assert counts(folding.append(from_partition(ADD, 1))) == [1, 2, 3, 4]
        folding.check_refold()

    def test_a_marker_is_time_too(self, folding: Folding) -> None:
        folding.now_ms += 700
        raised(folding, 2)
        assert folding.partition.now_ms == START_MS + 700


class TestRule9Checkpoints:
    @pytest.mark.parametrize("at", range(5))
    def test_a_refold_from_any_checkpoint_runs_the_logic_of_each_record(
        self, folding: Folding, at: int
    ) -> None:
        for step in range(5):
            if step == at:
                folding.restart()
            if step == 2:
                raised(folding, 2)
            else:
                folding.send(ADD, "k")
        folding.check_refold()
        assert folding.partition.position().logic_version == 2

    def test_the_version_is_kept_when_its_marker_is_gone_from_the_log(self, folding: Folding) -> None:
        raised(folding, 2)
        folding.restart()
        assert counts(folding.send(ADD, "k")) == [1, 2]


class TestRule9Members:
    def test_a_member_that_lacks_the_marker_stops_and_changes_nothing(self, folding: Folding) -> None:
        folding.send(ADD, "k")
        before = avro.encode(folding.partition.position())
        folding.now_ms += 100
        with pytest.raises(
            UnsupportedLogicError, match=r"in/0 .* version 3, this release has versions up to 2"
        ):
            raised(folding, 3)
        assert avro.encode(folding.partition.position()) == before
        assert folding.partition.logic.version == 0

    def test_a_member_that_lacks_the_checkpoint_does_not_begin(self, folding: Folding) -> None:
        raised(folding, 2)
        folding.checkpoint()
        folding.supported_logic = 1
        with pytest.raises(UnsupportedLogicError, match="start a newer release"):
            folding.restart()

    @pytest.mark.parametrize("gateway", [False, True])
    def test_a_record_newer_than_its_reader_stops_the_partition(
        self, folding: Folding, gateway: bool
    ) -> None:
        before = avro.encode(folding.partition.position())
        with pytest.raises(UnsupportedLogicError, match="record 0 is of type 'FutureCommand'"):
            if gateway:
                folding.send(NEWER, "k", call_id=1)
            else:
                folding.append(from_partition(NEWER, 1))
        assert avro.encode(folding.partition.position()) == before

    def test_one_that_waits_behind_a_gap_does_too(self, folding: Folding) -> None:
        folding.append(from_partition(ADD, 2, 1))
        position = folding.partition.position()
        assert position.parked == (0,)
        older = Folding(VersionedProcessor, supported_logic=2).partition
        with pytest.raises(UnsupportedLogicError, match="FutureCommand"):
            older.restore(position, [from_partition(NEWER, 2, 1).copy(offset=0, time_ms=1)])

    def test_a_corrupt_body_of_a_known_type_is_a_verdict(self, folding: Folding) -> None:
        outcome = folding.append(from_partition(Undecodable("Pair", "short", b"\x07"), 1))
        assert [letter.body for letter in outcome.verdicts] == [b"\x07"]
        assert counts(folding.append(from_partition(ADD, 2, 1))) == [1]

    def test_the_codec_tells_newer_records_from_corrupt_ones(self) -> None:
        codec = Codec(BODY_TYPES)

        def read(type: str, body: bytes) -> object:
            envelope = Envelope(type, "other/3", 0, 1, 0, -1, -1, "", 0, 0, body)
            return codec.record("in", 0, 5, 1, "k", envelope).body

        assert isinstance(read("FutureCommand", b""), UnknownType)
        corrupt = read("Pair", b"\x07")
        assert isinstance(corrupt, Undecodable) and not isinstance(corrupt, UnknownType)
        assert read("LogicMarker", avro.encode(LogicMarker(7))) == LogicMarker(7)


class TestRule9RemovedLogic:
    @pytest.fixture(autouse=True)
    def later_release(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logic, "OLDEST_LOGIC_VERSION", 2)

    def test_a_checkpoint_before_its_marker_is_refused(
        self, folding: Folding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logic, "OLDEST_LOGIC_VERSION", 0)
        raised(folding, 1)
        folding.checkpoint()
        monkeypatch.setattr(logic, "OLDEST_LOGIC_VERSION", 2)
        with pytest.raises(UnsupportedLogicError, match="raise the version there first"):
            folding.restart()

    def test_a_log_that_does_not_begin_with_its_marker_is_refused(self, folding: Folding) -> None:
        with pytest.raises(UnsupportedLogicError, match="versions from 2 on"):
            folding.send(ADD, "k")

    def test_a_new_log_begins_at_the_newest(self, folding: Folding) -> None:
        raised(folding, 2)
        assert counts(folding.send(ADD, "k")) == [1, 2]
        folding.check_refold()
