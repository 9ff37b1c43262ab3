"""Entities and tables: undo, rows of a checkpoint, eviction and reload."""

from __future__ import annotations

import random
from typing import Any

import pytest

from streams import avro
from streams.bodies import NumberPair, Pair
from streams.runtime.tables import Entity, Table, TableSpec
from tests.support.memory import MemoryStore

SPEC = TableSpec(name="things", kinds={"a": NumberPair, "b": Pair})


def number(value: int) -> NumberPair:
    return NumberPair("n", value)


def commit(table: Table, store: MemoryStore) -> list[Any]:
    rows = table.freeze()
    store.commit(0, rows, "p", [])
    table.written()
    return rows


def test_a_failed_step_is_undone_and_observed() -> None:
    entity = Entity("k")
    entity.put("a", "1", number(1))
    entity.keep()
    seen: dict[tuple[str, str], Any] = {("a", "1"): number(1)}

    def observe(kind: str, id: str, value: Any) -> None:
        if value is None:
            seen.pop((kind, id), None)
        else:
            seen[kind, id] = value

    entity.observer = observe
    entity.put("a", "1", number(2))
    entity.put("a", "2", number(3))
    entity.drop("a", "1")
    entity.put("b", "", Pair("x", "y"))
    entity.drop("b")
    assert [(kind, id) for kind, id, _ in entity.all_parts()] == [("a", "2")]
    entity.revert()
    assert list(entity.all_parts()) == [("a", "1", number(1))]
    assert seen == {("a", "1"): number(1)}
    assert not entity.keep(), "nothing is left to keep"


def test_a_checkpoint_has_what_changed_and_no_more() -> None:
    store = MemoryStore()
    table = Table(SPEC, 0, store)
    entity = table.entity("k")
    for id in ("1", "2", "3"):
        entity.put("a", id, number(int(id)))
    entity.put("b", "", Pair("x", "y"))
    entity.drop("b")
    table.keep()
    table.entity("untouched")
    table.keep()
    assert table.dirty_count == 1
    rows = commit(table, store)
    assert rows == [("things", "k", "a", id, avro.encode(number(int(id)))) for id in "123"]
    entity = table.entity("k")
    entity.drop("a", "2")
    table.keep()
    assert commit(table, store) == [("things", "k", "a", "2", None)]
    assert commit(table, store) == []


def test_what_is_dropped_is_loaded_no_more() -> None:
    store = MemoryStore()
    table = Table(SPEC, 0, store, cache_parts=0)
    table.entity("k").put("a", "1", number(1))
    table.keep()
    commit(table, store)
    table.entity("k").clear()
    table.keep()
    commit(table, store)
    assert store.rows == {}
    assert table.entity("k").empty


def test_changes_made_while_a_checkpoint_is_written_are_in_the_next() -> None:
    store = MemoryStore()
    table = Table(SPEC, 0, store, cache_parts=0)
    table.entity("k").put("a", "1", number(1))
    table.keep()
    frozen = table.freeze()
    table.entity("k").put("a", "1", number(2))
    table.entity("new").put("a", "1", number(3))
    table.keep()
    assert frozen == [("things", "k", "a", "1", avro.encode(number(1)))]
    store.commit(0, frozen, "p", [])
    table.written()
    assert table.entity("k").get("a", "1") == number(2), "changed since, so it may not leave memory"
    assert [row[4] for row in commit(table, store)] == [avro.encode(number(2)), avro.encode(number(3))]


def test_keys_are_those_of_now() -> None:
    store = MemoryStore()
    table = Table(SPEC, 0, store, cache_parts=0)
    for key in ("x/1", "x/2", "y/1"):
        table.entity(key).put("a", "", number(1))
    table.keep()
    commit(table, store)
    table.entity("x/1").clear()
    table.entity("x/3").put("a", "", number(1))
    assert table.keys("x/") == ["x/2", "x/3"]
    table.keep()
    assert table.keys("x/") == ["x/2", "x/3"]
    frozen = table.freeze()
    assert table.keys("x/") == ["x/2", "x/3"]
    store.commit(0, frozen, "p", [])
    table.written()
    assert table.keys("") == ["x/2", "x/3", "y/1"]


@pytest.mark.parametrize("cache_parts", [0, 7, 10_000])
def test_random_changes_survive_eviction(cache_parts: int) -> None:
    """Against a plain dict: steps kept or undone, checkpoints that take a while, a cache of any size."""
    chance = random.Random(cache_parts)
    store = MemoryStore()
    table = Table(SPEC, 0, store, cache_parts=cache_parts)
    model: dict[tuple[str, str], int] = {}
    frozen: list[Any] | None = None
    for i in range(3_000):
        step = dict(model)
        for _ in range(chance.randrange(1, 4)):
            key, id = f"k{chance.randrange(12)}", str(chance.randrange(4))
            if chance.random() < 0.6:
                table.entity(key).put("a", id, number(i))
                step[key, id] = i
            else:
                table.entity(key).drop("a", id)
                step.pop((key, id), None)
        if chance.random() < 0.2:
            table.revert()
        else:
            table.keep()
            model = step
        if chance.random() < 0.1:
            if frozen is None:
                frozen = table.freeze()
            else:
                store.commit(0, frozen, "p", [])
                table.written()
                frozen = None
    found = {(key, id): part.value for key in table.keys("") for _, id, part in table.entity(key).all_parts()}
    assert found == model
