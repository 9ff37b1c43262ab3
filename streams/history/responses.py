"""Answers that hand a workflow task to a worker. The events travel beside them (Reply.attach_*)."""

from __future__ import annotations

from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedResponse,
)

from streams import bodies
from streams.history import queries, task_events, updates, workflow_tasks
from streams.history.run import Run
from streams.history.values import to_timestamp
from streams.runtime.records import Correlation, Reply
from streams.task_token import TaskToken


def token(run: Run) -> bytes:
    """The token of the running workflow task."""
    core, task = run.core, run.task
    assert task is not None
    return TaskToken(
        namespace=core.namespace,
        workflow_id=core.workflow_id,
        run_id=core.run_id,
        task_kind=bodies.WORKFLOW_TASK,
        scheduled_event_id=task.scheduled_event_id,
        attempt=task.attempt,
        stamp=task.stamp,
        started_event_id=task.started_event_id,
        queue=task.queue,
    ).encode()


def workflow_task(
    run: Run, sticky: bool, *, heartbeat: bool = False
) -> tuple[PollWorkflowTaskQueueResponse, int, int]:
    """The response for the task that just started, and the first and last event to send beside it.

    `sticky` workers know the history up to their last task; others get all of it. Events of a task that is not
    in the history come inside the response, after those.
    """
    core, task = run.core, run.task
    assert task is not None
    response = PollWorkflowTaskQueueResponse(
        task_token=token(run),
        workflow_execution=WorkflowExecution(workflow_id=core.workflow_id, run_id=core.run_id),
        previous_started_event_id=core.last_started_event_id,
        started_event_id=task.started_event_id,
        attempt=task.attempt,
        workflow_execution_task_queue=task_events.task_queue_message(core.task_queue, False, ""),
        scheduled_time=to_timestamp(task.scheduled_ms),
        started_time=to_timestamp(task.started_ms),
    )
    response.workflow_type.name = core.workflow_type
    response.history.events.extend(workflow_tasks.pending_events(run))
    updates.send(run, response, new_only=heartbeat)
    queries.send(run, response)
    first = core.last_started_event_id + 1 if sticky and core.last_started_event_id else 1
    return response, first, core.next_event_id - 1


def reply_poll(run: Run, correlation: Correlation, backlog_count: int) -> None:
    """Send the task that just started to the poll it was matched with; so many more wait in its queue."""
    task = run.task
    assert task is not None
    response, first, last = workflow_task(run, task.sticky)
    response.backlog_count_hint = backlog_count
    _reply(run, correlation, "poll-workflow", response.SerializeToString(deterministic=True), first, last)


def reply_completed_with_task(
    run: Run, response: RespondWorkflowTaskCompletedResponse, *, heartbeat: bool
) -> None:
    """Answer a completed task with the next one, started in the same step."""
    nested, first, last = workflow_task(run, sticky=True, heartbeat=heartbeat)
    response.workflow_task.CopyFrom(nested)
    reply_with_events(run, "completed", response, first, last)


def reply_with_events(run: Run, kind: str, response: Message, first: int, last: int) -> None:
    """Answer the step's own call with a response that has events `first`..`last` beside it."""
    correlation = run.step.correlation
    assert correlation is not None
    _reply(run, correlation, kind, response.SerializeToString(deterministic=True), first, last)


def _reply(run: Run, correlation: Correlation, kind: str, body: bytes, first: int, last: int) -> None:
    run.step.context.reply(
        correlation,
        Reply(body=body, attach_run=run.core.run_id, attach_first=first, attach_last=last, kind=kind),
    )


def poll_correlation(poll: bodies.Poll) -> Correlation:
    """Where a matched poll is answered."""
    return Correlation(poll.gateway, poll.epoch, poll.id)
