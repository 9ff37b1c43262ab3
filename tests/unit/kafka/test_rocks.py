"""The local store of a partition holds what checkpoints say, packed or not, and says whether it may be used."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from streams.kafka import keys, packing
from streams.kafka.rocks import Head, PartitionStore, open_store
from streams.runtime import checkpoints
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.local_store import LocalHead
from streams.runtime.partition import Position
from streams.runtime.tables import Row, StorageError
from tests.support.memory import MemoryStore

CACHE_BYTES = 1024 * 1024
HEAD = Head(LocalHead("topic-id", 7, 1_000), 3)
NAME = "commands/0"


@pytest.fixture
def store(tmp_path: Path) -> PartitionStore:
    return open_store(tmp_path / "p", CACHE_BYTES, lambda head: "")


def _checkpoint(rows: list[Row], dues: list[tuple[str, int | None, int]] | None = None) -> Checkpoint:
    return Checkpoint(Position(offset=1, now_ms=1), tuple(rows), tuple(dues or ()))


def _write(store: PartitionStore, memory: MemoryStore, checkpoint: Checkpoint) -> Checkpoint:
    written = packing.pack(checkpoint, store.parts)
    store.apply(keys.changes(written), HEAD)
    memory.commit(0, checkpoint.rows, NAME, checkpoint.dues)
    return written


def test_what_random_checkpoints_write_is_what_is_read(store: PartitionStore) -> None:
    rng = random.Random(7)
    memory = MemoryStore()
    entities = ["a", "a/b", "a/bc", "a\0b", "ä", ""]
    for _ in range(100):
        rows: dict[tuple[str, str, str, str], bytes | None] = {}
        for _ in range(rng.randint(1, 20)):
            table, key = rng.choice(("t", "t2")), rng.choice(entities)
            kind, id = rng.choice(("k", "kind")), str(rng.randint(0, 40))
            there = (kind, id) in memory.rows.get((table, 0, key), {})
            value = rng.randbytes(rng.choice((0, 10, 900)))
            rows[table, key, kind, id] = None if there and rng.random() < 0.5 else value
        dues = {rng.choice(entities): rng.choice((None, rng.randint(0, 1_000))) for _ in range(3)}
        checkpoint = _checkpoint(
            [(*place, value) for place, value in rows.items()], [(key, due, 5) for key, due in dues.items()]
        )
        _write(store, memory, checkpoint)
        for table in ("t", "t2"):
            for prefix in ("", "a", "a/", "a/b", "b"):
                assert store.keys(table, 0, prefix) == memory.keys(table, 0, prefix)
            for key in entities:
                assert sorted(store.load(table, 0, key)) == memory.load(table, 0, key)
        assert store.load_due(NAME, 100, 700) == sorted(
            memory.load_due(NAME, 100, 700), key=lambda row: (row[1], row[0])
        )
        assert [store.due_row(NAME, key) for key in entities] == [
            memory.due_row(NAME, key) for key in entities
        ]


def test_a_small_entity_is_one_row_and_a_big_one_has_rows_of_its_own(store: PartitionStore) -> None:
    memory = MemoryStore()
    small = _write(store, memory, _checkpoint([("t", "e", "k", str(n), b"v") for n in range(3)]))
    assert [row[:4] for row in small.rows] == [("t", "e", "", "")]
    grown = _write(store, memory, _checkpoint([("t", "e", "k", "big", bytes(packing.PACK_BYTES))]))
    assert [row[2:] for row in grown.rows] == [
        ("", "", packing.APART),
        *(("k", str(n), b"v") for n in range(3)),
        ("k", "big", bytes(packing.PACK_BYTES)),
    ]
    changed = _write(store, memory, _checkpoint([("t", "e", "k", "1", b"w")]))
    assert changed.rows == (("t", "e", "k", "1", b"w"),)
    shrunk = _write(store, memory, _checkpoint([("t", "e", "k", "big", None)]))
    assert sorted(row[2:4] for row in shrunk.rows if row[4] is None) == [
        ("k", "0"),
        ("k", "1"),
        ("k", "2"),
        ("k", "big"),
    ]
    gone = _write(store, memory, _checkpoint([("t", "e", "k", str(n), None) for n in range(3)]))
    assert gone.rows == (("t", "e", "", "", None),)
    assert list(store.contents()) == []


def test_a_position_counts_the_rows_that_are_written(store: PartitionStore) -> None:
    written = packing.pack(
        _checkpoint([("t", "e", "k", str(n), b"v") for n in range(3)], [("e", 5, 1)]), store.parts
    )
    assert written.position.row_count == 2
    assert written.position.checksum == checkpoints.checksum(written.rows, written.dues)


def test_it_says_what_it_holds(store: PartitionStore) -> None:
    assert store.head() is None
    store.apply([], HEAD)
    assert store.head() == HEAD


def test_what_is_not_logged_survives_a_crash_once_it_was_flushed(
    store: PartitionStore, tmp_path: Path
) -> None:
    def after_a_crash(name: str) -> PartitionStore:
        return PartitionStore(Path(shutil.copytree(store.path, tmp_path / name)), CACHE_BYTES)

    row = keys.due_key("a")
    store.apply([(row, keys.due_value(1, 0))], HEAD)
    store.apply([(row, keys.due_value(2, 0))], Head(LocalHead("topic-id", 8, 1_000), 3), logged=False)
    before = after_a_crash("before")
    assert before.due_row(NAME, "a") == (1, 0)
    assert before.head() == HEAD
    store.flush()
    store.apply([], Head(LocalHead("topic-id", 9, 1_000), 3))
    after = after_a_crash("after")
    assert after.due_row(NAME, "a") == (2, 0)
    assert after.head() == Head(LocalHead("topic-id", 9, 1_000), 3)


def test_the_newest_store_that_nobody_holds_is_opened_and_the_others_go(tmp_path: Path) -> None:
    held = open_store(tmp_path, CACHE_BYTES, lambda head: "")
    held.apply([], HEAD)
    second = open_store(tmp_path, CACHE_BYTES, lambda head: "")
    assert second.path != held.path
    second.apply([(keys.row_key("t", "k", "", ""), packing.packed({("a", ""): b"v"}))], HEAD)
    second.close()
    held.close()
    third = open_store(tmp_path, CACHE_BYTES, lambda head: "")
    assert third.path == second.path
    assert third.load("t", 0, "k") == [("a", "", b"v")]
    assert list(tmp_path.iterdir()) == [third.path]


def test_a_store_that_may_not_be_used_is_wiped(tmp_path: Path) -> None:
    store = open_store(tmp_path, CACHE_BYTES, lambda head: "")
    store.apply([], HEAD)
    store.close()
    seen: list[LocalHead] = []
    fresh = open_store(tmp_path, CACHE_BYTES, lambda head: seen.append(head) or "it is old")
    assert seen == [HEAD.local]
    assert fresh.head() is None
    assert list(tmp_path.iterdir()) == [fresh.path]


def test_a_store_that_says_nothing_of_itself_or_is_no_store_is_wiped(tmp_path: Path) -> None:
    open_store(tmp_path, CACHE_BYTES, lambda head: "").close()
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "CURRENT").write_text("nonsense")
    fresh = open_store(tmp_path, CACHE_BYTES, lambda head: "")
    assert list(tmp_path.iterdir()) == [fresh.path]


def test_failures_are_storage_errors(store: PartitionStore) -> None:
    store.close()
    with pytest.raises(StorageError, match="failed"):
        store.load("t", 0, "k")


def test_keys_are_taken_apart_as_they_were_put_together() -> None:
    for parts in (("t", "a\0b", "", "x"), ("", "", "", ""), ("t", "a\0\1", "\0", "\1")):
        assert tuple(keys.parts(keys.row_key(*parts))) == parts
    ordered = ["", "\0", "\0\1", "\1", "a", "a\0", "a\1", "ab", "ä"]
    assert sorted(ordered, key=keys.part) == ordered
