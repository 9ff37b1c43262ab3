"""What a run looks like to clients: DescribeWorkflowExecution.

Behaviour: service/history/api/describeworkflow and GetPendingActivityInfo of the real server.
"""

from __future__ import annotations

import json

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import Payload, RetryPolicy, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import (
    EventType,
    ParentClosePolicy,
    PendingActivityState,
    PendingWorkflowTaskState,
    WorkflowExecutionStatus,
)
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import (
    PendingActivityInfo,
    PendingChildExecutionInfo,
    PendingWorkflowTaskInfo,
    RequestIdInfo,
    WorkflowExecutionExtendedInfo,
    WorkflowExecutionInfo,
)
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from streams import bodies
from streams.history import activities, opening, state, worker_versions
from streams.history.calls import handles_call
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.state import Activity, Child, WorkflowTask
from streams.history.step import Step
from streams.history.task_events import task_queue_message
from streams.history.values import copy_fields, duration_ms, to_duration, to_timestamp

FAULTED = "odradek.faulted"
"""The memo field that tells why a run is faulted: a record for it could not be applied (fold.md rule 7).

The memo is the one place of the answer that takes any name, and that every SDK, the command line and the
Web UI show as it is. Only describe adds it: neither the workflow nor lists see it.
"""

MAX_NS = 2**63 - 1
ZERO_TIME = Timestamp(seconds=-62_135_596_800)
"""Go's zero time, which the real server shows for a run without a timeout."""


@handles_call("DescribeWorkflowExecution")
def describe_call(step: Step, call: bodies.Call) -> None:
    """Show a run."""
    step.reply(describe(find_run(step, call.run_id)))


def describe(run: Run) -> DescribeWorkflowExecutionResponse:
    """Everything of a run that clients may see."""
    core = run.core
    start = opening.start_attributes(run)
    response = DescribeWorkflowExecutionResponse(
        workflow_execution_info=_info(run, start), workflow_extended_info=_extended(run)
    )
    config = response.execution_config
    config.task_queue.CopyFrom(task_queue_message(core.task_queue, False, ""))
    config.default_workflow_task_timeout.CopyFrom(start.workflow_task_timeout)
    copy_fields(start, config, "workflow_execution_timeout", "workflow_run_timeout")
    metadata: state.Blob | None = run.entity.get(state.METADATA)
    if metadata is not None:
        config.user_metadata.ParseFromString(metadata.data)
    closed = not run.is_open
    pending = run.entity.items(state.LEFT_ACTIVITY if closed else state.ACTIVITY)
    response.pending_activities.extend(_activity(run, part) for _, part in pending)
    pending = run.entity.items(state.CHILD)
    if closed:
        pending = sorted(pending + run.entity.items(state.LEFT_CHILD))
    response.pending_children.extend(_child(part) for _, part in pending)
    task: WorkflowTask | None = run.entity.get(state.LEFT_TASK if closed else state.WORKFLOW_TASK)
    if task is not None:
        response.pending_workflow_task.CopyFrom(_task(task))
    return response


def _info(run: Run, start: WorkflowExecutionStartedEventAttributes) -> WorkflowExecutionInfo:
    core = run.core
    points = worker_versions.reset_points(run)
    del points.points[: -run.step.limits.reset_points]
    info = WorkflowExecutionInfo(
        execution=WorkflowExecution(workflow_id=core.workflow_id, run_id=core.run_id),
        type=WorkflowType(name=core.workflow_type),
        start_time=to_timestamp(core.start_ms),
        status=WorkflowExecutionStatus.ValueType(core.status),
        history_length=core.next_event_id - 1,
        execution_time=to_timestamp(core.execution_start_ms),
        auto_reset_points=points,
        task_queue=core.task_queue,
        state_transition_count=core.transition_count,
        history_size_bytes=core.history_size_bytes,
        root_execution=WorkflowExecution(workflow_id=core.root_workflow_id, run_id=core.root_run_id),
        first_run_id=core.first_run_id,
    )
    info.memo.SetInParent()
    info.search_attributes.SetInParent()
    for kind, message in ((state.MEMO, info.memo), (state.SEARCH, info.search_attributes)):
        blob: state.Blob | None = run.entity.get(kind)
        if blob is not None:
            message.ParseFromString(blob.data)
    version: state.Blob | None = run.entity.get(state.WORKER)
    if version is not None:
        info.most_recent_worker_version_stamp.ParseFromString(version.data)
    if start.HasField("priority"):
        info.priority.CopyFrom(start.priority)
    if core.parent_run_id:
        info.parent_execution.workflow_id = core.parent_workflow_id
        info.parent_execution.run_id = core.parent_run_id
        info.parent_namespace_id = start.parent_workflow_namespace_id
    if core.close_ms:
        info.close_time.CopyFrom(to_timestamp(core.close_ms))
        info.execution_duration.CopyFrom(to_duration(core.close_ms - core.execution_start_ms))
    if core.faulted:
        text = json.dumps(core.faulted).encode()
        info.memo.fields[FAULTED].CopyFrom(Payload(metadata={"encoding": b"json/plain"}, data=text))
    return info


def _extended(run: Run) -> WorkflowExecutionExtendedInfo:
    core = run.core
    info = WorkflowExecutionExtendedInfo(
        original_start_time=to_timestamp(core.original_start_ms or core.start_ms),
        run_expiration_time=to_timestamp(core.run_expires_ms) if core.run_expires_ms else ZERO_TIME,
        cancel_requested=core.cancel_requested,
        reset_run_id=core.reset_run_id,
    )
    if core.execution_expires_ms:
        info.execution_expiration_time.CopyFrom(to_timestamp(core.execution_expires_ms))
    if core.original_start_ms:
        info.last_reset_time.CopyFrom(to_timestamp(core.start_ms))
    info.request_id_infos[core.create_request_id].CopyFrom(
        RequestIdInfo(event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, event_id=1)
    )
    for request_id, attached in run.entity.items(state.ATTACHED):
        info.request_id_infos[request_id].CopyFrom(
            RequestIdInfo(
                event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
                event_id=attached.event_id,
                buffered=not attached.event_id,
            )
        )
    return info


def _task(task: WorkflowTask) -> PendingWorkflowTaskInfo:
    info = PendingWorkflowTaskInfo(
        state=PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED,
        scheduled_time=to_timestamp(task.scheduled_ms),
        original_scheduled_time=to_timestamp(task.original_scheduled_ms),
        attempt=task.attempt,
    )
    if task.started_event_id:
        info.state = PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED
        info.started_time.CopyFrom(to_timestamp(task.started_ms))
    return info


def _child(child: Child) -> PendingChildExecutionInfo:
    return PendingChildExecutionInfo(
        workflow_id=child.workflow_id,
        run_id=child.run_id,
        workflow_type_name=child.workflow_type,
        initiated_id=child.initiated_event_id,
        parent_close_policy=ParentClosePolicy.ValueType(child.parent_close_policy),
    )


def _activity(run: Run, activity: Activity) -> PendingActivityInfo:
    attributes = activities.scheduled_attributes(activity)
    policy = attributes.retry_policy
    info = PendingActivityInfo(
        activity_id=activity.activity_id,
        activity_type=attributes.activity_type,
        state=_activity_state(activity),
        attempt=activity.attempt,
        maximum_attempts=policy.maximum_attempts,
        scheduled_time=to_timestamp(activity.attempt_scheduled_ms),
        last_worker_identity=activity.started_identity or activity.last_worker_identity,
        activity_options=_options(activity, policy),
    )
    if attributes.HasField("priority"):
        info.priority.CopyFrom(attributes.priority)
    if activity.started_ms:
        info.last_started_time.CopyFrom(to_timestamp(activity.started_ms))
    if activity.schedule_to_close_ms:
        expires_ms = activity.first_scheduled_ms + activity.schedule_to_close_ms
        info.expiration_time.CopyFrom(to_timestamp(expires_ms))
    if activity.heartbeat_at_ms:
        info.last_heartbeat_time.CopyFrom(to_timestamp(activity.heartbeat_at_ms))
        info.heartbeat_details.ParseFromString(activity.details)
    if activity.failure:
        info.last_failure.ParseFromString(activity.failure)
    if activity.last_attempt_completed_ms:
        info.last_attempt_complete_time.CopyFrom(to_timestamp(activity.last_attempt_completed_ms))
    if info.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED:
        if activity.retry_due_ms and activity.attempt_scheduled_ms > run.step.now_ms:
            info.next_attempt_schedule_time.CopyFrom(to_timestamp(activity.attempt_scheduled_ms))
            info.current_retry_interval.CopyFrom(to_duration(activity.retry_interval_ms))
        else:
            info.current_retry_interval.FromNanoseconds(_interval_ns(policy, activity.attempt))
    return info


def _activity_state(activity: Activity) -> PendingActivityState.ValueType:
    if activity.cancel_requested_event_id:
        return PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
    if activity.started_ms:
        return PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    return PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED


def _interval_ns(policy: RetryPolicy, attempt: int) -> int:
    """The policy's backoff for the attempt, whatever its maximum. For show only, hence in floats."""
    initial_ns = duration_ms(policy.initial_interval) * 1_000_000
    try:
        return min(int(initial_ns * policy.backoff_coefficient ** (attempt - 1)), MAX_NS)
    except OverflowError:
        return MAX_NS


def _options(activity: Activity, policy: RetryPolicy) -> ActivityOptions:
    return ActivityOptions(
        task_queue=TaskQueue(name=activity.task_queue, normal_name=activity.task_queue),
        schedule_to_close_timeout=to_duration(activity.schedule_to_close_ms),
        schedule_to_start_timeout=to_duration(activity.schedule_to_start_ms),
        start_to_close_timeout=to_duration(activity.start_to_close_ms),
        heartbeat_timeout=to_duration(activity.heartbeat_ms),
        retry_policy=RetryPolicy(
            initial_interval=policy.initial_interval,
            backoff_coefficient=policy.backoff_coefficient,
            maximum_interval=policy.maximum_interval,
            maximum_attempts=policy.maximum_attempts,
        ),
    )
