"""The matching processor: owns task queues, pairs their tasks with workers' polls.

Records of `tasks`, keyed by queue partition: AddTask and PollTask meet in streams/matching/queue.py and
leave as a StartTask for history; a poll that got nothing comes back as PollReturned, or lapses empty.
GatewayLease and LimitsChanged come to every partition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streams.bodies import (
    AddTask,
    CancelPoll,
    DropQuery,
    GatewayLease,
    LimitsChanged,
    Poll,
    PollReturned,
    PollTask,
    QueueCall,
)
from streams.history.errors import Rejected
from streams.matching import leases
from streams.matching.describe import describe
from streams.matching.queue import Queue
from streams.matching.state import DEFAULT_LIMITS, GATEWAYS, LIMIT, LIMITS, QUEUES
from streams.runtime.context import Context
from streams.runtime.records import Record, Reply
from streams.runtime.tables import Entity
from streams.topology import TASKS


class MatchingProcessor:
    """Folds `tasks`; see streams.runtime.context.Processor."""

    name = "matching"
    input_topic = TASKS
    tables = (QUEUES, GATEWAYS, LIMITS)

    def fold(self, context: Context, record: Record) -> None:
        """Apply one record. Raises TypeError for a body that does not belong on this topic."""
        body = record.body
        if isinstance(body, AddTask):
            _with_queues(context, [record.key], lambda queue: queue.add(body, record.correlation))
        elif isinstance(body, PollTask):
            poll = _poll(record, body)
            _with_queues(context, [record.key], lambda queue: queue.poll(poll))
        elif isinstance(body, PollReturned):
            _with_queues(context, [record.key], lambda queue: queue.returned(body.poll))
        elif isinstance(body, CancelPoll):
            _with_queues(context, [record.key], lambda queue: queue.cancel(body.gateway, body.epoch, body.id))
        elif isinstance(body, DropQuery):
            _with_queues(context, [record.key], lambda queue: queue.drop_query(body.query_id))
        elif isinstance(body, GatewayLease):
            _with_queues(context, leases.renew(context, body), Queue.resume)
        elif isinstance(body, QueueCall):
            _with_queues(context, [record.key], lambda queue: _answer(queue, record, body))
        elif isinstance(body, LimitsChanged):
            limits = context.table(LIMITS.name).entity("")
            for pair in body.values:
                if pair.key in DEFAULT_LIMITS:
                    limits.put(LIMIT, pair.key, pair)
        else:
            raise TypeError(f"{type(body).__name__} does not belong on {TASKS}")

    def due(self, context: Context, key: str, payload: int) -> None:
        """A queue's due time has come."""
        _with_queues(context, [key], Queue.due)

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """A task outlives the failure of the step that brought it: it is in line at the tick that follows."""
        body = record.body
        if isinstance(body, AddTask):
            _forget_view(context.table(QUEUES.name).entity(record.key))
            _with_queues(context, [record.key], lambda queue: queue.enqueue(body))


def _with_queues(context: Context, keys: Sequence[str], action: Callable[[Queue], None]) -> None:
    """Do something with each queue, then arm them all; a step that fails leaves no view behind."""
    queues = [Queue(context, key) for key in keys]
    try:
        for queue in queues:
            action(queue)
    except Exception:
        for queue in queues:
            _forget_view(queue.entity)
        raise
    for queue in queues:
        queue.finish()


def _forget_view(entity: Entity) -> None:
    """Have the view built anew: what a failed step armed is armed no more."""
    entity.view = entity.observer = None


def _poll(record: Record, body: PollTask) -> Poll:
    who = record.correlation
    if who is None:
        raise ValueError("a poll needs a correlation: it is its identity")
    return Poll(
        who.gateway, who.epoch, who.id, body.deadline_ms, body.identity, body.request, body.queue, body.spares
    )


def _answer(queue: Queue, record: Record, call: QueueCall) -> None:
    """Answer a QueueCall. Raises ValueError for a method that is not about queues."""
    if call.method == "DescribeTaskQueue":
        try:
            reply = Reply(body=describe(queue, call))
        except Rejected as error:
            reply = Reply(code=error.code, message=error.message, body=error.status_bytes())
    elif call.method == "ShutdownWorker":
        queue.shut_down()
        reply = Reply()  # ShutdownWorkerResponse has no fields.
    else:
        raise ValueError(f"{call.method} is not a call about a task queue")
    queue.context.reply(record.correlation, reply)
