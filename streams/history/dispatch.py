"""Matching paired a task with a poll: start it, or send the poll back."""

from __future__ import annotations

from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest

from streams import bodies
from streams.history import activities, arming, expiry, queries, reset, responses, workflow_tasks
from streams.history.calls import handles_body
from streams.history.run import Run
from streams.history.step import Step
from streams.topology import TASKS, queue_key


@handles_body(bodies.StartTask)
def start_task(step: Step, body: bodies.StartTask) -> None:
    """Start the task for the poll; one that is obsolete leaves the poll to be matched again."""
    run = step.run(body.run_id)
    poll = body.poll
    started = False
    if run.exists and step.now_ms <= poll.deadline_ms:
        if body.task_kind == bodies.WORKFLOW_TASK:
            started = _start_workflow_task(run, body)
        elif body.task_kind == bodies.ACTIVITY_TASK:
            started = activities.start(run, body)
        else:
            started = queries.start_direct(run, body)
    elif run.exists and (run.is_open or body.task_kind == bodies.QUERY_TASK):
        _back_to_queue(run, body)
    if not started:
        step.context.emit(
            TASKS,
            queue_key(body.namespace, poll.queue, body.task_kind),
            bodies.PollReturned(body.namespace, body.task_kind, poll),
        )


def _start_workflow_task(run: Run, body: bodies.StartTask) -> bool:
    task = run.task
    if not run.is_open or task is None or task.started_event_id or task.stamp != body.stamp:
        return False
    poll = body.poll
    where = responses.poll_correlation(poll)
    workflow_tasks.start_for_poll(run, where, poll.identity, _version(poll))
    responses.reply_poll(run, where, body.backlog_count)
    return True


def _version(poll: bodies.Poll) -> WorkerVersionStamp | None:
    """What the worker that polls calls its code."""
    build_id = PollWorkflowTaskQueueRequest.FromString(poll.request).worker_version_capabilities.build_id
    return WorkerVersionStamp(build_id=build_id) if build_id else None


def _back_to_queue(run: Run, body: bodies.StartTask) -> None:
    """The poll ended before the task reached it: the task goes to the head of its queue."""
    if body.task_kind == bodies.WORKFLOW_TASK:
        task = run.task
        if task is not None and not task.started_event_id and task.stamp == body.stamp:
            workflow_tasks.add_to_queue(run, task, at_head=True)
    elif body.task_kind == bodies.ACTIVITY_TASK:
        activities.back_to_queue(run, body)
    else:
        queries.back_to_queue(run, body)


@handles_body(bodies.TaskUndelivered)
def task_undelivered(step: Step, body: bodies.TaskUndelivered) -> None:
    """A gateway got a started task for a poll that was gone: undo the dispatch, without counting an attempt."""
    run = step.run(body.run_id)
    if not run.exists:
        return
    if body.task_kind == bodies.QUERY_TASK:
        queries.undeliver(run, body)
    elif not run.is_open:
        return
    elif body.task_kind == bodies.WORKFLOW_TASK:
        task = run.task
        if (
            task is not None
            and task.started_event_id
            and task.stamp == body.stamp
            and task.poll_id == body.poll_id
        ):
            workflow_tasks.undeliver(run)
    else:
        activities.undeliver(run, body)


@handles_body(bodies.StickyUnavailable)
def sticky_unavailable(step: Step, body: bodies.StickyUnavailable) -> None:
    """Nobody polls the sticky queue of the run: its task goes to the normal one."""
    run = step.run(body.run_id)
    if not run.exists:
        return
    if body.task_kind == bodies.QUERY_TASK:
        queries.reroute(run, body)
        return
    task = run.task
    if run.is_open and task is not None and task.stamp == body.stamp:
        workflow_tasks.reroute(run)


@handles_body(bodies.FireTimer)
def fire_timer(step: Step, body: bodies.FireTimer) -> None:
    """The armed deadline is due; another version's fire is stale (fold.md rule 12)."""
    run = step.run(body.run_id)
    if not run.exists:
        reset.forget(run)
        return
    arming.fired(run, body.version)
    if run.core.armed_version != body.version:
        return
    run.change_core(armed_due_ms=0)
    fire_due(run)


def fire_due(run: Run) -> None:
    """Handle everything of the run that is due by now, in (due, kind, id) order."""
    for kind, id in run.deadlines.due(run.step.now_ms):
        part = run.entity.get(kind, id)
        if part is not None and 0 < part.deadline_ms() <= run.step.now_ms:
            expiry.EXPIRE[kind](run, id)
