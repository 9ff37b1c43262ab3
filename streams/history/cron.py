"""Cron schedules: when a run's first workflow task is due, and when the next run follows.

Behaviour: the real server's backoff package; schedules are parsed by croniter. `@every D` counts from the start.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter
from temporalio.api.enums.v1 import ContinueAsNewInitiator
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
)

from streams.history.values import duration_ms

CRON_INITIATOR = ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE

_EVERY = re.compile(r"@every\s+((?:\d+(?:\.\d+)?(?:h|ms|m|s))+)$")
_UNIT_MS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_NAMED = {"@midnight": "@daily", "@annually": "@yearly"}


class InvalidScheduleError(ValueError):
    """A text that is no cron schedule."""


class _Schedule:
    """A parsed schedule: `every_ms` for `@every`, else `expression` in `zone`."""

    def __init__(self, text: str) -> None:
        self.every_ms = 0
        self.zone: tzinfo = UTC
        rest = text.strip()
        match = re.match(r"(?:CRON_TZ|TZ)=(\S+)\s+(.*)$", rest)
        if match:
            try:
                self.zone = ZoneInfo(match.group(1))
            except (ZoneInfoNotFoundError, ValueError) as error:
                raise InvalidScheduleError(f"unknown time zone {match.group(1)}") from error
            rest = match.group(2)
        every = _EVERY.match(rest)
        if every:
            parts = re.findall(r"(\d+)(?:\.(\d+))?(h|ms|m|s)", every.group(1))
            total = sum(_scaled(whole, fraction, _UNIT_MS[unit]) for whole, fraction, unit in parts)
            self.every_ms = max(total // 1000 * 1000, 1000)
            return
        self.expression = _NAMED.get(rest, rest)
        if not self.expression.startswith("@") and len(self.expression.split()) != 5:
            raise InvalidScheduleError(f"expected exactly 5 fields, found {len(rest.split())}: [{rest}]")
        try:
            croniter(self.expression, datetime(2020, 1, 1, tzinfo=UTC))
        except (ValueError, KeyError) as error:
            raise InvalidScheduleError(str(error)) from error


def _scaled(whole: str, fraction: str, unit_ms: int) -> int:
    digits = int(whole + fraction)
    return int(digits * unit_ms // 10 ** len(fraction))


@lru_cache(maxsize=1_000)
def parse(text: str) -> _Schedule:
    """Parse a schedule. Raises InvalidScheduleError."""
    return _Schedule(text)


def next_ms(text: str, scheduled_ms: int, now_ms: int) -> int:
    """When a schedule is next due: after `scheduled_ms` and not before `now_ms`; 0 when never. In ms since 1970."""
    schedule = parse(text)
    if schedule.every_ms:
        whole_ms = scheduled_ms // 1000 * 1000
        periods = max(-(-(now_ms - whole_ms) // schedule.every_ms), 1)
        return whole_ms + periods * schedule.every_ms
    base_s = max(scheduled_ms // 1000, -(-now_ms // 1000) - 1)
    base = datetime.fromtimestamp(base_s, tz=UTC).astimezone(schedule.zone)
    try:
        following = croniter(schedule.expression, base).get_next(datetime)
    except (ValueError, KeyError):
        return 0
    return int(following.timestamp()) * 1000


def backoff_ms(text: str, scheduled_ms: int, now_ms: int) -> int:
    """How long after `now_ms` a run follows one scheduled at `scheduled_ms`, in ms, up to a whole second; -1: never."""
    due_ms = scheduled_ms if now_ms < scheduled_ms else next_ms(text, scheduled_ms, now_ms)
    if not due_ms:
        return -1
    return -(-(due_ms - now_ms) // 1000) * 1000


def first_backoff_ms(
    request: StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest, now_ms: int
) -> int:
    """How long a new run's first workflow task is held back: by its start delay and by its schedule."""
    delay_ms = duration_ms(request.workflow_start_delay)
    if request.cron_schedule:
        return max(backoff_ms(request.cron_schedule, now_ms, now_ms), 0)
    return delay_ms
