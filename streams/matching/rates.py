"""How fast tasks come and go: counted for describe, and held to what workers asked for.

Integer arithmetic throughout; only the rate shown to a client is a float.
"""

from __future__ import annotations

from streams.matching.state import Pace, Tally

BUCKET_MS = 5_000
BUCKETS = 7
SPAN_MS = 30_000

NO_RATE = -1
UNLIMITED_UHZ = 100_000 * 1_000_000
"""A rate at or above this is none: the real server's default for a worker that asks for nothing."""

NEVER = 1 << 62

_NO_COUNTS = (0,) * BUCKETS


def counted(tally: Tally | None, now_ms: int) -> Tally:
    """The tally with one task more."""
    if tally is None:
        return Tally(now_ms, now_ms, (1, *_NO_COUNTS[1:]))
    tally = _advanced(tally, now_ms)
    counts = tally.counts
    return Tally(tally.start_ms, tally.bucket_ms, (counts[0] + 1, *counts[1:]))


def per_second(tally: Tally | None, now_ms: int) -> float:
    """Tasks a second over the last 30 s, or since the first task when that is nearer."""
    if tally is None:
        return 0.0
    tally = _advanced(tally, now_ms)
    elapsed_ms = min(now_ms - tally.bucket_ms + SPAN_MS, now_ms - tally.start_ms)
    return sum(tally.counts) * 1000 / elapsed_ms if elapsed_ms > 0 else 0.0


def _advanced(tally: Tally, now_ms: int) -> Tally:
    steps = (now_ms - tally.bucket_ms) // BUCKET_MS
    if steps == 0:
        return tally
    counts = (_NO_COUNTS[:steps] + tally.counts)[:BUCKETS]
    return Tally(tally.start_ms, tally.bucket_ms + steps * BUCKET_MS, counts)


def rate_uhz(per_second: float) -> int:
    """A rate from a request, in tasks per million seconds; NO_RATE when it asks for no limit."""
    if not per_second < UNLIMITED_UHZ / 1_000_000:
        return NO_RATE
    return max(0, round(per_second * 1_000_000))


def ready_ms(pace: Pace | None, now_ms: int) -> int:
    """When the next task may go out: `now_ms` when at once, NEVER at a rate of zero.

    A second's worth of tasks, but at least one, may go out together, as the real server's limiter allows.
    """
    if pace is None:
        return now_ms
    if pace.rate_uhz == 0:
        return NEVER
    interval_us = _interval_us(pace)
    burst = max(1, -(-pace.rate_uhz // 1_000_000))
    from_us = pace.used_us - (burst - 1) * interval_us
    return max(now_ms, -(-from_us // 1000))


def used(pace: Pace, now_ms: int) -> Pace:
    """The pace after one task more went out."""
    return Pace(pace.rate_uhz, max(pace.used_us, now_ms * 1000) + _interval_us(pace))


def _interval_us(pace: Pace) -> int:
    return 1_000_000_000_000 // pace.rate_uhz
