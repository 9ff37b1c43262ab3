"""What the matching processor keeps: its tables and the parts of a task queue."""

from __future__ import annotations

import msgspec

from streams.bodies import AddTask, GatewayLease, NumberPair, Poll
from streams.limits import Limits, key_of, limits_to_numbers
from streams.runtime.tables import TableSpec

TASK = "task"
ASKED = "asked"
POLL = "poll"
ENDED = "ended"
POLLER = "poller"
TALLY = "tally"
PACE = "pace"
LEASE = "lease"
BLOCKED = "blocked"
LIMIT = "limit"

POLLERS_LIMIT = 1_000
"""Workers remembered per queue; beyond that the one seen longest ago is forgotten."""

ENDED_LIMIT = 1_000
"""Cancelled polls remembered per queue while they may still come back from history."""

ENDED_MS = 120_000
"""How long a cancelled poll is remembered: longer than any poll waits."""

HAND_BACK_LIMIT = 1_000
"""Tasks of a sticky queue handed back in one step; the rest follow with the next ticks."""

STICKY_WINDOW_MS = 10_000
"""A sticky queue whose worker did not poll for this long hands its tasks back.

Source: stickyPollerUnavailableWindow of the real server's matching engine.
"""

LAPSE_GRAIN_MS = 100
"""Polls lapse up to this late, so that many of them share a tick."""

NO_POLLER_ROOM_MS = 1_000
"""How long before its deadline a query that nobody polls for is answered with that.

Source: returnEmptyTaskTimeBudget of the real server's matching engine.
"""

WAITING_POLLS_KEY = key_of("waiting_polls_per_queue")
IDLE_KEY = key_of("task_queue_idle_ms")
QUERY_WINDOW_KEY = key_of("query_poller_window_ms")
DEFAULT_LIMITS = {
    key: number
    for key, number in limits_to_numbers(Limits()).items()
    if key in (WAITING_POLLS_KEY, IDLE_KEY, QUERY_WINDOW_KEY)
}
"""Limits in force until a LimitsChanged record says otherwise: a count a queue, and ms."""


class QueuedTask(msgspec.Struct, frozen=True):
    """A task in a backlog; the part's id is its place in line."""

    added_ms: int
    task: AddTask


class AskedQuery(msgspec.Struct, frozen=True):
    """Who asks the query whose task has this place in line, and when it is to be known that a worker polls."""

    query_id: str
    due_ms: int
    gateway: str
    epoch: int
    call_id: int


class EndedPoll(msgspec.Struct, frozen=True):
    """A poll cancelled while it was out at history: it is not to wait again."""

    until_ms: int


class Poller(msgspec.Struct, frozen=True):
    """A worker by identity: when it was last here, to the second, and the request it polled with.

    `rate_uhz` is the dispatch rate it asked for, in tasks per million seconds; -1 when it asked for none.
    """

    last_ms: int
    rate_uhz: int
    request: bytes


class Tally(msgspec.Struct, frozen=True):
    """Tasks counted in buckets of 5 s, the newest first; `bucket_ms` is where the newest starts."""

    start_ms: int
    bucket_ms: int
    counts: tuple[int, ...]


class Pace(msgspec.Struct, frozen=True):
    """The dispatch rate workers asked for, and the time up to which it is used up."""

    rate_uhz: int
    used_us: int


class BlockedQueue(msgspec.Struct, frozen=True):
    """A queue that had a task for a poll of a gateway whose lease had lapsed."""

    since_ms: int


QUEUES = TableSpec(
    name="queues",
    kinds={
        TASK: QueuedTask,
        ASKED: AskedQuery,
        POLL: Poll,
        ENDED: EndedPoll,
        POLLER: Poller,
        TALLY: Tally,
        PACE: Pace,
    },
)
"""One entity a queue partition, under the key of its records."""

GATEWAYS = TableSpec(name="gateways", kinds={LEASE: GatewayLease, BLOCKED: BlockedQueue})
"""One entity a gateway that this partition has heard of."""

LIMITS = TableSpec(name="limits", kinds={LIMIT: NumberPair})
"""A single entity, under an empty key: the limits in force."""
