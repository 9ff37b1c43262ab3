"""Queries: clients' questions about a run, carried by its next workflow task or by a task of their own.

A query must see every event before it. With a workflow task pending there are events that the workflow has
not seen: the query rides on the next one that starts. Otherwise it gets a query task, straight to the queue.

Behaviour: service/history/api/queryworkflow and query_registry.go of the real server.
"""

from __future__ import annotations

import msgspec
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import (
    QueryRejectCondition,
    QueryResultType,
    ResourceExhaustedCause,
    WorkflowExecutionStatus,
)
from temporalio.api.query.v1 import QueryRejected, WorkflowQuery, WorkflowQueryResult
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    QueryWorkflowRequest,
    QueryWorkflowResponse,
    RespondQueryTaskCompletedRequest,
    RespondQueryTaskCompletedResponse,
    RespondWorkflowTaskCompletedRequest,
)

from streams import bodies, topology
from streams.avro import DecodeError
from streams.history import errors, task_events, workflow_tasks
from streams.history.calls import handles_body, handles_call
from streams.history.errors import Rejected
from streams.history.evolve import applies_fact, emits_fact
from streams.history.failure_depth import cut_causes
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.state import QUERY, Query
from streams.history.step import Step
from streams.runtime.records import Correlation, Reply
from streams.task_token import TaskToken

BUFFERED = "buffered"
DIRECT = "direct"

FAILING_ATTEMPT = 3
"""From this attempt of the workflow task on, the worker is taken for unable to answer queries."""

COMPLETED_STATUS = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED
ANSWERED = QueryResultType.QUERY_RESULT_TYPE_ANSWERED
FAILED = QueryResultType.QUERY_RESULT_TYPE_FAILED


class QueryDispatched(msgspec.Struct, frozen=True):
    """A query is for a task queue now; `at_head` when its task comes back undelivered."""

    id: str
    query: Query
    at_head: bool = False


@handles_call("QueryWorkflow")
def query_call(step: Step, call: bodies.Call) -> None:
    """Take a query; its caller is answered when a worker has."""
    request = QueryWorkflowRequest.FromString(call.request)
    run = find_run(step, call.run_id)
    core = run.core
    if _rejects(request.query_reject_condition, core.status):
        step.reply(QueryWorkflowResponse(query_rejected=QueryRejected(status=core.status)))  # type: ignore[arg-type]
        return
    _check_ready(run, call.deadline_ms)
    where = step.correlation
    assert where is not None
    direct = core.last_started_event_id != 0 and run.task is None
    query = Query(
        state=DIRECT if direct else BUFFERED,
        query=request.query.SerializeToString(deterministic=True),
        gateway=where.gateway,
        epoch=where.epoch,
        call_id=where.id,
        deadline_ms=call.deadline_ms,
    )
    id = step.derived_id("query", where.gateway, where.epoch, where.id)
    _forget_expired(run)
    if direct:
        run.note(QueryDispatched(id, query))
        return
    if len(_buffered(run)) >= step.limits.buffered_queries:
        raise errors.exhausted(
            "consistent query buffer is full, this may be caused by too many queries and workflow not able to"
            " process query fast enough",
            ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW,
        )
    run.set_part(QUERY, id, query)


@handles_body(bodies.CancelQuery)
def cancel(step: Step, body: bodies.CancelQuery) -> None:
    """Drop a query whose client went away. One whose run is not the current one any more lapses by itself."""
    current = step.current
    run = step.run(body.run_id or (current.run_id if current else ""))
    for id, query in run.entity.items(QUERY):
        if _caller(query) == Correlation(body.gateway, body.epoch, body.call_id):
            run.set_part(QUERY, id, None)
            if query.state == DIRECT:
                _drop_from_queue(run, id)


def _rejects(condition: QueryRejectCondition.ValueType, status: int) -> bool:
    if status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING:
        return False
    if condition == QueryRejectCondition.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY:
        return status != COMPLETED_STATUS
    return condition == QueryRejectCondition.QUERY_REJECT_CONDITION_NOT_OPEN


def _never_run() -> Rejected:
    return errors.not_ready("Workflow execution closed before WorkflowTaskStarted event")


def _check_ready(run: Run, deadline_ms: int) -> None:
    """Refuse a query that no worker could answer. Raises Rejected (FAILED_PRECONDITION)."""
    core = run.core
    seen = core.last_started_event_id != 0
    if not run.is_open and not seen:
        raise _never_run()
    if run.task is None and not seen and core.first_task_due_ms > deadline_ms:
        raise errors.not_ready("Workflow task is not scheduled yet.")
    if core.task_attempt >= FAILING_ATTEMPT:
        raise errors.not_ready("Unable to query workflow due to Workflow Task in failed state.")


def _buffered(run: Run) -> list[tuple[str, Query]]:
    return [(id, query) for id, query in run.entity.items(QUERY) if query.state == BUFFERED]


def _forget_expired(run: Run) -> None:
    """Drop the queries that nobody waits for any more."""
    for id, query in run.entity.items(QUERY):
        if query.deadline_ms <= run.step.now_ms:
            run.set_part(QUERY, id, None)


# --- on workflow tasks ---


def send(run: Run, response: PollWorkflowTaskQueueResponse) -> None:
    """Put the buffered queries on the workflow task that just started, also what a failed one carried."""
    _forget_expired(run)
    for id, query in _buffered(run):
        response.queries[id].CopyFrom(WorkflowQuery.FromString(query.query))


def answer(run: Run, request: RespondWorkflowTaskCompletedRequest) -> None:
    """Answer the queries that the completed task carried.

    Unless another task follows, the rest need not wait for one: they have seen all there is.
    """
    _forget_expired(run)
    for id, query in _buffered(run):
        if id in request.query_results:
            _answer_from_task(run, id, query, request.query_results[id])
    if run.task is None:
        release(run)


def _answer_from_task(run: Run, id: str, query: Query, result: WorkflowQueryResult) -> None:
    caller = _caller(query)
    if result.answer.ByteSize() > run.step.limits.blob_size_error_bytes:
        run.step.reply_error(errors.invalid("Blob data size exceeds limit."), caller)
    elif result.result_type == ANSWERED and result.HasField("answer") and not result.error_message:
        run.step.reply(QueryWorkflowResponse(query_result=result.answer), caller)
    elif result.result_type == FAILED and not result.HasField("answer") and result.error_message:
        cut_causes(result.failure)
        failure = result.failure if result.HasField("failure") else None
        run.step.reply_error(errors.query_failed(result.error_message, failure), caller)
    else:
        return
    run.set_part(QUERY, id, None)


def release(run: Run) -> None:
    """No workflow task is to come: buffered queries get tasks of their own."""
    for id, query in _buffered(run):
        if run.core.last_started_event_id:
            run.note(QueryDispatched(id, msgspec.structs.replace(query, state=DIRECT)))
        else:
            run.step.reply_error(_never_run(), _caller(query))
            run.set_part(QUERY, id, None)


def _caller(query: Query) -> Correlation:
    return Correlation(query.gateway, query.epoch, query.call_id)


# --- tasks of their own ---


@applies_fact(QueryDispatched)
def _dispatched(run: Run, fact: QueryDispatched) -> None:
    run.put(QUERY, fact.id, fact.query)


@emits_fact(QueryDispatched)
def _add_to_queue(run: Run, fact: QueryDispatched) -> None:
    core = run.core
    queue = core.sticky_queue or core.task_queue
    run.step.context.emit(
        topology.TASKS,
        topology.queue_key(core.namespace, queue, bodies.QUERY_TASK),
        bodies.AddTask(
            namespace=core.namespace,
            queue=queue,
            task_kind=bodies.QUERY_TASK,
            workflow_id=core.workflow_id,
            run_id=core.run_id,
            scheduled_event_id=0,
            attempt=1,
            stamp=fact.query.stamp,
            query_id=fact.id,
            sticky=bool(core.sticky_queue),
            at_head=fact.at_head,
            expires_ms=fact.query.deadline_ms,
            scheduled_ms=run.step.now_ms,
            urgent=True,
        ),
        _caller(fact.query),
    )


def _drop_from_queue(run: Run, id: str) -> None:
    """Take the task of a query out of its queue. One in a queue that the run has left goes when a poll meets it."""
    core = run.core
    queue = core.sticky_queue or core.task_queue
    run.step.context.emit(
        topology.TASKS, topology.queue_key(core.namespace, queue, bodies.QUERY_TASK), bodies.DropQuery(id)
    )


def _direct(run: Run, id: str, stamp: int) -> Query | None:
    """The query of a query task, None when nobody waits for it or another task of it is out."""
    query: Query | None = run.entity.get(QUERY, id)
    if query is None or query.state != DIRECT or query.stamp != stamp or query.deadline_ms <= run.step.now_ms:
        return None
    return query


def _dispatch_again(run: Run, id: str, query: Query, *, at_head: bool = False) -> None:
    run.note(QueryDispatched(id, msgspec.structs.replace(query, stamp=query.stamp + 1), at_head))


def start_direct(run: Run, body: bodies.StartTask) -> bool:
    """Send a query that has a task of its own to the poll; False when nobody waits for it any more."""
    query = _direct(run, body.query_id, body.stamp)
    if query is None:
        return False
    core, poll = run.core, body.poll
    sticky = poll.queue == core.sticky_queue
    response = PollWorkflowTaskQueueResponse(
        task_token=TaskToken(
            namespace=core.namespace,
            workflow_id=core.workflow_id,
            run_id=core.run_id,
            task_kind=bodies.QUERY_TASK,
            scheduled_event_id=0,
            attempt=1,
            stamp=query.stamp,
            query_id=body.query_id,
            queue=poll.queue,
        ).encode(),
        workflow_execution=WorkflowExecution(workflow_id=core.workflow_id, run_id=core.run_id),
        previous_started_event_id=core.last_started_event_id,
        attempt=1,
        query=WorkflowQuery.FromString(query.query),
        backlog_count_hint=body.backlog_count,
        workflow_execution_task_queue=task_events.task_queue_message(core.task_queue, False, ""),
    )
    response.workflow_type.name = core.workflow_type
    response.history.SetInParent()
    run.step.context.reply(
        Correlation(poll.gateway, poll.epoch, poll.id),
        Reply(
            body=response.SerializeToString(deterministic=True),
            attach_run="" if sticky else core.run_id,
            attach_first=0 if sticky else 1,
            attach_last=0 if sticky else core.next_event_id - 1,
            kind="poll-workflow",
        ),
    )
    return True


def back_to_queue(run: Run, body: bodies.StartTask) -> None:
    """The poll ended before the query reached it: its task goes to the head of its queue."""
    query = _direct(run, body.query_id, body.stamp)
    if query is not None:
        _dispatch_again(run, body.query_id, query, at_head=True)


def undeliver(run: Run, body: bodies.TaskUndelivered) -> None:
    """The worker never got the query: it is dispatched again."""
    query = _direct(run, body.query_id, body.stamp)
    if query is not None:
        _dispatch_again(run, body.query_id, query, at_head=True)


def reroute(run: Run, body: bodies.StickyUnavailable) -> None:
    """Nobody polls the sticky queue: the run leaves it, and the query goes to the normal one."""
    query = _direct(run, body.query_id, body.stamp)
    if query is not None:
        workflow_tasks.drop_sticky(run)
        _dispatch_again(run, body.query_id, query)


@handles_call("RespondQueryTaskCompleted")
def respond_completed(step: Step, call: bodies.Call) -> None:
    """A worker answers a query task: pass it on to the query's caller."""
    request = RespondQueryTaskCompletedRequest.FromString(call.request)
    try:
        token = TaskToken.decode(request.task_token)
    except DecodeError as error:
        raise errors.invalid("Failed to deserialize task token.") from error
    run = step.run(token.run_id)
    query: Query | None = run.entity.get(QUERY, token.query_id)
    if query is None or query.state != DIRECT or query.deadline_ms <= step.now_ms:
        raise errors.not_found("query task not found, or already expired")
    caller = _caller(query)
    if request.completed_type == ANSWERED:
        answer = request.query_result if request.HasField("query_result") else None
        step.reply(QueryWorkflowResponse(query_result=answer), caller)
    elif request.completed_type == FAILED:
        cut_causes(request.failure)
        failure = request.failure if request.HasField("failure") else None
        step.reply_error(errors.query_failed(request.error_message, failure), caller)
    else:
        step.reply_error(errors.invalid("unknown query completed type"), caller)
    run.set_part(QUERY, token.query_id, None)
    step.reply(RespondQueryTaskCompletedResponse())
