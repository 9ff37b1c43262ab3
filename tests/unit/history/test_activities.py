"""Activities: commands, delivery to workers, answers by token and by id."""

from __future__ import annotations

import msgspec
import pytest
from temporalio.api.enums.v1 import RetryState, WorkflowTaskFailedCause
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from streams.history import errors
from streams.task_token import TaskToken
from tests.unit.history.support import (
    IDENTITY,
    NAMESPACE,
    CallError,
    Workflows,
    activity,
    application_failure,
    command,
    complete,
    payloads,
    seconds,
)

GONE = "invalid activityID or activity already timed out or invoking workflow is completed"


@pytest.fixture
def workflows() -> Workflows:
    """A workflow that has been started, with nothing done."""
    world = Workflows()
    world.start()
    return world


def completed(
    task: api.PollActivityTaskQueueResponse, text: str = "out"
) -> api.RespondActivityTaskCompletedRequest:
    """The answer of a worker whose activity returned."""
    return api.RespondActivityTaskCompletedRequest(
        task_token=task.task_token, result=payloads(text), identity=IDENTITY
    )


def failed(task: api.PollActivityTaskQueueResponse, **info: object) -> api.RespondActivityTaskFailedRequest:
    """The answer of a worker whose activity failed."""
    return api.RespondActivityTaskFailedRequest(
        task_token=task.task_token, failure=application_failure(**info), identity=IDENTITY
    )


def canceled(task: api.PollActivityTaskQueueResponse) -> api.RespondActivityTaskCanceledRequest:
    """The answer of a worker whose activity ended because it was to."""
    return api.RespondActivityTaskCanceledRequest(task_token=task.task_token, identity=IDENTITY)


def beat(
    task: api.PollActivityTaskQueueResponse, text: str = "half"
) -> api.RecordActivityTaskHeartbeatRequest:
    """A heartbeat."""
    return api.RecordActivityTaskHeartbeatRequest(
        task_token=task.task_token, details=payloads(text), identity=IDENTITY
    )


def cancel(scheduled_event_id: int) -> object:
    """A command that cancels an activity."""
    return command("REQUEST_CANCEL_ACTIVITY_TASK", scheduled_event_id=scheduled_event_id)


def test_started_event_is_written_with_the_end(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.poll_activity()
    assert workflows.kinds() == ["ACTIVITY_TASK_SCHEDULED"]
    started_ms = workflows.fold.now_ms
    workflows.pass_time(2)
    workflows.call(completed(task))
    assert workflows.kinds()[1:] == ["ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_COMPLETED"]
    started = workflows.history()[-3]
    assert started.event_time.ToMilliseconds() == started_ms
    end = workflows.event("ACTIVITY_TASK_COMPLETED")
    assert (end.scheduled_event_id, end.started_event_id) == (5, 6)
    assert workflows.waiting("workflow", "tq") == 1
    workflows.fold.check_refold()


def test_worker_gets_what_the_command_said(workflows: Workflows) -> None:
    workflows.step(
        activity(
            input=payloads("in"),
            header={"fields": {"trace": payloads("t").payloads[0]}},
            heartbeat_timeout=seconds(20),
            priority={"priority_key": 3},
        )
    )
    assert workflows.tasks["activity", "act"][0].priority == 3
    task = workflows.poll_activity()
    assert task.input == payloads("in")
    assert task.header.fields["trace"] == payloads("t").payloads[0]
    assert task.heartbeat_timeout == seconds(10), "within start-to-close"
    assert task.priority.priority_key == 3
    assert (task.attempt, task.activity_type.name, task.workflow_type.name) == (1, "Activity", "Type")
    assert task.retry_policy.maximum_interval == seconds(100)


def test_timeouts_are_deduced_within_the_run_timeout() -> None:
    workflows = Workflows()
    workflows.start(workflow_run_timeout=seconds(100))
    workflows.step(activity(), activity("a2", schedule_to_close_timeout=seconds(500)))
    first, second = (e.activity_task_scheduled_event_attributes for e in workflows.history()[-2:])
    assert first.schedule_to_close_timeout == first.schedule_to_start_timeout == seconds(100)
    assert second.schedule_to_close_timeout == seconds(100)
    assert second.start_to_close_timeout == seconds(10)
    assert first.HasField("heartbeat_timeout")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"activity_id": ""}, "ActivityId is not set on ScheduleActivityTaskCommand. ActivityType=Activity"),
        ({"activity_type": {}}, "ActivityType is not set on ScheduleActivityTaskCommand. ActivityID=a1"),
        (
            {"start_to_close_timeout": seconds(0)},
            "A valid StartToClose or ScheduleToCloseTimeout is not set on ScheduleActivityTaskCommand. "
            "ActivityId=a1 ActivityType=Activity",
        ),
        (
            {"heartbeat_timeout": seconds(-1)},
            "Invalid HeartbeatTimeout for ScheduleActivityTaskCommand: negative duration. "
            "ActivityId=a1 ActivityType=Activity",
        ),
        ({"priority": {"priority_key": -1}}, "PriorityKey can't be negative"),
    ],
)
def test_bad_schedule_fails_the_task(
    workflows: Workflows, attributes: dict[str, object], message: str
) -> None:
    with pytest.raises(CallError, match="BadScheduleActivityAttributes") as refused:
        workflows.step(activity(**attributes))  # type: ignore[arg-type]
    assert refused.value.message == f"BadScheduleActivityAttributes: {message}"
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES
    assert workflows.event("WORKFLOW_TASK_FAILED").cause == cause
    assert not workflows.waiting("activity", "act")


def test_bad_queue_or_retry_policy_refuses_the_call_only(workflows: Workflows) -> None:
    task = workflows.poll()
    for bad, message in (
        (
            activity(queue="/_sys/x/1"),
            "invalid TaskQueue on ScheduleActivityTaskCommand: task queue name cannot start with reserved "
            "prefix /_sys/. ActivityId=a1 ActivityType=Activity",
        ),
        (
            activity(retry_policy={"maximum_attempts": -1}),
            "invalid ActivityRetryPolicy on SechduleActivityTaskCommand: MaximumAttempts cannot be negative "
            "on retry policy.. ActivityId=a1 ActivityType=Activity",
        ),
    ):
        with pytest.raises(CallError) as refused:
            workflows.respond(task, bad)
        assert refused.value.message == message
    workflows.respond(task, complete())


def test_ids_are_unique_among_pending_activities(workflows: Workflows) -> None:
    with pytest.raises(CallError, match="ScheduleActivityDuplicateId: invalid history builder state"):
        workflows.step(activity(), activity())


def test_pending_activities_are_limited() -> None:
    workflows = Workflows(**{"limit.numPendingActivities.error": 2})
    workflows.start()
    with pytest.raises(CallError) as refused:
        workflows.step(*(activity(str(number)) for number in range(3)))
    assert refused.value.message == (
        "PendingActivitiesLimitExceeded: "
        "the number of pending activities, 2, has reached the per-workflow limit of 2"
    )


def test_undelivered_attempt_comes_back_first_in_line(workflows: Workflows) -> None:
    workflows.step(activity(), activity("a2"))
    task = workflows.take("activity", "act")
    data = workflows.deliver(task)
    assert data is not None
    lost = api.PollActivityTaskQueueResponse.FromString(data)
    token = TaskToken.decode(lost.task_token)
    poll_id = workflows.calls
    workflows.send(
        bodies.TaskUndelivered(
            NAMESPACE,
            "wf",
            token.run_id,
            "activity",
            token.scheduled_event_id,
            token.attempt,
            token.stamp,
            "",
            poll_id,
        )
    )
    again = workflows.poll_activity()
    assert (again.activity_id, again.attempt) == ("a1", 1)
    with pytest.raises(CallError, match=GONE):
        workflows.call(completed(lost))
    workflows.call(completed(again))
    workflows.fold.check_refold()


def test_obsolete_task_gives_the_poll_back(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.take("activity", "act")
    assert workflows.deliver(msgspec.structs.replace(task, attempt=2)) is None
    assert workflows.deliver(task) is not None
    assert workflows.deliver(task) is None
    assert [body.task_kind for body in workflows.returned] == ["activity", "activity"]


def test_late_poll_puts_the_task_back(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.take("activity", "act")
    poll = bodies.Poll("gateway-1", 1, 1, workflows.fold.now_ms - 1, IDENTITY, b"", "act")
    late = (task.scheduled_event_id, task.attempt, task.stamp, "", poll)
    workflows.send(bodies.StartTask(NAMESPACE, "wf", task.run_id, "activity", *late))
    assert workflows.tasks["activity", "act"][0].at_head
    assert workflows.poll_activity().attempt == 1


def test_end_waits_for_the_running_workflow_task(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.poll_activity()
    workflows.signal()
    running = workflows.poll()
    workflows.call(completed(task))
    assert workflows.kinds() == ["ACTIVITY_TASK_SCHEDULED", "WORKFLOW_EXECUTION_SIGNALED"]
    workflows.respond(running)
    assert workflows.kinds()[2:] == ["ACTIVITY_TASK_STARTED", "ACTIVITY_TASK_COMPLETED"]
    events = workflows.history()
    end = workflows.event("ACTIVITY_TASK_COMPLETED")
    assert events[end.started_event_id - 1].HasField("activity_task_started_event_attributes")
    assert workflows.waiting("workflow", "tq") == 1
    workflows.fold.check_refold()


def test_cancel_before_start_is_immediate(workflows: Workflows) -> None:
    workflows.step(activity(), cancel(5))
    assert workflows.kinds()[1:] == ["ACTIVITY_TASK_CANCEL_REQUESTED", "ACTIVITY_TASK_CANCELED"]
    end = workflows.event("ACTIVITY_TASK_CANCELED")
    assert end.details.payloads[0].data == b'"ACTIVITY_ID_NOT_STARTED"'
    assert (end.latest_cancel_requested_event_id, end.started_event_id) == (6, 0)
    assert workflows.waiting("workflow", "tq") == 1
    assert not workflows.waiting("activity", "act"), "canceled before it was dispatched"


def test_cancel_of_a_running_one_reaches_it_by_heartbeat(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.poll_activity()
    assert not workflows.call(beat(task)).cancel_requested
    with pytest.raises(CallError, match="without activity being request canceled first") as refused:
        workflows.call(canceled(task))
    assert refused.value.code == errors.INVALID_ARGUMENT
    workflows.signal()
    workflows.step(cancel(5))
    assert workflows.call(beat(task)).cancel_requested
    workflows.call(canceled(task))
    end = workflows.event("ACTIVITY_TASK_CANCELED")
    assert (end.latest_cancel_requested_event_id, end.started_event_id) == (10, 11)


def test_canceling_stops_retries(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.poll_activity()
    workflows.signal()
    workflows.step(cancel(5))
    workflows.call(failed(task))
    end = workflows.event("ACTIVITY_TASK_FAILED")
    assert end.retry_state == RetryState.RETRY_STATE_CANCEL_REQUESTED


def test_cancel_of_what_is_not_pending_fails_the_task(workflows: Workflows) -> None:
    with pytest.raises(CallError) as refused:
        workflows.step(cancel(77))
    assert refused.value.message == (
        "BadRequestCancelActivityAttributes: invalid history builder state for action: "
        "add-activitytask-cancel-requested-event, ScheduledEventID: 77"
    )


def test_cancel_of_one_whose_end_is_buffered_is_recorded(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.poll_activity()
    workflows.signal()
    running = workflows.poll()
    workflows.call(completed(task))
    workflows.respond(running, cancel(5))  # type: ignore[arg-type]
    assert workflows.kinds()[2:] == [
        "ACTIVITY_TASK_CANCEL_REQUESTED",
        "ACTIVITY_TASK_STARTED",
        "ACTIVITY_TASK_COMPLETED",
    ]


def test_answers_after_the_end_find_nothing(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.poll_activity()
    workflows.call(completed(task))
    for answer in (completed(task), failed(task), canceled(task), beat(task)):
        with pytest.raises(CallError, match=GONE) as refused:
            workflows.call(answer)
        assert refused.value.code == errors.NOT_FOUND
    workflows.terminate()
    with pytest.raises(CallError, match="workflow execution already completed"):
        workflows.call(beat(task))


def test_by_id_completes_one_that_was_never_started(workflows: Workflows) -> None:
    workflows.step(activity())
    named = {"namespace": NAMESPACE, "workflow_id": "wf", "activity_id": "a1", "identity": "client"}
    with pytest.raises(CallError, match=GONE):
        workflows.call(api.RespondActivityTaskFailedByIdRequest(**named))
    workflows.call(api.RespondActivityTaskCompletedByIdRequest(result=payloads("by id"), **named))
    started = workflows.event("ACTIVITY_TASK_STARTED")
    assert (started.identity, started.request_id, started.attempt) == ("client", "", 1)
    assert workflows.event("ACTIVITY_TASK_COMPLETED").started_event_id == 6
    with pytest.raises(CallError, match="cannot find pending activity with ActivityID a1"):
        workflows.call(api.RecordActivityTaskHeartbeatByIdRequest(**named))


def test_by_id_of_an_unknown_run(workflows: Workflows) -> None:
    request = api.RespondActivityTaskCompletedByIdRequest(workflow_id="wf", run_id="r", activity_id="a1")
    with pytest.raises(CallError) as refused:
        workflows.call(request, run_id="r")
    assert refused.value.message == 'workflow execution not found for workflow ID "wf" and run ID "r"'


def test_eager_activity_comes_with_the_answer() -> None:
    workflows = Workflows()
    workflows.start()
    answer = workflows.step(
        activity(request_eager_execution=True),
        activity("canceled", request_eager_execution=True),
        cancel(6),  # type: ignore[arg-type]
        activity("normal"),
    )
    assert [task.activity_id for task in answer.activity_tasks] == ["a1"]
    assert [task.scheduled_event_id for task in workflows.tasks["activity", "act"]] == [9]
    workflows.call(completed(answer.activity_tasks[0]))
    assert workflows.event("ACTIVITY_TASK_STARTED").identity == IDENTITY
    workflows.fold.check_refold()


def test_eager_execution_can_be_switched_off() -> None:
    workflows = Workflows(**{"system.enableActivityEagerExecution": 0})
    workflows.start()
    answer = workflows.step(activity(request_eager_execution=True))
    assert not answer.activity_tasks
    assert workflows.waiting("activity", "act") == 1


def test_close_drops_pending_activities(workflows: Workflows) -> None:
    workflows.step(activity())
    workflows.terminate()
    assert workflows.deliver(workflows.take("activity", "act")) is None
