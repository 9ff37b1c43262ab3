"""Bursts are gathered where many records come or many calls wait, and nowhere else."""

from __future__ import annotations

import pytest

from streams.kafka import pace
from streams.kafka.pace import LONG_S, WINDOW_S, Calls, Pace


class Clock:
    """Stands for `time.monotonic`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def _come(clock: Clock, meter: Pace, at_a_time: int, every_s: float) -> None:
    """Let records come for longer than a window."""
    until_s = clock.now_s + 1.5 * WINDOW_S
    while clock.now_s < until_s:
        clock.now_s += every_s
        meter.note(at_a_time)


def test_many_records_a_second_make_a_burst_worth_its_wait(clock: Clock) -> None:
    meter = Pace(100)
    _come(clock, meter, 3, 0.01)
    assert meter.busy


def test_few_records_wait_for_nothing_however_many_came_before(clock: Clock) -> None:
    meter = Pace(100)
    _come(clock, meter, 3, 0.01)
    _come(clock, meter, 3, 0.05)
    assert not meter.busy


def test_calls_count_until_their_reply_or_until_they_are_long(clock: Clock) -> None:
    calls = Calls()
    calls.begin(1)
    clock.now_s += LONG_S / 2
    calls.begin(2)
    calls.begin(3)
    assert calls.count() == 3
    calls.end(2)
    calls.end(2)
    assert calls.count() == 2
    clock.now_s += LONG_S * 0.6
    assert calls.count() == 1
    clock.now_s += LONG_S
    assert calls.count() == 0
