"""Workers' long polls: they wait in matching, and nobody is left holding a task that was not delivered."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from itertools import islice
from typing import Final, TypeVar

import msgspec
from temporalio.api.enums.v1 import TaskQueueKind, WorkerVersioningMode
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
)

from gateway import errors, splice
from gateway.backend import Backend, Context
from gateway.histories import Histories
from gateway.service_metrics import ServiceMetrics
from gateway.validation import check_identity, check_task_queue, check_versioning
from gateway.worker_polls import KEPT_S, OFFER_S, SPARES, Ask, Delivered, Offer, PollCall, WorkerPolls
from streams.bodies import ACTIVITY_TASK, WORKFLOW_TASK, CancelPoll, PollTask, TaskUndelivered
from streams.runtime.records import Reply
from streams.task_token import TaskToken
from streams.topology import COMMANDS, TASKS, queue_key, workflow_key

PollRequest = PollWorkflowTaskQueueRequest | PollActivityTaskQueueRequest

MIN_TIMEOUT_S: Final = 2.0
"""A shorter deadline than this is refused."""
MARGIN_S: Final = 5.0
"""How long before its client a poll ends, so that a task given to it still reaches the client."""
MARGIN_MS: Final = int(MARGIN_S * 1000)
IDLE_S: Final = 10.0
"""A worker that has not polled for so long is forgotten."""
LATE_S: Final = 0.1
"""By how much this process has to be late to have been held up itself."""
SPARE_MS: Final = 60_000
"""How long after the end of a poll more tasks may come for it: histories' owners may be away."""

_STICKY: Final = TaskQueueKind.TASK_QUEUE_KIND_STICKY
_VERSIONED: Final = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
_NOTHING: Final = Delivered(Reply(), 0, "")
_HINT: Final = splice.varint(PollWorkflowTaskQueueResponse.BACKLOG_COUNT_HINT_FIELD_NUMBER << 3)
_OPERATIONS: Final = {WORKFLOW_TASK: "PollWorkflowTaskQueue", ACTIVITY_TASK: "PollActivityTaskQueue"}


class Polls:
    """Handlers of PollWorkflowTaskQueue and PollActivityTaskQueue."""

    def __init__(self, backend: Backend, histories: Histories, metrics: ServiceMetrics) -> None:
        self._backend = backend
        self._metrics = metrics
        self._histories = histories
        self._workers: dict[tuple[str, bytes], WorkerPolls] = {}
        self._asks: dict[int, Ask] = {}
        self._gone: dict[int, Ask] = {}
        self._with_spares: dict[int, Ask] = {}
        self._at_sticky: dict[str, WorkerPolls] = {}
        self._offers: dict[int, Offer] = {}
        self._at_queue: Counter[tuple[str, str]] = Counter()
        self._draining = False
        self._loop = asyncio.get_running_loop()
        backend.replies.not_awaited = self._came

    async def workflow_task(
        self, request: PollWorkflowTaskQueueRequest, data: bytes, context: Context
    ) -> bytes:
        """PollWorkflowTaskQueue."""
        self._backend.namespace(request.namespace)
        timeout_s = self._timeout_s(context)
        limits = self._backend.limits
        check_identity(request.identity, limits)
        self._check_versioning(request)
        check_task_queue(request.task_queue, request.HasField("task_queue"), limits)
        ends_s = self._loop.time() + timeout_s
        while True:
            delivered = await self._poll(request, WORKFLOW_TASK, ends_s - self._loop.time(), data)
            try:
                response = await self._histories.attach(delivered.reply)
                return response + self._hint(request, delivered) if response else response
            except errors.ApiError as error:
                if error.code == errors.DATA_LOSS:
                    raise  # Damage stays: the task times out, and is tried ever later.
                self._give_back(delivered)
                if not delivered.kept or self._loop.time() >= ends_s:
                    raise
                # The run of a task that was kept may be deleted by now: the worker waits for another.
            except BaseException:  # cancelled, or the events cannot be read
                self._give_back(delivered)
                raise

    async def activity_task(
        self, request: PollActivityTaskQueueRequest, data: bytes, context: Context
    ) -> bytes:
        """PollActivityTaskQueue."""
        self._backend.namespace(request.namespace)
        timeout_s = self._timeout_s(context)
        limits = self._backend.limits
        check_task_queue(request.task_queue, request.HasField("task_queue"), limits)
        check_identity(request.identity, limits)
        self._check_versioning(request)
        delivered = await self._poll(request, ACTIVITY_TASK, timeout_s, data)
        return delivered.reply.body

    @property
    def waiting(self) -> int:
        """Polls that wait for a task."""
        return sum(len(worker.calls) for worker in self._workers.values())

    def offer(self, namespace: str, sticky_queue: str) -> Offer | None:
        """Have the worker of a sticky queue take the next task of a run, unless it may not come for it soon."""
        worker = self._at_sticky.get(queue_key(namespace, sticky_queue, WORKFLOW_TASK))
        now_ms = self._backend.now_ms()
        if worker is None or self._draining or not worker.may_offer(now_ms):
            return None
        offer = Offer(self._backend.replies.number().id, now_ms + int(OFFER_S * 1000), worker)
        worker.offers[offer.id] = self._offers[offer.id] = offer
        _forget_ended(self._offers, now_ms - SPARE_MS)
        return offer

    def withdraw(self, offer: Offer) -> None:
        """Nothing comes of an offer."""
        self._offers.pop(offer.id, None)
        offer.worker.offers.pop(offer.id, None)

    def _hint(self, request: PollWorkflowTaskQueueRequest, delivered: Delivered) -> bytes:
        """What a worker is told of its sticky queue's backlog in place of what matching said, if anything.

        While it knows of one it polls no other queue. So it has to have a poll left at its normal queue, or, under
        a steady load, workflows that begin later would never get their first task.
        """
        queue = request.task_queue
        if queue.kind != _STICKY:
            return b""  # SDKs look at the hint of sticky queues alone.
        normal = queue_key(request.namespace, queue.normal_name, WORKFLOW_TASK)
        if not self._at_queue[normal, request.identity]:
            return _HINT + b"\0"
        return _HINT + splice.varint(delivered.behind) if delivered.offered else b""

    def drain(self) -> None:
        """End all polls without a task, and those that come."""
        self._draining = True
        for worker in self._workers.values():
            for ask in list(worker.asked.values()):
                self._take_out(ask)
            while worker.take(_NOTHING):
                pass
            while worker.kept:
                self._give_back(worker.kept.popleft())

    async def end_offers(self) -> None:
        """Wait until no task can start any more for a worker's offer, so that each that does is given back."""
        now_ms = self._backend.now_ms()
        left_ms = [
            offer.deadline_ms - now_ms
            for worker in self._workers.values()
            for offer in worker.offers.values()
        ]
        if left_ms and max(left_ms) > 0:
            await asyncio.sleep(max(left_ms) / 1000 + LATE_S)

    async def _poll(self, request: PollRequest, task_kind: str, timeout_s: float, data: bytes) -> Delivered:
        """Wait in matching, or find what was kept. Returns an empty reply when there was no task."""
        if self._draining:
            return _NOTHING
        worker = self._worker(request, task_kind, data)
        worker.seen()
        delivered = worker.next_kept()
        if delivered is None:
            delivered = await self._wait(worker, self._call(worker, request, timeout_s, data))
        elif delivered.offered and not worker.asked:
            # What waits in matching has its turn although tasks keep coming that the worker offered to take.
            self._ask(worker, request, self._backend.now_ms() + int(timeout_s * 1000), data)
            self._look_for_surplus(worker)
        reply = delivered.reply
        if reply.code:
            raise errors.ApiError(reply.code, reply.message, reply.body)
        self._metrics.polled(
            _OPERATIONS[task_kind], request.namespace, request.task_queue.name, got_task=bool(reply.body)
        )
        return delivered

    def _worker(self, request: PollRequest, task_kind: str, data: bytes) -> WorkerPolls:
        name = queue_key(request.namespace, request.task_queue.name, task_kind), data
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = WorkerPolls(name[0], task_kind, request.identity)
            if request.task_queue.kind == _STICKY:
                self._at_sticky[worker.key] = worker
            self._loop.call_later(IDLE_S, self._forget_idle, name)
        return worker

    def _forget_idle(self, name: tuple[str, bytes]) -> None:
        worker = self._workers[name]
        if worker.is_idle and worker.seen_s + IDLE_S <= self._loop.time():
            del self._workers[name]
            if self._at_sticky.get(worker.key) is worker:
                del self._at_sticky[worker.key]
        else:
            self._loop.call_later(IDLE_S, self._forget_idle, name)

    def _call(self, worker: WorkerPolls, request: PollRequest, timeout_s: float, data: bytes) -> PollCall:
        """A call that waits, for which matching has a poll."""
        now_ms = self._backend.now_ms()
        while worker.asked and (oldest := next(iter(worker.asked.values()))).deadline_ms < now_ms - MARGIN_MS:
            self._take_out(oldest)  # Its answer was lost.
        call = worker.call(now_ms + int(timeout_s * 1000))
        if worker.needs_ask(call):
            call.asked = self._ask(worker, request, call.deadline_ms, data)
        return call

    def _ask(self, worker: WorkerPolls, request: PollRequest, deadline_ms: int, data: bytes) -> int:
        """Poll matching for the worker. Returns the poll's number."""
        backend, queue, spares = self._backend, request.task_queue, worker.spares
        correlation = backend.replies.number(1 + spares)
        id = correlation.id
        now_ms, numbers = backend.now_ms(), set(range(id + 1, id + 1 + spares))
        ask = Ask(correlation, now_ms, deadline_ms, worker, numbers)
        worker.asked[id] = self._asks[id] = ask
        if spares:
            self._with_spares[id] = ask
            _forget_ended(self._with_spares, now_ms - SPARE_MS)
        body = PollTask(
            request.namespace,
            queue.name,
            worker.task_kind,
            worker.identity,
            deadline_ms,
            data,
            queue.kind == _STICKY,
            spares,
        )
        backend.engine.append(TASKS, worker.key, body, correlation)
        return id

    async def _wait(self, worker: WorkerPolls, call: PollCall) -> Delivered:
        name = worker.key, worker.identity
        self._at_queue[name] += 1
        try:
            return await call.future
        except asyncio.CancelledError:
            if not call.future.cancelled():  # cancelled between the reply's arrival and here
                self._give_back(call.future.result())
            for ask in worker.leave(call):
                self._take_out(ask)
            raise
        finally:
            self._at_queue[name] -= 1
            if not self._at_queue[name]:
                del self._at_queue[name]

    def _timeout_s(self, context: Context) -> float:
        """How long the poll may wait. Raises ApiError for a client without a sensible deadline."""
        remaining_s = context.time_remaining()
        if remaining_s is None:
            raise errors.invalid("Context timeout is not set.")
        if remaining_s < MIN_TIMEOUT_S:
            raise errors.ApiError(errors.FAILED_PRECONDITION, "Context timeout is too short.")
        return min(self._backend.limits.task_poll_ms / 1000, max(remaining_s - MARGIN_S, remaining_s / 2))

    def _check_versioning(self, request: PollRequest) -> None:
        check_versioning(request.worker_version_capabilities, self._backend.limits)
        if request.deployment_options.worker_versioning_mode == _VERSIONED:
            raise errors.denied("Worker Deployment Versions are disabled on this namespace.")

    def _take_out(self, ask: Ask) -> None:
        """Take a poll out of matching; a task may be on its way to it."""
        correlation = ask.correlation
        del ask.worker.asked[correlation.id], self._asks[correlation.id]
        self._gone[correlation.id] = ask
        _forget_ended(self._gone, self._backend.now_ms() - MARGIN_MS)
        body = CancelPoll(correlation.gateway, correlation.epoch, correlation.id)
        self._backend.engine.append(TASKS, ask.worker.key, body)

    def _came(self, id: int, reply: Reply) -> bool:
        """A reply to a poll has come, or one for nobody: then False."""
        ask = self._asks.pop(id, None)
        if ask is not None:
            del ask.worker.asked[id]
            if reply.code:
                self._gone[id] = ask  # It may have reached matching all the same.
            delivered = _delivered(ask, reply, id)
            if delivered.has_task:
                self._deliver(ask.worker, delivered)
            else:
                ask.worker.end(delivered, ask.deadline_ms)
        elif (ask := self._gone.pop(id, None)) is not None:
            self._give_back(_delivered(ask, reply, id))
            return False
        elif (ask := self._spare_of(id)) is not None:
            self._deliver(ask.worker, _delivered(ask, reply, id))
        elif (offer := self._offers.get(id)) is not None:
            self.withdraw(offer)
            self._deliver(offer.worker, Delivered(reply, id, WORKFLOW_TASK, offered=True))
        else:
            return False
        return True

    def _spare_of(self, id: int) -> Ask | None:
        """The poll that brings another task under this number, once: an owner may repeat what its predecessor sent."""
        for n in range(1, SPARES + 1):
            ask = self._with_spares.get(id - n)
            if ask is not None and id in ask.spares:
                ask.spares.remove(id)
                if not ask.spares:
                    del self._with_spares[id - n]
                return ask
        return None

    def _deliver(self, worker: WorkerPolls, delivered: Delivered) -> None:
        """Give a task to a call of the worker, or keep it for the next one."""
        if worker.take(delivered):
            self._look_for_surplus(worker)
        elif self._draining:
            self._give_back(delivered)
        else:
            delivered = msgspec.structs.replace(delivered, kept=True)
            worker.kept.append(delivered)
            self._keep(worker, delivered, latest_s=self._loop.time() + KEPT_S + LATE_S)

    def _keep(self, worker: WorkerPolls, delivered: Delivered, latest_s: float) -> None:
        self._loop.call_later(KEPT_S, self._kept_long, worker, delivered, latest_s)

    def _kept_long(self, worker: WorkerPolls, delivered: Delivered, latest_s: float) -> None:
        """Give a task back that the worker did not come for, unless it did, or had no chance to."""
        if delivered not in worker.kept:
            return
        if self._loop.time() > latest_s:
            self._keep(worker, delivered, latest_s=math.inf)
            return
        worker.kept.remove(delivered)
        worker.distrust()
        self._give_back(delivered)

    def _look_for_surplus(self, worker: WorkerPolls) -> None:
        """Have polls taken out of matching that no call needs for a while, so that they are in nobody's way there."""
        if not worker.looks_for_surplus and len(worker.asked) > len(worker.calls):
            worker.looks_for_surplus = True
            self._loop.call_later(KEPT_S, self._end_surplus, worker)

    def _end_surplus(self, worker: WorkerPolls) -> None:
        worker.looks_for_surplus = False
        long_ago_ms = self._backend.now_ms() - int(KEPT_S * 1000)
        for ask in worker.surplus():
            if ask.asked_ms <= long_ago_ms:
                self._take_out(ask)
        self._look_for_surplus(worker)

    def _give_back(self, delivered: Delivered) -> None:
        """Give a task back that reached no worker, if one has come."""
        token = _token_of(delivered) if delivered.has_task else None
        if token is None:
            return
        body = TaskUndelivered(
            token.namespace,
            token.workflow_id,
            token.run_id,
            token.task_kind,
            token.scheduled_event_id,
            token.attempt,
            token.stamp,
            token.query_id,
            delivered.id,
        )
        self._backend.engine.append(COMMANDS, workflow_key(token.namespace, token.workflow_id), body)


Ended = TypeVar("Ended", Ask, Offer)


def _forget_ended(asks: dict[int, Ended], before_ms: int) -> None:
    """Drop the oldest polls or offers, those that ended before a time: nothing can come for them."""
    for id, ask in list(islice(asks.items(), 2)):
        if ask.deadline_ms < before_ms:
            del asks[id]


def _delivered(ask: Ask, reply: Reply, id: int) -> Delivered:
    return Delivered(reply, id, ask.worker.task_kind)


def _token_of(delivered: Delivered) -> TaskToken | None:
    if delivered.task_kind == ACTIVITY_TASK:
        data = PollActivityTaskQueueResponse.FromString(delivered.reply.body).task_token
    else:
        data = PollWorkflowTaskQueueResponse.FromString(delivered.reply.body).task_token
    return TaskToken.decode(data) if data else None
