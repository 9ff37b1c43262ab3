"""The fold of one partition: duplicates, gaps, chains, verdicts and time (fold.md rules 2, 5, 7, 10)."""

from __future__ import annotations

import pytest

from streams.bodies import NumberPair, Pair
from streams.runtime import partition as runtime
from streams.runtime.partition import NO_LINK, Outcome, Partition, PartitionHaltedError
from streams.runtime.records import Correlation, Record, Reply, Undecodable
from streams.runtime.tables import StorageError
from tests.support.counting import CountingProcessor
from tests.support.folding import START_MS, Folding, described, emitted, replied
from tests.support.memory import MemoryStore

ADD = Pair("add", "")


@pytest.fixture
def folding() -> Folding:
    return Folding(CountingProcessor)


def chained(
    offset: int, index: int, previous: tuple[int, int] = (NO_LINK, NO_LINK), key: str = "k"
) -> Record:
    """A record of another partition's chain."""
    return Record(
        *("in", 0, key, ADD),
        source="other/3",
        origin_offset=offset,
        index=index,
        previous_offset=previous[0],
        previous_index=previous[1],
    )


def counts(outcome: Outcome) -> list[int]:
    return [body.value for body in emitted(outcome)]


class TestGateways:
    def test_a_sequence_counts_once_and_in_order_only(self, folding: Folding) -> None:
        assert counts(folding.send(ADD, "k")) == [1]
        assert counts(folding.send(ADD, "k")) == [2]
        for record in list(folding.log):
            assert described(folding.append(record)) == [[], [], []]
        assert counts(folding.send(ADD, "k")) == [3]
        folding.check_refold()

    def test_a_new_epoch_begins_its_sequence_anew(self, folding: Folding) -> None:
        folding.send(ADD, "k")
        for epoch in (2, 2, 1):
            folding.append(Record("in", 0, "k", ADD, source="gateway-1", origin_epoch=epoch, origin_offset=1))
        assert [counts(outcome) for outcome in folding.outcomes] == [[1], [2], [], []]


class TestChains:
    def test_duplicates_are_dropped(self, folding: Folding) -> None:
        records = [chained(5, 0), chained(5, 1, (5, 0)), chained(8, 0, (5, 1))]
        assert [counts(folding.append(record)) for record in records] == [[1], [2], [3]]
        folding.restart()
        assert [counts(folding.append(record)) for record in records] == [[], [], []]
        folding.check_refold()

    def test_a_gap_is_waited_out_in_order(self, folding: Folding) -> None:
        first, second = chained(1, 0), chained(2, 0, (1, 0), "b")
        third, fourth = chained(2, 1, (2, 0), "c"), chained(7, 0, (2, 1), "d")
        folding.append(first)
        for late in (fourth, third, third):
            assert counts(folding.append(late)) == []
        assert folding.partition.parked_count == 2
        outcome = folding.append(second)
        assert [record.key for record in outcome.emissions] == ["b", "c", "d"]
        assert [(record.origin_offset, record.index) for record in outcome.emissions] == [
            (4, 0),
            (4, 1),
            (4, 2),
        ]
        assert folding.partition.parked_count == 0
        assert counts(folding.append(third)) == []

    def test_a_chain_that_is_first_seen_in_its_middle_waits(self, folding: Folding) -> None:
        assert counts(folding.append(chained(5, 0, (4, 0)))) == []
        assert counts(folding.append(chained(4, 0))) == [1, 2]

    def test_part_of_a_gap_stays(self, folding: Folding) -> None:
        folding.append(chained(1, 0))
        folding.append(chained(3, 0, (2, 0)))
        folding.append(chained(5, 0, (4, 0)))
        assert counts(folding.append(chained(2, 0, (1, 0)))) == [2, 3]
        assert folding.partition.parked_count == 1
        assert counts(folding.append(chained(4, 0, (3, 0)))) == [4, 5]

    def test_sources_do_not_wait_for_each_other(self, folding: Folding) -> None:
        folding.append(chained(5, 0, (4, 0)))
        assert counts(folding.send(ADD, "k")) == [1]

    def test_a_gap_too_long_halts(self, folding: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtime, "PARKED_LIMIT", 3)
        for i in range(3):
            folding.append(chained(i + 5, 0, (i + 4, 0)))
        with pytest.raises(PartitionHaltedError, match="wait behind a gap"):
            folding.append(chained(9, 0, (8, 0)))

    def test_a_chain_that_begins_again_halts(self, folding: Folding) -> None:
        folding.append(chained(5, 0))
        with pytest.raises(PartitionHaltedError, match="already begun"):
            folding.append(chained(6, 0))

    def test_every_emission_names_the_one_before_on_its_channel(self) -> None:
        store = MemoryStore()
        partition = Partition(
            *(CountingProcessor(), 2, store, store),
            lambda topic, key: len(key) % 2,
            lambda topic: 3,
        )
        links: dict[tuple[str, int], tuple[int, int]] = {}
        for offset, key in enumerate(["a", "bb", "c", "dd", "e"]):
            record = Record(
                "in", 2, key, Pair("add", "all"), source="g", origin_epoch=1, origin_offset=offset + 1
            )
            outcome = partition.step(record.copy(offset=offset, time_ms=1))
            assert [(emission.topic, emission.partition) for emission in outcome.emissions] == [
                ("out", len(key) % 2),
                *(("wide", number) for number in range(3)),
            ]
            for index, emission in enumerate(outcome.emissions):
                channel = (emission.topic, emission.partition)
                assert (emission.source, emission.origin_offset, emission.index) == ("in/2", offset, index)
                previous = (emission.previous_offset, emission.previous_index)
                assert previous == links.get(channel, (NO_LINK, NO_LINK))
                links[channel] = (offset, index)


class TestVerdicts:
    def test_a_failed_step_changes_nothing_and_answers(self, folding: Folding) -> None:
        folding.send(ADD, "k")
        outcome = folding.send(Pair("fail", "x"), "k", call_id=4)
        assert outcome.emissions == []
        [letter] = outcome.verdicts
        assert (letter.source, letter.offset, letter.key, letter.type) == ("in/0", 1, "k", "Pair")
        assert letter.reason.startswith("ValueError: cannot count x (in fold, line ")
        [(call_id, reply)] = replied(outcome)
        assert (call_id, reply.code) == (4, 13)
        entity = folding.partition.tables["counters"].entity("k")
        assert entity.get("count") == NumberPair("k", 1)
        assert entity.get("note").key == "judged"
        assert folding.partition.due.get("k") is None
        assert counts(folding.send(ADD, "k")) == [2]
        folding.check_refold()

    def test_the_chain_goes_on_after_a_verdict(self, folding: Folding) -> None:
        first = folding.send(ADD, "k").emissions[0]
        folding.send(Pair("fail", ""), "k")
        second = folding.send(ADD, "k").emissions[0]
        assert (second.previous_offset, second.previous_index) == (first.origin_offset, first.index)

    def test_what_cannot_be_decoded_is_kept_as_it_came(self, folding: Folding) -> None:
        outcome = folding.append(
            Record(
                *("in", 0, "k", Undecodable("Pair", "short", b"\x07")),
                source="gateway-1",
                origin_epoch=1,
                origin_offset=9,
                correlation=Correlation("gateway-1", 1, 3),
            )
        )
        assert outcome.verdicts[0].body == b"\x07"
        assert "short" in outcome.verdicts[0].reason
        assert replied(outcome)[0][1].code == 13

    def test_trouble_of_a_store_is_not_blamed_on_a_record(self) -> None:
        class Broken(MemoryStore):
            def load(self, table: str, partition: int, key: str) -> list[tuple[str, str, bytes]]:
                raise StorageError("disk gone")

        store = Broken()
        partition = Partition(CountingProcessor(), 0, store, store, lambda topic, key: 0, lambda topic: 1)
        record = Record("in", 0, "k", ADD, source="g", origin_epoch=1, origin_offset=1, offset=0)
        with pytest.raises(StorageError):
            partition.step(record)

    def test_one_due_key_that_fails_does_not_stop_the_others(self, folding: Folding) -> None:
        for key in ("a", "bad", "c"):
            folding.send(Pair("wake", str(START_MS + 5)), key)
        outcome = folding.tick(after_ms=5)
        assert [record.key for record in outcome.emissions] == ["a", "c"]
        assert [record.index for record in outcome.emissions] == [0, 1]
        assert len(outcome.verdicts) == 1
        folding.check_refold()


class TestTime:
    def test_now_is_the_highest_time_seen(self, folding: Folding) -> None:
        folding.send(ADD, "k", after_ms=500)
        folding.now_ms -= 400
        folding.send(Pair("wake", str(START_MS + 300)), "k")
        assert folding.partition.now_ms == START_MS + 500
        folding.restart()
        assert emitted(folding.tick()) == [NumberPair("due", 5)]

    def test_an_extra_tick_is_harmless(self, folding: Folding) -> None:
        folding.send(Pair("wake", str(START_MS)), "k")
        assert len(folding.tick().emissions) == 1
        assert described(folding.tick()) == [[], [], []]


def test_replies_follow_the_correlation(folding: Folding) -> None:
    assert replied(folding.send(ADD, "k", call_id=8)) == [(8, Reply(body=b"1"))]
    assert replied(folding.send(ADD, "k")) == []
