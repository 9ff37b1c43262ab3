"""The due index: order, replacement, and a horizon that moves with time."""

from __future__ import annotations

import random

import pytest

from streams.runtime.due import DueIndex, DueRow
from tests.support.memory import MemoryStore

WINDOW_MS = 100


def index(store: MemoryStore | None = None) -> DueIndex:
    return DueIndex("p", store or MemoryStore(), WINDOW_MS)


def commit(due: DueIndex, store: MemoryStore) -> None:
    store.commit(0, [], "p", due.freeze())
    due.written()


def test_pops_in_order_of_time_then_key_and_within_the_limit() -> None:
    due = index()
    for key, due_ms in (("c", 5), ("b", 7), ("a", 7), ("d", 8)):
        due.set(key, due_ms, len(key))
    assert due.pop_due(7, 2) == [("c", 5, 1), ("a", 7, 1)]
    assert due.pop_due(7, 2) == [("b", 7, 1)]
    assert due.pop_due(7, 2) == []


def test_the_last_word_counts() -> None:
    due = index()
    due.pop_due(0, 1)
    due.set("a", 5, 1)
    due.set("a", 9, 2)
    due.set("b", 9, 1)
    due.set("b", 5, 2)
    due.set("c", 5, 1)
    due.cancel("c")
    due.set("d", 5, 1)
    due.set("d", 5_000, 2)
    due.set("e", 5_000, 1)
    due.set("e", 5, 2)
    assert due.pop_due(5, 10) == [("b", 5, 2), ("e", 5, 2)]
    assert due.pop_due(9, 10) == [("a", 9, 2)]
    assert due.get("d") == (5_000, 2)


def test_what_lies_past_the_horizon_is_found_when_it_comes_near() -> None:
    store = MemoryStore()
    due = index(store)
    due.pop_due(0, 1)
    for key, due_ms in (("near", 50), ("far", 150), ("farther", 1_000)):
        due.set(key, due_ms, 0)
    commit(due, store)
    assert due.next_due_ms() == 50
    assert due.pop_due(50, 9) == [("near", 50, 0)]
    assert due.next_due_ms() == 101, "just past the horizon"
    assert due.pop_due(101, 9) == []
    assert due.next_due_ms() == 150
    assert due.get("farther") == (1_000, 0), "asked of the store"
    assert due.pop_due(999, 9) == [("far", 150, 0)]
    assert due.pop_due(1_000, 9) == [("farther", 1_000, 0)]


def test_the_next_due_time_always_moves_on() -> None:
    due = index()
    seen = []
    for _ in range(5):
        seen.append(due.next_due_ms())
        due.pop_due(seen[-1], 10)
    assert seen == [0, 101, 202, 303, 404]


def test_what_was_changed_since_it_was_stored_is_not_found_as_stored() -> None:
    store = MemoryStore()
    due = index(store)
    for key in ("moved", "cancelled", "later", "popped"):
        due.set(key, 150 if key != "popped" else 10, 1)
    commit(due, store)
    assert due.pop_due(10, 9) == [("popped", 10, 1)]
    due.set("moved", 160, 2)
    due.cancel("cancelled")
    due.set("later", 10_000, 2)
    assert due.get("popped") is None
    assert due.get("cancelled") is None
    rows = due.freeze()
    assert rows == [("cancelled", None, 0), ("later", 10_000, 2), ("moved", 160, 2), ("popped", None, 0)]
    assert due.pop_due(200, 9) == [("moved", 160, 2)], "while the rows are being written"
    store.commit(0, [], "p", rows)
    due.written()
    commit(due, store)
    assert store.dues["p"] == {"later": (10_000, 2)}


@pytest.mark.parametrize("seed", range(30))
def test_agrees_with_a_plain_dict_whatever_is_stored_and_restarted(seed: int) -> None:
    chance = random.Random(seed)
    store = MemoryStore()
    due = index(store)
    model: dict[str, tuple[int, int]] = {}
    now_ms = 0
    writing: list[DueRow] | None = None
    for i in range(400):
        pick = chance.random()
        key = f"k{chance.randrange(30)}"
        if pick < 0.4:
            model[key] = (now_ms + chance.randrange(1, 400), i)
            due.set(key, *model[key])
        elif pick < 0.5:
            model.pop(key, None)
            due.cancel(key)
        elif pick < 0.8:
            now_ms += chance.randrange(0, 60)
            limit = chance.choice((1, 3, 100))
            ready = sorted((at, key, payload) for key, (at, payload) in model.items() if at <= now_ms)[:limit]
            assert due.pop_due(now_ms, limit) == [(key, at, payload) for at, key, payload in ready]
            for _, popped, _ in ready:
                del model[popped]
        elif pick < 0.9:
            if writing is None:
                writing = due.freeze()
            else:
                store.commit(0, [], "p", writing)
                due.written()
                writing = None
        elif pick < 0.93 and writing is None:
            commit(due, store)
            due = index(store)
        else:
            assert due.get(key) == model.get(key)
    earliest = min((at for at, _ in model.values()), default=None)
    assert earliest is None or due.next_due_ms() <= max(earliest, now_ms + WINDOW_MS + 1)


def test_what_came_and_went_between_two_checkpoints_leaves_no_row() -> None:
    store = MemoryStore()
    due = index(store)
    due.set("kept", 5, 0)
    commit(due, store)
    due.set("brief", 5, 0)
    due.cancel("brief")
    due.cancel("kept")
    assert due.freeze() == [("kept", None, 0)]
