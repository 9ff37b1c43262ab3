"""Cron schedules: when a run follows another."""

from __future__ import annotations

import pytest

from streams.history import cron

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("schedule", "scheduled_ms", "now_ms", "backoff_ms"),
    [
        ("@every 1s", 10_900, 10_905, 1_000),
        ("@every 1s", 10_999, 11_003, 1_000),
        ("@every 5s", 10_999, 12_000, 3_000),
        ("@every 5s", 10_000, 31_000, 4_000),
        ("@every 5s", 10_000, 5_000, 5_000),
        ("0 0 * * *", DAY_MS, DAY_MS + 1, DAY_MS),
        ("0 0 31 2 *", DAY_MS, DAY_MS, -1),
    ],
)
def test_backoffs_are_whole_seconds_up_to_the_next_due_time(
    schedule: str, scheduled_ms: int, now_ms: int, backoff_ms: int
) -> None:
    assert cron.backoff_ms(schedule, scheduled_ms, now_ms) == backoff_ms
