"""What workers and clients answer for activities: completed, failed, canceled, still alive.

Behaviour: Respond…ActivityTask… and RecordActivityTaskHeartbeat of the real server, by token and by id.
Payloads over the limit have been turned into failures before: that needs no state.
"""

from __future__ import annotations

from typing import Any

import msgspec
from temporalio.api.common.v1 import Payloads, WorkerVersionStamp
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ActivityTaskCanceledEventAttributes,
    ActivityTaskCompletedEventAttributes,
    ActivityTaskFailedEventAttributes,
)
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from streams.avro import DecodeError
from streams.history import activities, activity_retries, errors
from streams.history.calls import handles_call
from streams.history.failure_depth import cut_causes
from streams.history.lookup import find_open_run
from streams.history.run import Run
from streams.history.state import Activity
from streams.history.step import Step
from streams.task_token import TaskToken

MISSING = "invalid activityID or activity already timed out or invoking workflow is completed"
NOT_CANCELED = "unable to mark activity as canceled without activity being request canceled first"


class Attempt(msgspec.Struct):
    """The activity attempt that an answer is for. Which worker answers is in `identity`."""

    run: Run
    activity: Activity
    identity: str
    worker_version: WorkerVersionStamp | None = None


def _missing() -> errors.Rejected:
    return errors.not_found(MISSING)


def _find(step: Step, request: Any) -> Attempt:
    """The activity that a request names by its token, or by workflow and activity id. Raises Rejected."""
    if hasattr(request, "task_token"):
        return _by_token(step, request)
    run = find_open_run(step, request.run_id)
    activity = activities.find_by_id(run, request.activity_id)
    if activity is None:
        raise errors.not_found(
            f"cannot find pending activity with ActivityID {request.activity_id}, "
            "check workflow execution history for more details"
        )
    return Attempt(run, activity, request.identity)


def _by_token(step: Step, request: Any) -> Attempt:
    try:
        token = TaskToken.decode(request.task_token)
    except DecodeError as error:
        raise errors.invalid("Failed to deserialize task token.") from error
    run = find_open_run(step, token.run_id)
    activity = activities.find(run, token.scheduled_event_id)
    if (
        activity is None
        or not activity.started_ms
        or (activity.attempt, activity.stamp) != (token.attempt, token.stamp)
    ):
        raise _missing()
    version = request.worker_version if _has_version(request) else None
    return Attempt(run, activity, request.identity, version)


def _has_version(request: Any) -> bool:
    return "worker_version" in request.DESCRIPTOR.fields_by_name and request.HasField("worker_version")


def _started(step: Step, request: Any) -> Attempt:
    """Like `_find`, for answers that only a worker which has the activity can give."""
    attempt = _find(step, request)
    if not attempt.activity.started_ms:
        raise _missing()
    return attempt


# --- completed ---


@handles_call("RespondActivityTaskCompleted")
def respond_completed(step: Step, call: bodies.Call) -> None:
    """The worker's activity returned."""
    _complete(step, api.RespondActivityTaskCompletedRequest.FromString(call.request))
    step.reply(api.RespondActivityTaskCompletedResponse())


@handles_call("RespondActivityTaskCompletedById")
def respond_completed_by_id(step: Step, call: bodies.Call) -> None:
    """A client completes an activity, also one that no worker has started."""
    _complete(step, api.RespondActivityTaskCompletedByIdRequest.FromString(call.request))
    step.reply(api.RespondActivityTaskCompletedByIdResponse())


def _complete(step: Step, request: Any) -> None:
    attempt = _find(step, request)
    run, activity = attempt.run, attempt.activity
    if not activity.started_ms:
        activity = msgspec.structs.replace(
            activity, started_ms=step.now_ms, started_identity=attempt.identity, request_id=""
        )
    started_event_id = activities.record_started(run, activity, attempt.worker_version)
    activities.record_end(
        run,
        EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        ActivityTaskCompletedEventAttributes(
            result=request.result if request.HasField("result") else None,
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            identity=attempt.identity,
        ),
    )


# --- failed ---


@handles_call("RespondActivityTaskFailed")
def respond_failed(step: Step, call: bodies.Call) -> None:
    """The worker's activity failed: it is retried, or the workflow learns of it."""
    request = api.RespondActivityTaskFailedRequest.FromString(call.request)
    attempt = _started(step, request)
    if request.HasField("last_heartbeat_details"):
        attempt.activity = _beat(attempt, request.last_heartbeat_details)
    _fail(attempt, request.failure if request.HasField("failure") else None)
    step.reply(api.RespondActivityTaskFailedResponse())


@handles_call("RespondActivityTaskFailedById")
def respond_failed_by_id(step: Step, call: bodies.Call) -> None:
    """A client fails an activity. Heartbeat details are not taken from it, as the real server does not."""
    request = api.RespondActivityTaskFailedByIdRequest.FromString(call.request)
    _fail(_started(step, request), request.failure if request.HasField("failure") else None)
    step.reply(api.RespondActivityTaskFailedByIdResponse())


def _fail(attempt: Attempt, failure: Failure | None) -> None:
    run = attempt.run
    if failure is not None:
        cut_causes(failure)
    activity = activities.change(run, attempt.activity, last_attempt_completed_ms=run.step.now_ms)
    verdict = activity_retries.retry(run, activity, failure)
    if verdict == activity_retries.IN_PROGRESS:
        return
    started_event_id = activities.record_started(run, activity, attempt.worker_version)
    activities.record_end(
        run,
        EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
        ActivityTaskFailedEventAttributes(
            failure=failure,
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            identity=attempt.identity,
            retry_state=verdict,
        ),
    )


# --- canceled ---


@handles_call("RespondActivityTaskCanceled")
def respond_canceled(step: Step, call: bodies.Call) -> None:
    """The worker's activity ended because the workflow had asked for that."""
    _cancel(step, api.RespondActivityTaskCanceledRequest.FromString(call.request))
    step.reply(api.RespondActivityTaskCanceledResponse())


@handles_call("RespondActivityTaskCanceledById")
def respond_canceled_by_id(step: Step, call: bodies.Call) -> None:
    """A client reports an activity as canceled."""
    _cancel(step, api.RespondActivityTaskCanceledByIdRequest.FromString(call.request))
    step.reply(api.RespondActivityTaskCanceledByIdResponse())


def _cancel(step: Step, request: Any) -> None:
    attempt = _started(step, request)
    run, activity = attempt.run, attempt.activity
    if not activity.cancel_requested_event_id:
        raise errors.invalid(NOT_CANCELED)
    started_event_id = activities.record_started(run, activity)
    activities.record_end(
        run,
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
        ActivityTaskCanceledEventAttributes(
            details=request.details if request.HasField("details") else None,
            latest_cancel_requested_event_id=activity.cancel_requested_event_id,
            scheduled_event_id=activity.scheduled_event_id,
            started_event_id=started_event_id,
            identity=attempt.identity,
        ),
    )


# --- heartbeats ---


@handles_call("RecordActivityTaskHeartbeat")
def heartbeat(step: Step, call: bodies.Call) -> None:
    """The worker's activity is alive, with details that its next attempt gets."""
    cancel = _heartbeat(step, api.RecordActivityTaskHeartbeatRequest.FromString(call.request))
    step.reply(api.RecordActivityTaskHeartbeatResponse(cancel_requested=cancel))


@handles_call("RecordActivityTaskHeartbeatById")
def heartbeat_by_id(step: Step, call: bodies.Call) -> None:
    """A client reports an activity as alive."""
    cancel = _heartbeat(step, api.RecordActivityTaskHeartbeatByIdRequest.FromString(call.request))
    step.reply(api.RecordActivityTaskHeartbeatByIdResponse(cancel_requested=cancel))


def _heartbeat(step: Step, request: Any) -> bool:
    """Whether the workflow asks the activity to end."""
    details = request.details if request.HasField("details") else None
    return bool(_beat(_started(step, request), details, request.identity).cancel_requested_event_id)


def _beat(attempt: Attempt, details: Payloads | None, identity: str = "") -> Activity:
    activity = attempt.activity
    return activities.change(
        attempt.run,
        activity,
        heartbeat_at_ms=attempt.run.step.now_ms,
        details=b"" if details is None else details.SerializeToString(deterministic=True),
        last_worker_identity=identity or activity.last_worker_identity,
    )
