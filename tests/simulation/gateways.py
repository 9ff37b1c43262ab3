"""Gateways: stateless, with an epoch, a lease and calls that die with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
)

from gateway.errors import ApiError
from gateway.histories import Histories
from streams.bodies import (
    ACTIVITY_TASK,
    WORKFLOW_TASK,
    Call,
    CancelPoll,
    GatewayLease,
    PollTask,
    TaskUndelivered,
)
from streams.runtime.records import Correlation, Record, Reply
from streams.task_token import TaskToken
from streams.topology import COMMANDS, TASKS, queue_key, workflow_key
from tests.simulation.calls import Backend, Patient, drive
from tests.simulation.judge import require

if TYPE_CHECKING:
    from tests.simulation.world import World

OnReply = Callable[[Reply], None]
LEASE_MS = 6_000
RENEW_MS = 2_000
MARGIN_MS = 5_000
"""How long before its client a poll ends (fold.md rule 19)."""

KEPT_MS = 250
"""How long a task is kept for a worker's next poll (decision 0016)."""

OFFER_MS = (200, 1_000, 5_000)
"""How long a worker's offer to take a run's next task stands (decision 0017)."""

PATIENCE = (0, 200, 200, 200, 200)
"""How often the events that belong into an answer are looked for again."""

_ANSWERED_BY_GATEWAY = ("QueryWorkflow", "UpdateWorkflowExecution")
"""What waits for a worker: past its deadline the gateway answers by itself."""


class Waiting(msgspec.Struct):
    """A call that awaits its reply; of a poll, what kind of task it polls for, where and for which worker.

    `owed` tells that there has to be a reply, since nothing goes wrong any more; `whole` that events which belong to
    the reply are no part of its body.
    """

    on_reply: OnReply
    owed: bool
    task_kind: str = ""
    key: str = ""
    identity: str = ""
    whole: bool = False


class Gateway:
    """One gateway process, restarted under a new epoch when it dies. A Sender of what it appends."""

    def __init__(self, world: World, name: str, leases: bool) -> None:
        self.world = world
        self.name = name
        self.epoch = 0
        self.up = False
        self._leases = leases
        self._paused_until_ms = 0
        self._start()

    def _start(self) -> None:
        self.up = True
        self.epoch = max(self.epoch + 1, self.world.now_ms)
        self._sequence = 0
        self._last_id = 0
        self._histories = Histories(Backend(self.world, self))
        self._waiting: dict[int, Waiting] = {}
        self._gone: dict[int, str] = {}
        self._held: dict[tuple[str, int], bytes] = {}
        self._spares: dict[int, tuple[str, str]] = {}
        self._offers: dict[int, tuple[str, str]] = {}
        self._pollers: dict[str, str] = {}
        self._kept: dict[tuple[str, str], deque[tuple[Correlation, Reply]]] = {}
        self._out: dict[str, deque[Record]] = {}
        self._flushing: set[str] = set()
        self._lease(self.epoch)

    def crash(self) -> None:
        """Die with everything under way; another process takes the name. Clients see their connections break."""
        if self.up:
            self.up = False
            for waiting in self._waiting.values():
                if waiting.task_kind:
                    self.world.at(self.world.rng.randint(0, 50), waiting.on_reply, Reply())
            self.world.at(self.world.rng.randint(0, 1_000), self._start)

    def pause(self, for_ms: int) -> None:
        """Stall: nothing leaves, and the lease lapses."""
        self._paused_until_ms = self.world.now_ms + for_ms

    def resume(self) -> None:
        """Stall no more."""
        self._paused_until_ms = 0
        for channel in sorted(self._flushing):
            self.world.at(0, self._flush, channel, self.epoch)

    def _lease(self, epoch: int) -> None:
        if not self.up or epoch != self.epoch:
            return
        world = self.world
        expires_ms = world.now_ms + LEASE_MS if self._leases else 0
        for number in range(world.partition_count(TASKS)):
            self._append(TASKS, number, self.name, GatewayLease(self.name, self.epoch, expires_ms), None)
        if self._leases and not world.over:
            world.at(RENEW_MS, self._lease, epoch)

    # Appending

    def _append(self, topic: str, number: int, key: str, body: Any, correlation: Correlation | None) -> None:
        self._sequence += 1
        record = Record(
            topic,
            number,
            key,
            body,
            source=self.name,
            origin_epoch=self.epoch,
            origin_offset=self._sequence,
            correlation=correlation,
        )
        channel = record.channel
        self._out.setdefault(channel, deque()).append(record)
        self._flush_soon(channel)

    def _flush_soon(self, channel: str) -> None:
        if channel not in self._flushing:
            self._flushing.add(channel)
            delay_ms = max(self.world.rng.randint(0, 2), self._paused_until_ms - self.world.now_ms)
            self.world.at(delay_ms, self._flush, channel, self.epoch)

    def _flush(self, channel: str, epoch: int) -> None:
        if not self.up or epoch != self.epoch:
            return
        self._flushing.discard(channel)
        batch = list(self._out[channel])
        self._out[channel].clear()
        if batch:
            self.world.logs[channel].append(self, batch, twice=self.world.faults.twice())

    def acknowledged(self, channel: str, records: Sequence[Record]) -> None:
        """See log.Sender."""

    def lost(self, channel: str, records: Sequence[Record]) -> None:
        """See log.Sender. What an earlier epoch sent stays lost."""
        again = [record for record in records if record.origin_epoch == self.epoch]
        if self.up and again:
            self._out[channel].extendleft(reversed(again))
            self._flush_soon(channel)

    # Calls

    def call(
        self, body: Call | Any, topic: str, key: str, timeout_ms: int, done: Callable[[Reply | None], None]
    ) -> None:
        """Append a call and await its reply; None when that takes too long or the gateway dies."""
        answered = False

        def answer(reply: Reply | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                done(reply)

        self.world.at(timeout_ms, answer, None)
        if self.up:
            owed = self.world.at_peace and getattr(body, "method", "") not in _ANSWERED_BY_GATEWAY
            correlation = self._expect(Waiting(answer, owed))
            if getattr(body, "method", "") == "QueryWorkflow":
                self.world.judge.queries.add((correlation.gateway, correlation.epoch, correlation.id))
            if getattr(body, "method", "") == "RespondWorkflowTaskCompleted":
                body = self._with_offer(body)
            self._append(topic, self.world.partition_of(topic, key), key, body, correlation)

    def _with_offer(self, call: Call) -> Call:
        """A completed workflow task, with an offer to take the next one if its worker polls here, at times."""
        request = RespondWorkflowTaskCompletedRequest.FromString(call.request)
        key = queue_key(call.namespace, request.sticky_attributes.worker_task_queue.name, WORKFLOW_TASK)
        identity = self._pollers.get(key)
        if identity is None or self.world.rng.random() < 0.3:
            return call
        self._last_id += 1
        self._offers[self._last_id] = key, identity
        deadline_ms = self.world.now_ms + self.world.rng.choice(OFFER_MS)
        self.world.judge.poll_deadlines[(self.name, self.epoch, self._last_id)] = deadline_ms
        return msgspec.structs.replace(call, offer_id=self._last_id, offer_deadline_ms=deadline_ms)

    def ask(self, topic: str, key: str, body: Any, epoch: int, done: OnReply) -> None:
        """Append a record for a call that is under way, and await its reply: never, when the gateway dies."""
        if self.up and epoch == self.epoch:
            correlation = self._expect(Waiting(done, self.world.at_peace, whole=True))
            self._append(topic, self.world.partition_of(topic, key), key, body, correlation)

    def tell(self, topic: str, key: str, body: Any, epoch: int) -> None:
        """Append a record for a call that is under way."""
        if self.up and epoch == self.epoch:
            self._append(topic, self.world.partition_of(topic, key), key, body, None)

    def _expect(self, waiting: Waiting) -> Correlation:
        self._last_id += 1
        self._waiting[self._last_id] = waiting
        return Correlation(self.name, self.epoch, self._last_id)

    def poll(
        self, queue: str, task_kind: str, request: Any, sticky: bool, wait_ms: int, done: OnReply
    ) -> None:
        """Poll for a task; `done` gets a reply with a task or an empty one, or is called late, or never."""
        if not self.up:
            self.world.at(500, done, Reply())
            return
        deadline_ms = self.world.now_ms + wait_ms
        key = queue_key(request.namespace, queue, task_kind)
        self._pollers[key] = request.identity
        kept = self._kept.setdefault((key, request.identity), deque())
        if kept:
            correlation, reply = kept.popleft()
            self._attach(correlation, Waiting(done, False, task_kind, key, request.identity), reply, 0)
            return
        spares = self.world.rng.choice((0, 3, 3)) if task_kind == WORKFLOW_TASK else 0
        correlation = self._expect(Waiting(done, self.world.at_peace, task_kind, key, request.identity))
        self.world.judge.poll_deadlines[(self.name, self.epoch, correlation.id)] = deadline_ms
        for _ in range(spares):
            self._last_id += 1
            self.world.judge.poll_deadlines[(self.name, self.epoch, self._last_id)] = deadline_ms
            self._spares[self._last_id] = key, request.identity
        body = PollTask(
            request.namespace,
            queue,
            task_kind,
            request.identity,
            deadline_ms,
            request.SerializeToString(),
            sticky,
            spares,
        )
        self._append(TASKS, self.world.partition_of(TASKS, key), key, body, correlation)
        self.world.at(wait_ms + MARGIN_MS, self._give_up, correlation)

    def _give_up(self, correlation: Correlation) -> None:
        """The client of a poll goes away."""
        if self.up and correlation.epoch == self.epoch:
            waiting = self._waiting.pop(correlation.id, None)
            if waiting is not None:
                require(not waiting.owed, f"{self.name}: poll {correlation.id} was never answered")
                self._gone[correlation.id] = waiting.task_kind
                waiting.on_reply(Reply())

    def abandon_polls(self) -> None:
        """Clients of some polls go away early, as when a worker dies."""
        if not self.up:
            return
        for id, waiting in list(self._waiting.items()):
            if waiting.key and self.world.rng.random() < 0.7:
                number = self.world.partition_of(TASKS, waiting.key)
                self._append(TASKS, number, waiting.key, CancelPoll(self.name, self.epoch, id), None)
                self._give_up(Correlation(self.name, self.epoch, id))

    @property
    def owed_replies(self) -> int:
        """Calls that have to be answered still."""
        return sum(waiting.owed for waiting in self._waiting.values())

    # Replies

    def deliver(self, correlation: Correlation, reply: Reply) -> None:
        """A reply arrives."""
        if not self.up or correlation.epoch != self.epoch:
            return
        for event_id, event in enumerate(reply.held, reply.held_first_id):
            self._held[reply.attach_run, event_id] = event
        waiting = self._waiting.pop(correlation.id, None)
        if waiting is not None and waiting.whole:
            waiting.on_reply(reply)
        elif waiting is not None:
            self._attach(correlation, waiting, reply, self.world.rng.choice(PATIENCE))
        elif correlation.id in self._gone:
            self._undelivered(correlation, self._gone.pop(correlation.id), reply)
        elif correlation.id in self._spares:
            self._keep(self._spares.pop(correlation.id), correlation, reply)
        elif correlation.id in self._offers:
            worker = self._offers.pop(correlation.id)
            waiting = self._poll_of(worker)
            if waiting is None:
                self._keep(worker, correlation, reply)
            else:
                self._attach(correlation, waiting, reply, self.world.rng.choice(PATIENCE))

    def _poll_of(self, worker: tuple[str, str]) -> Waiting | None:
        """A poll of the worker that waits: what comes for it from now on is for another one."""
        for id, waiting in self._waiting.items():
            if (waiting.key, waiting.identity) == worker:
                self._spares[id] = worker
                return self._waiting.pop(id)
        return None

    def _keep(self, worker: tuple[str, str], correlation: Correlation, reply: Reply) -> None:
        """Keep a task for the worker's next poll."""
        if reply.body and not reply.code:
            kept = self._kept[worker]
            kept.append((correlation, reply))
            self.world.at(KEPT_MS, self._give_back, kept, correlation, reply)

    def _give_back(
        self, kept: deque[tuple[Correlation, Reply]], correlation: Correlation, reply: Reply
    ) -> None:
        """Nobody came for a task that was kept, unless somebody did."""
        if self.up and correlation.epoch == self.epoch and (correlation, reply) in kept:
            kept.remove((correlation, reply))
            self._undelivered(correlation, WORKFLOW_TASK, reply)

    def _attach(self, correlation: Correlation, waiting: Waiting, reply: Reply, tries: int) -> None:
        """Wait until the events that belong into the reply are there: contiguous or wait (rule 21)."""
        if not self.up or correlation.epoch != self.epoch:
            if waiting.task_kind:
                waiting.on_reply(Reply())
            return

        def attached(result: bytes | ApiError) -> None:
            if isinstance(result, bytes):
                waiting.on_reply(msgspec.structs.replace(reply, body=result))
            elif tries:
                self.world.at(20, self._attach, correlation, waiting, reply, tries - 1)
            elif waiting.task_kind:
                self._undelivered(correlation, waiting.task_kind, reply)
                waiting.on_reply(Reply())

        drive(self._histories.attach(reply), attached)

    def with_held(
        self, run_id: str, found: list[tuple[int, bytes]], first_id: int, last_id: int
    ) -> list[tuple[int, bytes]]:
        """Events that were read, and those behind them that came beside answers."""
        next_id = first_id + len(found)
        while next_id <= last_id and (event := self._held.get((run_id, next_id))) is not None:
            found.append((next_id, event))
            next_id += 1
        return found

    def history(
        self, request: GetWorkflowExecutionHistoryRequest, done: Callable[[bytes | ApiError], None]
    ) -> None:
        """Read a page of a history; `done` gets the encoded answer or an error, or is never called."""
        if self.up:
            drive(self._histories.get(request, b"", Patient()), done)  # type: ignore[arg-type]

    def _undelivered(self, correlation: Correlation, task_kind: str, reply: Reply) -> None:
        """Give a task back that reached no worker."""
        if reply.code or not reply.body:
            return
        response_type = (
            PollActivityTaskQueueResponse if task_kind == ACTIVITY_TASK else PollWorkflowTaskQueueResponse
        )
        token = TaskToken.decode(response_type.FromString(reply.body).task_token)
        body = TaskUndelivered(
            token.namespace,
            token.workflow_id,
            token.run_id,
            token.task_kind,
            token.scheduled_event_id,
            token.attempt,
            token.stamp,
            token.query_id,
            correlation.id,
        )
        key = workflow_key(token.namespace, token.workflow_id)
        self._append(COMMANDS, self.world.partition_of(COMMANDS, key), key, body, None)
