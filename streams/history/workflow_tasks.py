"""The life of a workflow task: scheduled, started, completed, failed, timed out; also sticky ones,
transient ones and speculative ones.

Behaviour: the real server's workflow task state machine (service/history/workflow, release 1.29.1).
"""

from __future__ import annotations

from typing import Any

import msgspec
from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowTaskCompletedEventAttributes,
    WorkflowTaskFailedEventAttributes,
    WorkflowTaskTimedOutEventAttributes,
)
from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from streams import bodies
from streams.history import facts, state, worker_versions
from streams.history.evolve import applies, applies_fact, emits_fact
from streams.history.run import Run
from streams.history.state import NORMAL, SPECULATIVE, TRANSIENT, WORKFLOW_TASK, WorkflowTask
from streams.history.task_events import scheduled_attributes, started_attributes
from streams.history.values import to_timestamp
from streams.runtime.records import Correlation
from streams.topology import TASKS, queue_key

BACKOFF_FROM_ATTEMPT = 3
"""Attempts above this get a longer start-to-close timeout each, which is the backoff of a failing task."""

BACKOFF_INITIAL_MS = 5_000

SPECULATIVE_SCHEDULE_TO_START_MS = 5_000
"""How long a speculative task may wait on a normal queue before a normal one takes its place."""

EVENT = EventType

_NEW_FROM = (
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND,
)
"""Causes that are no fault of the task: the one that follows is a first attempt."""


def timeout_of_attempt_ms(run: Run, attempt: int) -> int:
    """Start-to-close of an attempt: the run's own, plus the backoff of a task that keeps failing."""
    base = run.core.task_timeout_ms
    if attempt <= BACKOFF_FROM_ATTEMPT:
        return base
    doublings = min(attempt - BACKOFF_FROM_ATTEMPT - 1, 40)
    return base + min(BACKOFF_INITIAL_MS << doublings, run.step.limits.workflow_task_retry_max_interval_ms)


# --- scheduling ---


def schedule(
    run: Run,
    *,
    dispatch: bool = True,
    original_scheduled_ms: int = 0,
    speculative: bool = False,
    at_head: bool = False,
) -> WorkflowTask:
    """Have a workflow task for the run: the one pending, or a new one.

    `dispatch` False leaves the task out of its queue, for a caller that starts it in the same step; `at_head` puts it
    at the head of it.
    """
    pending = run.task
    if pending is not None:
        return pending
    kind = SPECULATIVE if speculative else NORMAL
    if run.has_buffered:
        run.flush()
        if run.core.task_attempt != 1:
            run.change_core(task_attempt=1)
        kind = NORMAL
    core = run.core
    if core.task_attempt > 1:
        kind = TRANSIENT
    sticky = bool(core.sticky_queue)
    to_start_ms = core.sticky_timeout_ms if sticky else 0
    if not sticky and kind == SPECULATIVE:
        to_start_ms = SPECULATIVE_SCHEDULE_TO_START_MS
    task = WorkflowTask(
        kind=kind,
        scheduled_event_id=core.next_event_id,
        attempt=core.task_attempt,
        stamp=core.task_stamp + 1,
        queue=core.sticky_queue or core.task_queue,
        sticky=sticky,
        scheduled_ms=run.step.now_ms,
        original_scheduled_ms=original_scheduled_ms or run.step.now_ms,
        timeout_ms=timeout_of_attempt_ms(run, core.task_attempt),
        to_start_due_ms=run.step.now_ms + to_start_ms if to_start_ms else 0,
    )
    if kind == NORMAL:
        _record_scheduled(run, task)
    run.note(facts.TaskScheduled(task, dispatch, at_head))
    return task


def _record_scheduled(run: Run, task: WorkflowTask, at_ms: int = 0) -> HistoryEvent:
    return run.record(
        EVENT.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        scheduled_attributes(run, task),
        event_time=to_timestamp(at_ms or task.scheduled_ms),
    )


@applies_fact(facts.TaskScheduled)
def _task_scheduled(run: Run, fact: facts.TaskScheduled) -> None:
    run.put(WORKFLOW_TASK, "", fact.task)
    run.set_core(task_stamp=fact.task.stamp)


@emits_fact(facts.TaskScheduled)
def _dispatch(run: Run, fact: facts.TaskScheduled) -> None:
    task = run.task
    if fact.dispatch and task is not None and task.stamp == fact.task.stamp and not task.started_event_id:
        add_to_queue(run, task, at_head=fact.at_head)


def add_to_queue(run: Run, task: WorkflowTask, *, at_head: bool = False) -> None:
    """Send the pending task to its queue."""
    core = run.core
    run.step.context.emit(
        TASKS,
        queue_key(core.namespace, task.queue, bodies.WORKFLOW_TASK),
        bodies.AddTask(
            namespace=core.namespace,
            queue=task.queue,
            task_kind=bodies.WORKFLOW_TASK,
            workflow_id=core.workflow_id,
            run_id=core.run_id,
            scheduled_event_id=task.scheduled_event_id,
            attempt=task.attempt,
            stamp=task.stamp,
            sticky=task.sticky,
            at_head=at_head,
            scheduled_ms=task.scheduled_ms,
            urgent=task.kind == SPECULATIVE,
        ),
    )


def schedule_if_none(run: Run) -> None:
    """What an event to be seen asks for: a task, unless one is pending or the first is yet to come."""
    if run.task is None and not run.core.first_task_due_ms:
        schedule(run)


def drop_sticky(run: Run) -> None:
    """Forget the sticky queue: the next task goes to the normal one."""
    if run.core.sticky_queue:
        run.change_core(sticky_queue="", sticky_timeout_ms=0, offer=None)


def reroute(run: Run) -> None:
    """A waiting sticky task goes to the normal queue: its sticky queue has nobody to take it."""
    task = run.task
    drop_sticky(run)
    if task is None or task.started_event_id or not task.sticky:
        return
    moved = msgspec.structs.replace(
        task,
        queue=run.core.task_queue,
        sticky=False,
        to_start_due_ms=task.to_start_due_ms if task.kind == SPECULATIVE else 0,
        stamp=task.stamp + 1,
    )
    run.note(facts.TaskScheduled(moved, True))


# --- starting ---


def start(
    run: Run, *, request_id: str, identity: str, poll_id: int = 0, version: WorkerVersionStamp | None = None
) -> WorkflowTask:
    """Record that a worker has the pending task; events for a normal one, none for others yet.

    `version` is what the worker calls its code.
    """
    task = run.task
    assert task is not None
    if task.kind != NORMAL and task.scheduled_event_id != run.core.next_event_id:
        # Events came since: what was transient or speculative becomes a task of the history.
        next_id = run.core.next_event_id
        task = msgspec.structs.replace(task, kind=NORMAL, attempt=1, scheduled_event_id=next_id)
        run.change_core(task_attempt=1)
        _record_scheduled(run, task, run.step.now_ms)
    started = msgspec.structs.replace(
        task,
        started_event_id=run.core.next_event_id if task.kind == NORMAL else task.scheduled_event_id + 1,
        started_ms=run.step.now_ms,
        started_due_ms=run.step.now_ms + task.timeout_ms,
        request_id=request_id,
        identity=identity,
        poll_id=poll_id,
        suggest_continue_as_new=suggests_continue_as_new(run),
        history_size_bytes=run.core.history_size_bytes,
    )
    if task.kind == NORMAL:
        _record_started(run, started, version)
    run.set_part(WORKFLOW_TASK, "", started)
    return started


def start_for_poll(
    run: Run, poll: Correlation, identity: str, version: WorkerVersionStamp | None
) -> WorkflowTask:
    """`start` the pending task for a poll of the worker `identity`."""
    task = run.task
    assert task is not None
    request_id = run.step.derived_id("wft", run.core.run_id, task.stamp, poll.gateway, poll.epoch, poll.id)
    return start(run, request_id=request_id, identity=identity, poll_id=poll.id, version=version)


def suggests_continue_as_new(run: Run) -> bool:
    """Whether history or updates have grown enough that the workflow should continue as new."""
    limits, core = run.step.limits, run.core
    updates = limits.updates_total * limits.updates_total_suggest_continue_as_new_percent
    updates_now = run.entity.count(state.UPDATE)
    return (
        core.history_size_bytes >= limits.history_size_suggest_continue_as_new_bytes
        or core.next_event_id > limits.history_count_suggest_continue_as_new
        or (updates > 0 and updates_now * 100 >= updates)
    )


def _record_started(run: Run, task: WorkflowTask, version: WorkerVersionStamp | None) -> HistoryEvent:
    return run.record(
        EVENT.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        started_attributes(task, version),
        event_time=to_timestamp(task.started_ms),
    )


def pending_events(run: Run) -> tuple[HistoryEvent, ...]:
    """The events of a started task that is not in the history: a worker needs to see them at its end."""
    task = run.task
    if task is None or task.kind == NORMAL or not task.started_event_id:
        return ()
    scheduled = HistoryEvent(
        event_id=task.scheduled_event_id,
        event_time=to_timestamp(task.scheduled_ms),
        event_type=EVENT.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
        workflow_task_scheduled_event_attributes=scheduled_attributes(run, task),
    )
    started = HistoryEvent(
        event_id=task.started_event_id,
        event_time=to_timestamp(task.started_ms),
        event_type=EVENT.EVENT_TYPE_WORKFLOW_TASK_STARTED,
        workflow_task_started_event_attributes=started_attributes(task),
    )
    return scheduled, started


def undeliver(run: Run) -> None:
    """The worker never got the started task: it ends with no trace beyond its events, and a new one is made.

    That one goes to the head of the queue. A task whose started event is in the history is recorded as failed (the
    history is append-only).
    """
    task = run.task
    assert task is not None
    if task.kind == NORMAL:
        run.set_part(WORKFLOW_TASK, "", None)
        run.record(
            EVENT.EVENT_TYPE_WORKFLOW_TASK_FAILED,
            WorkflowTaskFailedEventAttributes(
                scheduled_event_id=task.scheduled_event_id,
                started_event_id=task.started_event_id,
                cause=WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,
                failure=Failure(message="the task was not delivered: its poll had ended", source="Server"),
                identity="odradek",
            ),
        )
        schedule(run, at_head=run.step.returns_to_head)
        return
    waiting = msgspec.structs.replace(
        task,
        started_event_id=0,
        started_ms=0,
        started_due_ms=0,
        request_id="",
        poll_id=0,
        stamp=task.stamp + 1,
    )
    run.note(facts.TaskScheduled(waiting, True, run.step.returns_to_head))


# --- ending ---


def _materialize(
    run: Run, task: WorkflowTask, identity: str, version: WorkerVersionStamp | None = None
) -> WorkflowTask:
    """Put the events of a transient or speculative task into the history now that it ends.

    `identity` and `version` are those of the worker that ended it.
    """
    scheduled = _record_scheduled(run, task)
    task = msgspec.structs.replace(task, scheduled_event_id=scheduled.event_id, identity=identity)
    started = _record_started(run, task, version)
    return msgspec.structs.replace(task, started_event_id=started.event_id)


def forget(run: Run) -> None:
    """The running task is over, and well."""
    run.set_part(WORKFLOW_TASK, "", None)
    if run.core.task_attempt != 1 or run.core.close_attempted:
        run.change_core(task_attempt=1, close_attempted=False)


def complete(run: Run, task: WorkflowTask, request: RespondWorkflowTaskCompletedRequest) -> HistoryEvent:
    """End the running task well: its events are in the history then. The caller handles the commands."""
    forget(run)
    version = request.worker_version_stamp if request.HasField("worker_version_stamp") else None
    if task.kind != NORMAL:
        task = _materialize(run, task, request.identity, version)
    attributes = WorkflowTaskCompletedEventAttributes(
        scheduled_event_id=task.scheduled_event_id,
        started_event_id=task.started_event_id,
        identity=request.identity,
        binary_checksum=request.binary_checksum,
        worker_version=version,
    )
    if request.HasField("sdk_metadata"):
        attributes.sdk_metadata.CopyFrom(request.sdk_metadata)
    if request.HasField("metering_metadata"):
        attributes.metering_metadata.CopyFrom(request.metering_metadata)
    known = run.entity.get(state.SEARCH)
    event = run.record(EVENT.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, attributes)
    if run.entity.get(state.SEARCH) is not known:
        run.note(worker_versions.AttributesGrown())
    return event


@applies(EVENT.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
def _completed(run: Run, event: HistoryEvent) -> None:
    worker_versions.completed(run, event)
    attributes = event.workflow_task_completed_event_attributes
    run.set_core(
        last_started_event_id=attributes.started_event_id,
        last_completed_event_id=event.event_id,
        first_task_due_ms=0,
        build_id=attributes.worker_version.build_id,
    )


def fail(
    run: Run,
    cause: WorkflowTaskFailedCause.ValueType,
    failure: Failure | None,
    identity: str,
    *,
    binary_checksum: str = "",
    version: WorkerVersionStamp | None = None,
    attributes: dict[str, Any] | None = None,
) -> HistoryEvent | None:
    """End the running task badly. No event for a transient one: a failing task does not grow the history.

    `version` is what the worker that failed it calls its code, `attributes` are further fields of the event (a
    reset's run ids).
    """
    task = run.task
    assert task is not None
    _end_badly(run)
    if cause in _NEW_FROM and run.core.task_attempt != 1:
        run.change_core(task_attempt=1)
    elif cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND:
        run.change_core(close_attempted=True)
    if task.kind == TRANSIENT:
        return None
    if task.kind == SPECULATIVE:
        task = _materialize(run, task, identity, version)
    return run.record(
        EVENT.EVENT_TYPE_WORKFLOW_TASK_FAILED,
        WorkflowTaskFailedEventAttributes(
            scheduled_event_id=task.scheduled_event_id,
            started_event_id=task.started_event_id,
            cause=cause,
            failure=failure,
            identity=identity,
            binary_checksum=binary_checksum,
            **(attributes or {}),
        ),
    )


def _end_badly(run: Run) -> None:
    """The task is gone. The next attempt counts up, unless this was sticky: the normal queue gets a try."""
    run.set_part(WORKFLOW_TASK, "", None)
    if run.core.close_attempted:
        run.change_core(close_attempted=False)
    if run.core.sticky_queue:
        drop_sticky(run)
        run.change_core(task_attempt=1)
    else:
        run.change_core(task_attempt=run.core.task_attempt + 1)


def time_out(run: Run) -> None:
    """The pending task is past its deadline: schedule-to-start on a sticky queue, else start-to-close."""
    task = run.task
    assert task is not None
    if task.started_event_id:
        _end_badly(run)
        if task.kind == TRANSIENT:
            schedule(run)
            return
        if task.kind == SPECULATIVE:
            task = _materialize(run, task, "")
        kind = TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    else:
        drop_sticky(run)
        if task.kind == SPECULATIVE:
            scheduled = _record_scheduled(run, task)
            task = msgspec.structs.replace(task, scheduled_event_id=scheduled.event_id)
        elif task.kind == TRANSIENT:
            run.set_part(WORKFLOW_TASK, "", None)
            schedule(run)
            return
        run.set_part(WORKFLOW_TASK, "", None)
        kind = TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START
    run.record(
        EVENT.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        WorkflowTaskTimedOutEventAttributes(
            scheduled_event_id=task.scheduled_event_id,
            started_event_id=task.started_event_id,
            timeout_type=kind,
        ),
    )
    schedule(run)


def relieve_buffer(run: Run) -> None:
    """Fail the running task when more is buffered than may be: so the events get into the history."""
    if run.task_running and run.core.buffered_bytes > run.step.limits.buffered_events_bytes:
        cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
        fail(run, cause, None, "history-service")
        run.flush()
        schedule(run)
