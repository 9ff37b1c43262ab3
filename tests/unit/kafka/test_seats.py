"""When a consumer is sent back: to records that it left out, and to those that do not come."""

from streams.kafka.seats import GAP_LIMIT, STALLED_LOOKS, Seat


def _seat() -> Seat:
    return Seat("timer", 0, None)


def test_records_left_out_are_asked_for_so_often_and_no_more() -> None:
    seat = _seat()
    assert all(seat.note_gap(5) for _ in range(GAP_LIMIT))
    assert seat.seek_to == 5
    assert not seat.note_gap(5)


def test_another_gap_is_counted_anew() -> None:
    seat = _seat()
    for offset in range(10):
        assert all(seat.note_gap(offset) for _ in range(GAP_LIMIT))


def test_records_that_do_not_come_are_asked_for_again() -> None:
    seat = _seat()
    for _ in range(STALLED_LOOKS):
        seat.note_end(5, 6)
        assert seat.seek_to is None
    seat.note_end(5, 6)
    assert seat.seek_to == 5


def test_nobody_waits_at_the_end_nor_while_records_come_or_are_held() -> None:
    seat = _seat()
    for look in range(4 * STALLED_LOOKS):
        seat.note_end(5, 5)
        seat.note_end(6 + look, 100)
    seat.held = True
    for _ in range(2 * STALLED_LOOKS):
        seat.note_end(5, 6)
    assert seat.seek_to is None
