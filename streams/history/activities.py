"""Activities: scheduled and canceled by workflows, handed to workers.

What workers answer is in `activity_results`, retries and timeouts in `activity_retries`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from temporalio.api.command.v1 import (
    RequestCancelActivityTaskCommandAttributes,
    ScheduleActivityTaskCommandAttributes,
)
from temporalio.api.common.v1 import Payload, Payloads, WorkerVersionStamp, WorkflowExecution
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ActivityTaskCanceledEventAttributes,
    ActivityTaskCancelRequestedEventAttributes,
    ActivityTaskScheduledEventAttributes,
    ActivityTaskStartedEventAttributes,
    HistoryEvent,
)
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse

from streams import bodies
from streams.history import command_checks, facts, priorities, responses, state, workflow_tasks
from streams.history.calls import handles_command
from streams.history.command_checks import nanoseconds
from streams.history.commands import Commands
from streams.history.errors import BadCommand
from streams.history.evolve import applies, applies_fact, emits_fact
from streams.history.run import Run
from streams.history.state import ACTIVITY, Activity, number_id
from streams.history.values import copy_fields, duration_ms, timestamp_ms, to_timestamp
from streams.runtime.records import Reply
from streams.task_token import TaskToken
from streams.topology import TASKS, queue_key

CAUSE = WorkflowTaskFailedCause
BAD_SCHEDULE = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
BAD_CANCEL = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_REQUEST_CANCEL_ACTIVITY_ATTRIBUTES

_SCHEDULE = "ScheduleActivityTaskCommand"
_INVALID_STATE = "invalid history builder state for action: "

_ENDED = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "activity_task_completed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: "activity_task_failed_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "activity_task_timed_out_event_attributes",
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "activity_task_canceled_event_attributes",
}


def find(run: Run, scheduled_event_id: int) -> Activity | None:
    """The pending activity that was scheduled with this event."""
    activity: Activity | None = run.entity.get(ACTIVITY, number_id(scheduled_event_id))
    return activity


def find_by_id(run: Run, activity_id: str) -> Activity | None:
    """The pending activity that the workflow gave this id."""
    for activity in run.entity.group(ACTIVITY).values():
        if activity.activity_id == activity_id:
            found: Activity = activity
            return found
    return None


def scheduled_attributes(activity: Activity) -> ActivityTaskScheduledEventAttributes:
    """The attributes of the event that scheduled it."""
    return ActivityTaskScheduledEventAttributes.FromString(activity.scheduled)


def change(run: Run, activity: Activity, **changes: Any) -> Activity:
    """Record that operational fields of a pending activity changed."""
    changed = msgspec.structs.replace(activity, **changes)
    run.set_part(ACTIVITY, number_id(activity.scheduled_event_id), changed)
    return changed


# --- scheduling ---


@handles_command(CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK, "schedule_activity_task_command_attributes")
def schedule(commands: Commands, attributes: ScheduleActivityTaskCommandAttributes) -> None:
    """Schedule an activity and send it to its queue, or hand it to the worker with the answer."""
    run, limits = commands.run, commands.step.limits
    _validate(commands, attributes)
    if attributes.use_workflow_build_id and attributes.task_queue.name != run.core.task_queue:
        raise BadCommand(
            BAD_SCHEDULE, "Activity with UseCompatibleVersion cannot run on different task queue."
        )
    message = "ScheduleActivityTaskCommandAttributes.Input exceeds size limit."
    commands.check_size(attributes.input.ByteSize(), BAD_SCHEDULE, message)
    command_checks.check_pending(
        run.entity.count(ACTIVITY),
        limits.pending_activities,
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED,
        "pending activities",
    )
    if find_by_id(run, attributes.activity_id) is not None:
        raise BadCommand(
            CAUSE.WORKFLOW_TASK_FAILED_CAUSE_SCHEDULE_ACTIVITY_DUPLICATE_ID,
            f"{_INVALID_STATE}add-activitytask-scheduled-event, ActivityID: {attributes.activity_id}",
        )
    event = run.record(
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        _event_attributes(attributes, commands.completed_event_id),
        **commands.event_extra,
    )
    if attributes.request_eager_execution and limits.eager_activities:
        commands.after.append(lambda: _start_eagerly(commands, event.event_id))
    else:
        activity = find(run, event.event_id)
        run.note(facts.ActivityDispatched(activity))


def _validate(commands: Commands, attributes: ScheduleActivityTaskCommandAttributes) -> None:
    """Refuse what the real server refuses, and fill in what the event always has."""
    commands.require_attributes("ScheduleActivityTask", BAD_SCHEDULE)
    limit = commands.step.limits.id_length
    activity_id, activity_type = attributes.activity_id, attributes.activity_type.name
    suffix = f" ActivityId={activity_id} ActivityType={activity_type}"
    wrong = (
        command_checks.complete_task_queue(attributes.task_queue, "", limit)
        if attributes.HasField("task_queue")
        else "taskQueue is not set"
    )
    command_checks.reject(f"invalid TaskQueue on {_SCHEDULE}", wrong, suffix)
    if not activity_id:
        raise BadCommand(BAD_SCHEDULE, f"ActivityId is not set on {_SCHEDULE}. ActivityType={activity_type}")
    if not activity_type:
        raise BadCommand(BAD_SCHEDULE, f"ActivityType is not set on {_SCHEDULE}. ActivityID={activity_id}")
    wrong = command_checks.complete_retry_policy(attributes.retry_policy)
    where = "invalid ActivityRetryPolicy on SechduleActivityTaskCommand"
    command_checks.reject(where, wrong, suffix)
    for name, value in (("ActivityId", activity_id), ("ActivityType", activity_type)):
        if length := command_checks.too_long(value, limit):
            raise BadCommand(
                BAD_SCHEDULE,
                f"{name} on {_SCHEDULE} exceeds length limit.{suffix} Length={length} Limit={limit}",
            )
    _check_timeouts(attributes, suffix)
    command_checks.check_priority(attributes.priority, BAD_SCHEDULE)
    _complete_timeouts(attributes, commands.run.core.run_timeout_ms, suffix)


_TIMEOUTS = (
    ("ScheduleToCloseTimeout", "schedule_to_close_timeout"),
    ("ScheduleToStartTimeout", "schedule_to_start_timeout"),
    ("StartToCloseTimeout", "start_to_close_timeout"),
    ("HeartbeatTimeout", "heartbeat_timeout"),
)


def _check_timeouts(attributes: ScheduleActivityTaskCommandAttributes, suffix: str) -> None:
    for name, field in _TIMEOUTS:
        if wrong := command_checks.cap_duration(getattr(attributes, field)):
            raise BadCommand(BAD_SCHEDULE, f"Invalid {name} for {_SCHEDULE}: {wrong}.{suffix}")


def _complete_timeouts(
    attributes: ScheduleActivityTaskCommandAttributes, run_timeout_ms: int, suffix: str
) -> None:
    """Deduce the timeouts that are not set, and keep all within the run's and within each other."""
    to_close, to_start, start_to_close, heartbeat = (
        nanoseconds(getattr(attributes, field)) for _, field in _TIMEOUTS
    )
    run_timeout = run_timeout_ms * 1_000_000
    if to_close:
        to_start = min(to_start or to_close, to_close)
        start_to_close = min(start_to_close or to_close, to_close)
    elif start_to_close:
        to_close = run_timeout
        to_start = to_start or run_timeout
    else:
        raise BadCommand(
            BAD_SCHEDULE, f"A valid StartToClose or ScheduleToCloseTimeout is not set on {_SCHEDULE}.{suffix}"
        )
    values = [to_close, to_start, start_to_close, heartbeat]
    if run_timeout:
        values = [min(value, run_timeout) for value in values]
    values[3] = min(values[3], values[2])
    for (_, field), value in zip(_TIMEOUTS, values, strict=True):
        seconds, nanos = divmod(value, 1_000_000_000)
        getattr(attributes, field).CopyFrom(Duration(seconds=seconds, nanos=nanos))


def _event_attributes(
    attributes: ScheduleActivityTaskCommandAttributes, completed_event_id: int
) -> ActivityTaskScheduledEventAttributes:
    event = ActivityTaskScheduledEventAttributes(
        activity_id=attributes.activity_id,
        workflow_task_completed_event_id=completed_event_id,
        use_workflow_build_id=attributes.use_workflow_build_id,
    )
    copy_fields(
        attributes,
        event,
        "activity_type",
        "task_queue",
        "header",
        "input",
        "schedule_to_close_timeout",
        "schedule_to_start_timeout",
        "start_to_close_timeout",
        "heartbeat_timeout",
        "retry_policy",
        "priority",
    )
    return event


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
def _scheduled(run: Run, event: HistoryEvent) -> None:
    attributes = event.activity_task_scheduled_event_attributes
    scheduled_ms = timestamp_ms(event.event_time)
    run.put(
        ACTIVITY,
        number_id(event.event_id),
        Activity(
            activity_id=attributes.activity_id,
            scheduled_event_id=event.event_id,
            activity_type=attributes.activity_type.name,
            task_queue=attributes.task_queue.name,
            scheduled=attributes.SerializeToString(deterministic=True),
            attempt=1,
            stamp=0,
            first_scheduled_ms=scheduled_ms,
            attempt_scheduled_ms=scheduled_ms,
            schedule_to_start_ms=duration_ms(attributes.schedule_to_start_timeout),
            schedule_to_close_ms=duration_ms(attributes.schedule_to_close_timeout),
            start_to_close_ms=duration_ms(attributes.start_to_close_timeout),
            heartbeat_ms=duration_ms(attributes.heartbeat_timeout),
        ),
    )


@applies(*_ENDED)
def _ended(run: Run, event: HistoryEvent) -> None:
    attributes = getattr(event, _ENDED[event.event_type])
    run.put(ACTIVITY, number_id(attributes.scheduled_event_id), None)


# --- canceling ---


@handles_command(
    CommandType.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK, "request_cancel_activity_task_command_attributes"
)
def request_cancel(commands: Commands, attributes: RequestCancelActivityTaskCommandAttributes) -> None:
    """Cancel an activity: at once when no worker has it, else the worker learns of it as it heartbeats."""
    commands.require_attributes("RequestCancelActivityTask", BAD_CANCEL)
    run, scheduled_event_id = commands.run, attributes.scheduled_event_id
    if scheduled_event_id <= 0:
        raise BadCommand(BAD_CANCEL, "ScheduledEventId is not set on RequestCancelActivityTaskCommand.")
    activity = find(run, scheduled_event_id)
    unknown = activity is None and not _ends_in_buffer(run, scheduled_event_id)
    if unknown or (activity is not None and activity.cancel_requested_event_id):
        raise BadCommand(
            BAD_CANCEL,
            f"{_INVALID_STATE}add-activitytask-cancel-requested-event, "
            f"ScheduledEventID: {scheduled_event_id}",
        )
    requested = run.record(
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
        ActivityTaskCancelRequestedEventAttributes(
            scheduled_event_id=scheduled_event_id,
            workflow_task_completed_event_id=commands.completed_event_id,
        ),
        **commands.event_extra,
    )
    if activity is not None and not activity.started_ms:
        run.record(
            EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
            ActivityTaskCanceledEventAttributes(
                scheduled_event_id=scheduled_event_id,
                latest_cancel_requested_event_id=requested.event_id,
                details=_not_started(),
                identity=commands.request.identity,
            ),
        )
        commands.needs_task = True


def _not_started() -> Payloads:
    return Payloads(
        payloads=[Payload(metadata={"encoding": b"json/plain"}, data=b'"ACTIVITY_ID_NOT_STARTED"')]
    )


def _ends_in_buffer(run: Run, scheduled_event_id: int) -> bool:
    """Whether the activity's end waits in the buffer, unseen by the workflow that cancels it."""
    for _, part in run.entity.items(state.BUFFERED):
        event = HistoryEvent.FromString(part.event)
        field = _ENDED.get(event.event_type)
        if field is not None and getattr(event, field).scheduled_event_id == scheduled_event_id:
            return True
    return False


@applies(EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
def _cancel_requested(run: Run, event: HistoryEvent) -> None:
    scheduled_event_id = event.activity_task_cancel_requested_event_attributes.scheduled_event_id
    activity = find(run, scheduled_event_id)
    if activity is not None:
        requested = msgspec.structs.replace(activity, cancel_requested_event_id=event.event_id)
        run.put(ACTIVITY, number_id(scheduled_event_id), requested)


# --- to the queue and to workers ---


@applies_fact(facts.ActivityDispatched)
def _dispatched(run: Run, fact: facts.ActivityDispatched) -> None:
    run.put(ACTIVITY, number_id(fact.activity.scheduled_event_id), fact.activity)


@emits_fact(facts.ActivityDispatched)
def _dispatch(run: Run, fact: facts.ActivityDispatched) -> None:
    activity = find(run, fact.activity.scheduled_event_id)
    waits = activity is not None and not activity.started_ms and not activity.retry_due_ms
    if run.is_open and activity is not None and waits and activity.stamp == fact.activity.stamp:
        add_to_queue(run, activity, at_head=fact.at_head)


def add_to_queue(run: Run, activity: Activity, *, at_head: bool = False) -> None:
    """Send the activity's attempt to its task queue."""
    core = run.core
    priority = priorities.of(run, scheduled_attributes(activity))
    to_start_ms = activity.schedule_to_start_ms
    run.step.context.emit(
        TASKS,
        queue_key(core.namespace, activity.task_queue, bodies.ACTIVITY_TASK),
        bodies.AddTask(
            namespace=core.namespace,
            queue=activity.task_queue,
            task_kind=bodies.ACTIVITY_TASK,
            workflow_id=core.workflow_id,
            run_id=core.run_id,
            scheduled_event_id=activity.scheduled_event_id,
            attempt=activity.attempt,
            stamp=activity.stamp,
            at_head=at_head,
            expires_ms=activity.attempt_scheduled_ms + to_start_ms if to_start_ms else 0,
            priority=priority.priority_key if priority is not None else 0,
            scheduled_ms=activity.attempt_scheduled_ms,
        ),
    )


def _waiting(run: Run, body: bodies.StartTask) -> Activity | None:
    """The activity whose attempt the task names, while that attempt waits for a worker."""
    activity = find(run, body.scheduled_event_id) if run.is_open else None
    if activity is None or activity.started_ms or activity.retry_due_ms:
        return None
    return activity if (activity.attempt, activity.stamp) == (body.attempt, body.stamp) else None


def start(run: Run, body: bodies.StartTask) -> bool:
    """Record that a worker has an activity's attempt and send it to the poll; False when it is obsolete.

    No event tells of it until the activity ends: attempts that are retried leave no trace in the history.
    """
    activity = _waiting(run, body)
    if activity is None:
        return False
    poll = body.poll
    task = (body.run_id, body.scheduled_event_id, body.attempt, body.stamp)
    request_id = run.step.derived_id("activity", *task, poll.gateway, poll.epoch, poll.id)
    started = _mark_started(run, activity, request_id, poll.identity, poll.id)
    attributes = scheduled_attributes(started)
    response = _response(run, started, attributes)
    if attributes.HasField("retry_policy"):
        response.retry_policy.CopyFrom(attributes.retry_policy)
    priority = priorities.of(run, attributes)
    if priority is not None:
        response.priority.CopyFrom(priority)
    reply = Reply(body=response.SerializeToString(deterministic=True), kind="poll-activity")
    run.step.context.reply(responses.poll_correlation(poll), reply)
    return True


def _start_eagerly(commands: Commands, scheduled_event_id: int) -> None:
    """Hand the activity over with the answer to the commands, unless one of them canceled it."""
    run = commands.run
    activity = find(run, scheduled_event_id)
    if activity is None:
        return
    request_id = run.step.derived_id("eager", run.core.run_id, scheduled_event_id)
    started = _mark_started(run, activity, request_id, commands.request.identity, 0)
    commands.eager_activities.append(_response(run, started, scheduled_attributes(started)))


def _mark_started(run: Run, activity: Activity, request_id: str, identity: str, poll_id: int) -> Activity:
    return change(
        run,
        activity,
        started_ms=run.step.now_ms,
        started_identity=identity,
        request_id=request_id,
        poll_id=poll_id,
    )


def _response(
    run: Run, activity: Activity, attributes: ActivityTaskScheduledEventAttributes
) -> PollActivityTaskQueueResponse:
    """What a worker gets to know of the attempt it starts."""
    core = run.core
    response = PollActivityTaskQueueResponse(
        task_token=_token(run, activity),
        workflow_namespace=core.namespace,
        workflow_execution=WorkflowExecution(workflow_id=core.workflow_id, run_id=core.run_id),
        activity_id=activity.activity_id,
        scheduled_time=to_timestamp(activity.first_scheduled_ms),
        current_attempt_scheduled_time=to_timestamp(activity.attempt_scheduled_ms),
        started_time=to_timestamp(activity.started_ms),
        attempt=activity.attempt,
    )
    response.workflow_type.name = core.workflow_type
    copy_fields(
        attributes,
        response,
        "activity_type",
        "header",
        "input",
        "schedule_to_close_timeout",
        "start_to_close_timeout",
        "heartbeat_timeout",
    )
    if activity.details:
        response.heartbeat_details.ParseFromString(activity.details)
    return response


def _token(run: Run, activity: Activity) -> bytes:
    core = run.core
    return TaskToken(
        namespace=core.namespace,
        workflow_id=core.workflow_id,
        run_id=core.run_id,
        task_kind=bodies.ACTIVITY_TASK,
        scheduled_event_id=activity.scheduled_event_id,
        attempt=activity.attempt,
        stamp=activity.stamp,
        activity_id=activity.activity_id,
        queue=activity.task_queue,
    ).encode()


def back_to_queue(run: Run, body: bodies.StartTask) -> None:
    """The poll ended before the task reached it: the attempt goes to the head of its queue."""
    activity = _waiting(run, body)
    if activity is not None:
        add_to_queue(run, activity, at_head=True)


def undeliver(run: Run, body: bodies.TaskUndelivered) -> None:
    """The worker never got the attempt: the same one goes to the head of its queue, under a new stamp."""
    activity = find(run, body.scheduled_event_id)
    if (
        activity is None
        or not activity.started_ms
        or (activity.attempt, activity.stamp, activity.poll_id) != (body.attempt, body.stamp, body.poll_id)
    ):
        return
    waiting = msgspec.structs.replace(
        activity,
        started_ms=0,
        started_identity=activity.last_worker_identity,
        request_id="",
        poll_id=0,
        stamp=activity.stamp + 1,
    )
    run.note(facts.ActivityDispatched(waiting, at_head=True))


# --- the end of an activity ---


def record_started(run: Run, activity: Activity, worker_version: WorkerVersionStamp | None = None) -> int:
    """Record the start of the last attempt, now that the activity ends. Returns the event's id.

    0 for an attempt that no worker had, and for an event that waits in the buffer: it gets its id later.
    """
    if not activity.started_ms:
        return 0
    attributes = ActivityTaskStartedEventAttributes(
        scheduled_event_id=activity.scheduled_event_id,
        identity=activity.started_identity,
        request_id=activity.request_id,
        attempt=activity.attempt,
        worker_version=worker_version,
    )
    if activity.failure:
        attributes.last_failure.ParseFromString(activity.failure)
    event = run.record(
        EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED, attributes, event_time=to_timestamp(activity.started_ms)
    )
    return event.event_id


def record_end(run: Run, event_type: EventType.ValueType, attributes: Message) -> None:
    """Record the end of an activity, and have the workflow see it."""
    run.record(event_type, attributes)
    workflow_tasks.schedule_if_none(run)


def last_failure(activity: Activity) -> Failure | None:
    """Why the previous attempt failed."""
    return Failure.FromString(activity.failure) if activity.failure else None
