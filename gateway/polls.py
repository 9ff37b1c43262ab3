"""Workers' long polls: they wait in matching, and nobody is left holding a task that was not delivered."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

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
from streams.bodies import ACTIVITY_TASK, WORKFLOW_TASK, CancelPoll, PollTask, TaskUndelivered
from streams.runtime.records import Correlation, Reply
from streams.task_token import TaskToken
from streams.topology import COMMANDS, TASKS, queue_key, workflow_key

PollRequest = PollWorkflowTaskQueueRequest | PollActivityTaskQueueRequest

MIN_TIMEOUT_S: Final = 2.0
"""A shorter deadline than this is refused."""
MARGIN_S: Final = 5.0
"""How long before its client a poll ends, so that a task given to it still reaches the client."""

_STICKY: Final = TaskQueueKind.TASK_QUEUE_KIND_STICKY
_VERSIONED: Final = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
_NO_TASK: Final = Reply()
_NO_HINT: Final = splice.varint(PollWorkflowTaskQueueResponse.BACKLOG_COUNT_HINT_FIELD_NUMBER << 3) + b"\0"
_OPERATIONS: Final = {WORKFLOW_TASK: "PollWorkflowTaskQueue", ACTIVITY_TASK: "PollActivityTaskQueue"}


class _Waiting(msgspec.Struct):
    """A poll in matching: `ended_ms` is when nothing can come for it any more."""

    correlation: Correlation
    key: str
    task_kind: str
    ended_ms: int
    future: asyncio.Future[Reply]


class Polls:
    """Handlers of PollWorkflowTaskQueue and PollActivityTaskQueue."""

    def __init__(self, backend: Backend, histories: Histories, metrics: ServiceMetrics) -> None:
        self._backend = backend
        self._metrics = metrics
        self._histories = histories
        self._waiting: dict[int, _Waiting] = {}
        self._gone: dict[int, _Waiting] = {}
        self._at_queue: Counter[tuple[str, str]] = Counter()
        self._draining = False
        backend.replies.not_awaited = self._not_awaited

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
        reply, id = await self._poll(request, WORKFLOW_TASK, timeout_s, data)
        try:
            response = await self._histories.attach(reply)
            return response if not response or self._may_hint(request) else response + _NO_HINT
        except errors.ApiError as error:
            if error.code != errors.DATA_LOSS:  # Damage stays: the task times out, and is tried ever later.
                self._undelivered(reply, WORKFLOW_TASK, id)
            raise
        except BaseException:  # cancelled, or the events cannot be read
            self._undelivered(reply, WORKFLOW_TASK, id)
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
        reply, _ = await self._poll(request, ACTIVITY_TASK, timeout_s, data)
        return reply.body

    @property
    def waiting(self) -> int:
        """Polls that wait for a task."""
        return len(self._waiting)

    def _may_hint(self, request: PollWorkflowTaskQueueRequest) -> bool:
        """Whether a worker may be told of its sticky queue's backlog.

        While it knows of one it polls no other queue. So it has to have a poll left at its normal queue, or, under
        a steady load, workflows that begin later would never get their first task.
        """
        queue = request.task_queue
        if queue.kind != _STICKY:
            return True  # SDKs look at the hint of sticky queues alone.
        normal = queue_key(request.namespace, queue.normal_name, WORKFLOW_TASK)
        return self._at_queue[normal, request.identity] > 0

    def drain(self) -> None:
        """End all polls without a task, and those that come."""
        self._draining = True
        for waiting in list(self._waiting.values()):
            if not waiting.future.done():
                self._leave(waiting)
                waiting.future.set_result(_NO_TASK)

    async def _poll(
        self, request: PollRequest, task_kind: str, timeout_s: float, data: bytes
    ) -> tuple[Reply, int]:
        """Wait in matching. Returns the reply, empty when there was no task, and the poll's id."""
        if self._draining:
            return _NO_TASK, 0
        backend, queue = self._backend, request.task_queue
        key = queue_key(request.namespace, queue.name, task_kind)
        deadline_ms = backend.now_ms() + int(timeout_s * 1000)
        correlation, future = backend.replies.expect()
        waiting = _Waiting(correlation, key, task_kind, deadline_ms + int(MARGIN_S * 1000), future)
        self._waiting[correlation.id] = waiting
        worker = (key, request.identity)
        self._at_queue[worker] += 1
        body = PollTask(
            request.namespace,
            queue.name,
            task_kind,
            request.identity,
            deadline_ms,
            data,
            queue.kind == _STICKY,
        )
        backend.engine.append(TASKS, key, body, correlation)
        try:
            reply = await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._leave(waiting)
            else:  # cancelled between the reply's arrival and here
                self._undelivered(future.result(), task_kind, correlation.id)
            raise
        finally:
            del self._waiting[correlation.id]
            self._at_queue[worker] -= 1
            if not self._at_queue[worker]:
                del self._at_queue[worker]
        if reply.code:
            raise errors.ApiError(reply.code, reply.message, reply.body)
        self._metrics.polled(_OPERATIONS[task_kind], request.namespace, queue.name, got_task=bool(reply.body))
        return reply, correlation.id

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

    def _leave(self, waiting: _Waiting) -> None:
        """Take a poll out of matching; a task may be on its way to it."""
        correlation = waiting.correlation
        self._backend.replies.forget(correlation.id)
        self._gone[correlation.id] = waiting
        self._forget_ended()
        body = CancelPoll(correlation.gateway, correlation.epoch, correlation.id)
        self._backend.engine.append(TASKS, waiting.key, body)

    def _forget_ended(self) -> None:
        """Drop the oldest polls that are gone once nothing can come for them."""
        now_ms = self._backend.now_ms()
        for id, waiting in list(self._gone.items())[:2]:
            if waiting.ended_ms < now_ms:
                del self._gone[id]

    def _not_awaited(self, id: int, reply: Reply) -> None:
        waiting = self._gone.pop(id, None)
        if waiting is not None:
            self._undelivered(reply, waiting.task_kind, id)

    def _undelivered(self, reply: Reply, task_kind: str, id: int) -> None:
        """Give a task back that reached no worker."""
        if reply.code or not reply.body:
            return
        token = _token_of(reply, task_kind)
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
            id,
        )
        self._backend.engine.append(COMMANDS, workflow_key(token.namespace, token.workflow_id), body)


def _token_of(reply: Reply, task_kind: str) -> TaskToken | None:
    if task_kind == ACTIVITY_TASK:
        data = PollActivityTaskQueueResponse.FromString(reply.body).task_token
    else:
        data = PollWorkflowTaskQueueResponse.FromString(reply.body).task_token
    return TaskToken.decode(data) if data else None
