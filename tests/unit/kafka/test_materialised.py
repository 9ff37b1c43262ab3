"""How far histories are in the store, for the partition of commands that they come from (fold.md rule 4)."""

from __future__ import annotations

from streams.kafka.materialised import EVERYTHING, offset_in_store
from streams.runtime.partition import Applied, Position

SOURCE = "commands/0@id"


def stored(*applied: Applied) -> Position:
    return Position(99, 0, applied=applied)


def test_rule_4_a_partition_is_as_far_as_the_slowest_of_those_that_lack_something() -> None:
    positions = {0: stored(Applied(SOURCE, 0, 40, 1)), 1: stored(Applied(SOURCE, 0, 12, 2))}
    assert offset_in_store(SOURCE, {0: (50, 0), 1: (60, 0)}, positions) == 11
    assert offset_in_store(SOURCE, {0: (50, 0), 1: (12, 2)}, positions) == 39


def test_rule_4_a_partition_that_has_all_it_was_sent_holds_nobody_up() -> None:
    positions = {0: stored(Applied(SOURCE, 0, 7, 0)), 1: stored(Applied(SOURCE, 0, 900_000, 3))}
    assert offset_in_store(SOURCE, {0: (7, 0), 1: (900_000, 3)}, positions) == EVERYTHING
    assert offset_in_store(SOURCE, {0: (7, 0), 1: (900_001, 0)}, positions) == 899_999
    assert offset_in_store(SOURCE, {}, {}) == EVERYTHING


def test_rule_4_one_record_of_an_offset_that_is_missing_keeps_the_offset() -> None:
    positions = {0: stored(Applied(SOURCE, 0, 7, 0))}
    assert offset_in_store(SOURCE, {0: (7, 1)}, positions) == 6


def test_rule_4_what_a_store_never_saw_keeps_everything() -> None:
    assert offset_in_store(SOURCE, {0: (7, 1)}, {}) == -1
    assert offset_in_store(SOURCE, {0: (7, 1)}, {0: stored(), 1: stored(Applied(SOURCE, 0, 99, 0))}) == -1
    assert offset_in_store(SOURCE, {0: (7, 1)}, {0: stored(Applied(SOURCE, 0, 0, 0))}) == -1


def test_rule_3_a_recreated_topic_is_another_source() -> None:
    positions = {0: stored(Applied("commands/0@former", 0, 3, 0), Applied(SOURCE, 0, 500, 0))}
    assert offset_in_store(SOURCE, {0: (500, 0)}, positions) == EVERYTHING
    assert offset_in_store("commands/0@newest", {0: (500, 0)}, positions) == -1
