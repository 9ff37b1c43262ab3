"""One task queue during one step: what its records do to it."""

from __future__ import annotations

import msgspec
from temporalio.api.enums.v1 import ResourceExhaustedCause, ResourceExhaustedScope
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest

from streams.bodies import (
    ACTIVITY_TASK,
    AddTask,
    GatewayLease,
    NumberPair,
    Poll,
    StartTask,
    StickyUnavailable,
)
from streams.history.errors import FAILED_PRECONDITION, RESOURCE_EXHAUSTED, Rejected
from streams.matching import leases, rates
from streams.matching.rates import NEVER
from streams.matching.state import (
    ASKED,
    DEFAULT_LIMITS,
    ENDED,
    ENDED_LIMIT,
    ENDED_MS,
    HAND_BACK_LIMIT,
    IDLE_KEY,
    LAPSE_GRAIN_MS,
    LIMIT,
    LIMITS,
    NO_POLLER_ROOM_MS,
    PACE,
    POLL,
    POLLER,
    POLLERS_LIMIT,
    QUERY_WINDOW_KEY,
    QUEUES,
    STICKY_WINDOW_MS,
    TALLY,
    TASK,
    WAITING_POLLS_KEY,
    AskedQuery,
    EndedPoll,
    Pace,
    Poller,
    QueuedTask,
)
from streams.matching.view import PollName, QueueView, place_after, place_before, view_of
from streams.runtime.context import Context
from streams.runtime.records import Correlation, Reply
from streams.topology import COMMANDS, workflow_key

ADDED = "added"
DISPATCHED = "dispatched"

SPARE_TASKS = 3
"""The logic version from which a poll may take more tasks than one (decision 0016)."""

SPARE = -1
"""`Poll.spares` of a poll that was made for such a task."""

_POLLER_GRAIN_MS = 1_000
_EMPTY = Reply()
_NO_POLLER = Rejected(FAILED_PRECONDITION, "no poller seen for task queue recently, worker may be down")


class Queue:
    """A queue partition and everything that may happen to it. `finish` ends what a step does with it.

    Between steps no task waits beside a poll that may take it: of a living gateway, at the pace asked for.
    """

    __slots__ = ("_wanted_ms", "context", "entity", "key", "view")

    def __init__(self, context: Context, key: str) -> None:
        self.context = context
        self.key = key
        self.entity = context.table(QUEUES.name).entity(key)
        view: QueueView | None = self.entity.view
        self.view = view_of(self.entity, context.due_at(key)) if view is None else view
        self._wanted_ms = NEVER

    # --- what records do ---

    def add(self, task: AddTask, caller: Correlation | None = None) -> None:
        """A task arrives: it goes to the oldest waiting poll, or waits; a sticky one may go back at once.

        `caller` waits for the query that the task brings.
        """
        now_ms = self.context.now_ms
        if 0 < task.expires_ms <= now_ms:
            return
        if self.view.polls and not self.view.tasks and self._ready_ms() <= now_ms:
            poll = self._take_poll()
            if poll is not None:
                self._count_added(task)
                self._dispatch(task, poll)
                return
        if task.sticky and not self._recently_polled(STICKY_WINDOW_MS):
            self._hand_back(task)
            return
        self._count_added(task)
        place = self._put_in_line(task)
        if caller is not None:
            self._ask(place, task, caller)
        if self.view.polls:
            self._drain()
        if task.sticky:
            self._want(self._last_polled_ms() + STICKY_WINDOW_MS)

    def enqueue(self, task: AddTask) -> None:
        """Put a task in line; a tick of its own pairs it with a poll that waits, which may fail by itself."""
        self._put_in_line(task)
        self._want(self.context.now_ms)

    def _put_in_line(self, task: AddTask) -> str:
        place = self.view.tasks.place_for(task)
        self.entity.put(TASK, place, QueuedTask(self.context.now_ms, task))
        return place

    def poll(self, poll: Poll) -> None:
        """A poll arrives: it takes the first task, or waits, or is refused where too many wait."""
        name = (poll.gateway, poll.epoch, poll.id)
        if name in self.view.places or not self._of_living_epoch(poll):
            return
        self._set_pace(self._seen(poll, arriving=True).rate_uhz)
        if not self._room():
            self._refuse(poll)
            return
        self._place(poll, at_head=False)

    def returned(self, poll: Poll) -> None:
        """A poll comes back from history without a task: it waits on, ahead of the others."""
        name = (poll.gateway, poll.epoch, poll.id)
        if poll.spares == SPARE:
            return  # Nobody waits for it alone.
        if self.entity.get(ENDED, _text(name)) is not None:
            self.entity.drop(ENDED, _text(name))
        elif name not in self.view.places and self._of_living_epoch(poll):
            self._place(msgspec.structs.replace(poll, spares=0), at_head=True)  # those were taken

    def cancel(self, gateway: str, epoch: int, id: int) -> None:
        """The client of a poll is gone. One that is out at history is remembered, so that it stays gone."""
        name = (gateway, epoch, id)
        place = self.view.places.get(name)
        if place is not None:
            poll: Poll = self.entity.get(POLL, place)
            self.entity.drop(POLL, place)
            self._seen(poll)
            return
        if self.entity.count(ENDED) >= ENDED_LIMIT:
            oldest = min(self.entity.group(ENDED).items(), key=lambda item: (item[1].until_ms, item[0]))
            self.entity.drop(ENDED, oldest[0])
        self.entity.put(ENDED, _text(name), EndedPoll(self.context.now_ms + ENDED_MS))

    def resume(self) -> None:
        """A gateway's lease holds again: its polls may take tasks."""
        self._drain()

    def shut_down(self) -> None:
        """The worker of a sticky queue ends: its polls end, its tasks go back, nobody has polled.

        Source: the real server's ShutdownWorker unloads the queue, which ends polls with an empty answer.
        """
        for place, poll in self.entity.items(POLL):
            self._answer_empty(poll)
            self.entity.drop(POLL, place)
        for kind in (POLLER, TALLY):
            for id, _ in self.entity.items(kind):
                self.entity.drop(kind, id)
        self._hand_back_all()

    def due(self) -> None:
        """Time has passed: end what is over, hand back what nobody comes for, and look when to look again."""
        self.view.armed_ms = NEVER
        now_ms = self.context.now_ms
        self._lapse_polls()
        self._forget(now_ms)
        self._drain()
        task = self._first_task()
        if task is not None and task.sticky and not self._recently_polled(STICKY_WINDOW_MS):
            self._hand_back_all()
        self._give_up_queries()
        idle_at_ms = self._idle_at_ms(now_ms)
        if idle_at_ms <= now_ms:
            self.entity.clear()
        else:
            self._want(idle_at_ms)
            self._want_lapse()
            task = self._first_task()
            if task is not None and task.sticky:
                self._want(max(now_ms + 1, self._last_polled_ms() + STICKY_WINDOW_MS))

    def finish(self) -> None:
        """Arm the queue's next due time where none is armed or a later one. Cannot fail, and comes last."""
        view = self.view
        if self.entity.empty:
            if view.armed_ms != NEVER:
                view.armed_ms = NEVER
                self.context.unwake(self.key)
            return
        wanted_ms = self._wanted_ms
        if wanted_ms == NEVER and view.armed_ms == NEVER:
            wanted_ms = self.context.now_ms + self.limit(IDLE_KEY)
        if wanted_ms < view.armed_ms:
            view.armed_ms = wanted_ms
            self.context.wake(self.key, wanted_ms)

    # --- polls ---

    def _of_living_epoch(self, poll: Poll) -> bool:
        """Whether the poll is of its gateway's newest epoch; a poll also proves that its epoch has begun."""
        lease = leases.lease_of(self.context, poll.gateway)
        if lease is None or lease.epoch < poll.epoch:
            leases.renew(self.context, GatewayLease(poll.gateway, poll.epoch, 0))
            return True
        return poll.epoch == lease.epoch

    def _lapsed(self, gateway: str) -> bool:
        lease = leases.lease_of(self.context, gateway)
        return lease is not None and leases.lapsed(lease, self.context.now_ms)

    def _room(self) -> bool:
        limit = self.limit(WAITING_POLLS_KEY)
        waiting = self.view.waiting
        if len(waiting) >= limit:
            for gateway in sorted(self.view.polls):
                self._first_poll(gateway)  # Polls of gateways that have ended make room.
        return len(waiting) < limit

    def _place(self, poll: Poll, at_head: bool) -> None:
        now_ms = self.context.now_ms
        if poll.deadline_ms <= now_ms:
            self._answer_empty(poll)
            return
        view = self.view
        if not view.polls and not self._lapsed(poll.gateway):
            task = self._first_task()
            if task is not None and self._ready_ms() <= now_ms:
                self.entity.drop(TASK, view.tasks.first)
                self._dispatch(task, poll)
                self._dispatch_spares(poll)
                return
        place = place_before(view.head_of_polls()) if at_head else place_after(view.end_of_polls())
        self.entity.put(POLL, place, poll)
        self._want(_lapse_at_ms(poll.deadline_ms))
        if view.tasks:
            self._drain()

    def _dispatch_spares(self, poll: Poll) -> None:
        """Give more tasks to a poll that takes them, if more wait: its worker comes for them within moments."""
        if self.context.logic_version < SPARE_TASKS:
            return
        for n in range(1, poll.spares + 1):
            task = self._first_task()
            if task is None or self._ready_ms() > self.context.now_ms:
                return
            self.entity.drop(TASK, self.view.tasks.first)
            self._dispatch(task, msgspec.structs.replace(poll, id=poll.id + n, spares=SPARE))

    def _first_poll(self, gateway: str) -> str | None:
        """The place of the gateway's first poll that may be matched; those before it that are over go."""
        now_ms = self.context.now_ms
        lease = leases.lease_of(self.context, gateway)
        while (line := self.view.polls.get(gateway)) is not None:
            place = line.first
            poll = self.view.waiting[place]
            if lease is not None and poll.epoch < lease.epoch:
                self.entity.drop(POLL, place)
            elif poll.deadline_ms <= now_ms:
                self._lapse(place, poll)
            elif lease is not None and leases.lapsed(lease, now_ms):
                return None
            else:
                return place
        return None

    def _take_poll(self) -> Poll | None:
        """Take the poll that waits longest."""
        best: str | None = None
        for gateway in sorted(self.view.polls):
            place = self._first_poll(gateway)
            if place is not None and (best is None or place < best):
                best = place
        if best is None:
            return None
        poll = self.view.waiting[best]
        self.entity.drop(POLL, best)
        return poll

    def _lapse_polls(self) -> None:
        now_ms = self.context.now_ms
        while (lapse := self.view.next_lapse()) is not None and lapse[0] <= now_ms:
            self._lapse(lapse[1], self.view.waiting[lapse[1]])

    def _lapse(self, place: str, poll: Poll) -> None:
        self.entity.drop(POLL, place)
        self._seen(poll)
        self._answer_empty(poll)

    def _answer_empty(self, poll: Poll) -> None:
        self.context.reply(Correlation(poll.gateway, poll.epoch, poll.id), _EMPTY)

    def _refuse(self, poll: Poll) -> None:
        error = Rejected(
            RESOURCE_EXHAUSTED,
            f"too many polls wait on task queue {poll.queue}",
            ResourceExhaustedFailure(
                cause=ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_CONCURRENT_LIMIT,
                scope=ResourceExhaustedScope.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
            ),
        )
        self._reject(Correlation(poll.gateway, poll.epoch, poll.id), error)

    def _reject(self, caller: Correlation, error: Rejected) -> None:
        self.context.reply(caller, Reply(code=error.code, message=error.message, body=error.status_bytes()))

    # --- tasks ---

    def _first_task(self) -> AddTask | None:
        """The first task that has not expired; those before it go."""
        line = self.view.tasks
        tasks = self.entity.group(TASK)
        while line:
            place = line.first
            task: AddTask = tasks[place].task
            if task.expires_ms == 0 or task.expires_ms > self.context.now_ms:
                return task
            self.entity.drop(TASK, place)
        return None

    def _drain(self) -> None:
        """Pair tasks with polls while there are both."""
        now_ms = self.context.now_ms
        while (task := self._first_task()) is not None and self.view.polls:
            ready_ms = self._ready_ms()
            if ready_ms > now_ms:
                self._want(ready_ms)
                return
            poll = self._take_poll()
            if poll is None:
                for gateway in sorted(self.view.polls):
                    leases.note_blocked(self.context, gateway, self.key)
                return
            self.entity.drop(TASK, self.view.tasks.first)
            self._dispatch(task, poll)

    def _dispatch(self, task: AddTask, poll: Poll) -> None:
        self._seen(poll)
        self._count(DISPATCHED)
        pace: Pace | None = self.entity.get(PACE)
        if pace is not None:
            self.entity.put(PACE, "", rates.used(pace, self.context.now_ms))
        self.context.emit(
            COMMANDS,
            workflow_key(task.namespace, task.workflow_id),
            StartTask(
                task.namespace,
                task.workflow_id,
                task.run_id,
                task.task_kind,
                task.scheduled_event_id,
                task.attempt,
                task.stamp,
                task.query_id,
                poll,
                self.entity.count(TASK),
            ),
        )

    def _hand_back(self, task: AddTask) -> None:
        self.context.emit(
            COMMANDS,
            workflow_key(task.namespace, task.workflow_id),
            StickyUnavailable(
                task.namespace,
                task.workflow_id,
                task.run_id,
                task.task_kind,
                task.scheduled_event_id,
                task.attempt,
                task.stamp,
                task.query_id,
            ),
        )

    def _hand_back_all(self) -> None:
        for _ in range(HAND_BACK_LIMIT):
            task = self._first_task()
            if task is None:
                return
            self.entity.drop(TASK, self.view.tasks.first)
            self._hand_back(task)
        if self.view.tasks:
            self._want(self.context.now_ms)

    # --- queries ---

    def _ask(self, place: str, task: AddTask, caller: Correlation) -> None:
        due_ms = max(task.expires_ms - NO_POLLER_ROOM_MS, self.context.now_ms)
        asked = AskedQuery(task.query_id, due_ms, caller.gateway, caller.epoch, caller.id)
        self.entity.put(ASKED, place, asked)
        self._want(due_ms)

    def drop_query(self, query_id: str) -> None:
        """Nobody waits for a query any more: if its task is still in line, it goes."""
        for place, asked in self.entity.items(ASKED):
            if asked.query_id == query_id:
                self.entity.drop(ASKED, place)
                queued: QueuedTask | None = self.entity.get(TASK, place)
                if queued is not None and queued.task.query_id == query_id:
                    self.entity.drop(TASK, place)

    def _give_up_queries(self) -> None:
        """Answer those who are about to stop waiting for a query when no worker was here for a while."""
        for place, asked in self.entity.items(ASKED):
            queued: QueuedTask | None = self.entity.get(TASK, place)
            if queued is None or queued.task.query_id != asked.query_id:
                self.entity.drop(ASKED, place)
            elif asked.due_ms <= self.context.now_ms:
                self.entity.drop(ASKED, place)
                if not self._recently_polled(self.limit(QUERY_WINDOW_KEY)):
                    self.entity.drop(TASK, place)
                    caller = Correlation(asked.gateway, asked.epoch, asked.call_id)
                    self._reject(caller, _NO_POLLER)
            else:
                self._want(asked.due_ms)

    # --- workers, rates and time ---

    def _seen(self, poll: Poll, arriving: bool = False) -> Poller:
        """Note that the poll's worker is here; kept to the second, so that most polls change nothing."""
        now_ms = self.context.now_ms
        known: Poller | None = self.entity.get(POLLER, poll.identity)
        if known is not None and (not arriving or known.request == poll.request):
            if now_ms - known.last_ms < _POLLER_GRAIN_MS:
                return known
            poller = Poller(now_ms, known.rate_uhz, known.request)
        else:
            rate_uhz = self._rate_uhz(poll.request) if arriving else rates.NO_RATE
            poller = Poller(now_ms, rate_uhz, poll.request)
            if known is None and self.entity.count(POLLER) >= POLLERS_LIMIT:
                oldest = min(self.entity.group(POLLER).items(), key=lambda item: (item[1].last_ms, item[0]))
                self.entity.drop(POLLER, oldest[0])
        self.entity.put(POLLER, poll.identity, poller)
        return poller

    def _rate_uhz(self, request: bytes) -> int:
        if self.key.rsplit("/", 2)[1] != ACTIVITY_TASK:
            return rates.NO_RATE
        metadata = PollActivityTaskQueueRequest.FromString(request).task_queue_metadata
        if not metadata.HasField("max_tasks_per_second"):
            return rates.NO_RATE
        return rates.rate_uhz(metadata.max_tasks_per_second.value)

    def _set_pace(self, rate_uhz: int) -> None:
        """The newest poll says how fast the queue's tasks may go out, as in the real server."""
        pace: Pace | None = self.entity.get(PACE)
        if pace is None:
            if rate_uhz != rates.NO_RATE:
                self.entity.put(PACE, "", Pace(rate_uhz, 0))
        elif rate_uhz == rates.NO_RATE:
            self.entity.drop(PACE)
        elif rate_uhz != pace.rate_uhz:
            self.entity.put(PACE, "", Pace(rate_uhz, pace.used_us))

    def _ready_ms(self) -> int:
        pace: Pace | None = self.entity.get(PACE)
        return 0 if pace is None else rates.ready_ms(pace, self.context.now_ms)

    def _count_added(self, task: AddTask) -> None:
        if not task.at_head:  # One that comes back was counted before.
            self._count(ADDED)

    def _count(self, what: str) -> None:
        self.entity.put(TALLY, what, rates.counted(self.entity.get(TALLY, what), self.context.now_ms))

    def _last_polled_ms(self) -> int:
        return max((poller.last_ms for poller in self.entity.group(POLLER).values()), default=0)

    def _recently_polled(self, window_ms: int) -> bool:
        if self._last_polled_ms() > self.context.now_ms - window_ms:
            return True
        return any(self._first_poll(gateway) is not None for gateway in sorted(self.view.polls))

    def _forget(self, now_ms: int) -> None:
        idle_ms = self.limit(IDLE_KEY)
        for identity, poller in self.entity.items(POLLER):
            if poller.last_ms + idle_ms <= now_ms:
                self.entity.drop(POLLER, identity)
        for name, ended in self.entity.items(ENDED):
            if ended.until_ms <= now_ms:
                self.entity.drop(ENDED, name)

    def _idle_at_ms(self, now_ms: int) -> int:
        """When the queue may be deleted if nothing comes; in the past when it may be now."""
        idle_ms = self.limit(IDLE_KEY)
        if self.view.tasks or self.view.waiting:
            return now_ms + idle_ms
        group = self.entity.group
        return max(
            max((poller.last_ms + idle_ms for poller in group(POLLER).values()), default=0),
            max((tally.bucket_ms + idle_ms for tally in group(TALLY).values()), default=0),
            max((ended.until_ms for ended in group(ENDED).values()), default=0),
        )

    def limit(self, key: str) -> int:
        """A limit in force, by its dynamic config key."""
        pair: NumberPair | None = self.context.table(LIMITS.name).peek("").get(LIMIT, key)
        return DEFAULT_LIMITS[key] if pair is None else pair.value

    def _want(self, due_ms: int) -> None:
        if due_ms < self._wanted_ms:
            self._wanted_ms = due_ms

    def _want_lapse(self) -> None:
        lapse = self.view.next_lapse()
        if lapse is not None:
            self._want(_lapse_at_ms(lapse[0]))


def _lapse_at_ms(deadline_ms: int) -> int:
    """When polls with this deadline lapse: never early, and up to LAPSE_GRAIN_MS late."""
    return -(-deadline_ms // LAPSE_GRAIN_MS) * LAPSE_GRAIN_MS


def _text(name: PollName) -> str:
    return f"{name[0]}/{name[1]}/{name[2]}"
