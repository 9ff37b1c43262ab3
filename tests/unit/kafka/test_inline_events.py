"""Events beside replies: the newest of each run, never with a gap, never more than the limits."""

from streams.kafka.inline_events import EVENT_BYTES, InlineEvents


def _events(first: int, last: int) -> list[bytes]:
    return [b"%d" % event_id for event_id in range(first, last + 1)]


def test_a_run_grows_with_what_follows_and_keeps_what_comes_twice() -> None:
    inline = InlineEvents()
    inline.add("run", 1, _events(1, 3))
    inline.add("run", 2, _events(2, 5))
    inline.add("run", 4, _events(4, 4))
    assert inline.get("run", 1, 5) == (1, _events(1, 5))
    assert inline.get("run", 4, 9) == (4, _events(4, 5))
    assert inline.size_bytes == 5 * (1 + EVENT_BYTES)


def test_what_is_not_there_is_said_to_begin_behind_what_was_asked_for() -> None:
    inline = InlineEvents()
    assert inline.get("run", 1, 5) == (6, [])
    inline.add("run", 3, _events(3, 4))
    assert inline.get("run", 1, 2) == (3, [])
    assert inline.get("run", 5, 6) == (7, [])
    assert inline.get("run", 1, 6) == (3, _events(3, 4))


def test_behind_a_gap_only_the_newer_events_stay() -> None:
    inline = InlineEvents()
    inline.add("run", 1, _events(1, 2))
    inline.add("run", 5, _events(5, 6))
    assert inline.get("run", 1, 6) == (5, _events(5, 6))
    inline.add("run", 1, _events(1, 2))
    assert inline.get("run", 1, 6) == (5, _events(5, 6))
    assert inline.size_bytes == 2 * (1 + EVENT_BYTES)


def test_earlier_events_that_come_later_join_what_is_there() -> None:
    inline = InlineEvents()
    inline.add("run", 4, _events(4, 6))
    inline.add("run", 2, _events(2, 4))
    assert inline.get("run", 1, 6) == (2, _events(2, 6))
    assert inline.size_bytes == 5 * (1 + EVENT_BYTES)


def test_long_runs_lose_their_oldest_events_and_runs_unheard_of_go_first() -> None:
    size = 1 + EVENT_BYTES
    inline = InlineEvents(run_bytes=3 * size, total_bytes=5 * size)
    inline.add("long", 1, _events(1, 5))
    assert inline.get("long", 1, 5) == (3, _events(3, 5))
    inline.add("other", 1, _events(1, 2))
    inline.add("long", 6, _events(6, 6))
    inline.add("third", 1, _events(1, 1))
    assert inline.get("other", 1, 2) == (3, [])
    assert inline.get("long", 1, 6) == (4, _events(4, 6))
    assert inline.size_bytes == 4 * size
