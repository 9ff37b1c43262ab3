"""What clients see of a run."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Priority, RetryPolicy, WorkerVersionStamp
from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState, WorkflowExecutionStatus
from temporalio.api.sdk.v1 import UserMetadata
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from streams.history import describe
from tests.support.folding import START_MS
from tests.unit.history.support import (
    NAMESPACE,
    CallError,
    Workflows,
    activity,
    application_failure,
    command,
    complete,
    payload,
    payloads,
    seconds,
)

STATE = PendingActivityState
RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING


@pytest.fixture
def workflows() -> Workflows:
    """A server without any workflow."""
    return Workflows()


def described(workflows: Workflows, run_id: str = "") -> api.DescribeWorkflowExecutionResponse:
    """The answer to DescribeWorkflowExecution."""
    return workflows.call(api.DescribeWorkflowExecutionRequest(namespace=NAMESPACE), run_id=run_id)


def pending(workflows: Workflows) -> PendingActivityInfo:
    """The only pending activity."""
    (info,) = described(workflows).pending_activities
    return info


def test_new_run_is_described(workflows: Workflows) -> None:
    run_id = workflows.start(
        memo={"fields": {"note": payload("n")}},
        user_metadata=UserMetadata(summary=payload("s")),
        workflow_execution_timeout=seconds(60),
        priority=Priority(priority_key=2),
    )
    answer = described(workflows)
    info, extended = answer.workflow_execution_info, answer.workflow_extended_info
    assert (info.execution.workflow_id, info.execution.run_id, info.first_run_id) == ("wf", run_id, run_id)
    assert (info.status, info.history_length, info.type.name, info.task_queue) == (RUNNING, 2, "Type", "tq")
    assert info.memo.fields["note"] == payload("n")
    assert info.HasField("search_attributes")
    assert info.HasField("auto_reset_points")
    assert info.priority.priority_key == 2
    assert (info.root_execution.workflow_id, info.root_execution.run_id) == ("wf", run_id)
    assert not info.HasField("close_time")
    assert not info.HasField("parent_execution")
    assert info.start_time.ToMilliseconds() == START_MS
    assert answer.execution_config.user_metadata.summary == payload("s")
    assert answer.execution_config.workflow_execution_timeout == seconds(60)
    assert extended.execution_expiration_time.ToMilliseconds() == START_MS + 60_000
    assert [info.event_id for info in extended.request_id_infos.values()] == [1]
    assert answer.pending_workflow_task.state == (
        PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    )


def test_run_without_timeout_shows_the_zero_time(workflows: Workflows) -> None:
    workflows.start()
    assert described(workflows).workflow_extended_info.run_expiration_time.seconds == -62_135_596_800


def test_unknown_workflow_is_not_found(workflows: Workflows) -> None:
    with pytest.raises(CallError, match="workflow not found for ID: wf"):
        described(workflows)


def test_closed_run_has_close_time_and_duration(workflows: Workflows) -> None:
    workflows.start()
    workflows.fold.now_ms += 1_500
    workflows.step(complete())
    info = described(workflows).workflow_execution_info
    assert info.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED
    assert info.close_time.ToMilliseconds() == START_MS + 1_500
    assert info.execution_duration.ToMilliseconds() == 1_500


def test_activity_in_each_state(workflows: Workflows) -> None:
    workflows.start()
    policy = {"initial_interval": seconds(2), "backoff_coefficient": 3.0, "maximum_attempts": 5}
    workflows.step(activity(retry_policy=policy, heartbeat_timeout=seconds(9)))
    info = pending(workflows)
    assert (info.state, info.attempt, info.maximum_attempts) == (
        STATE.PENDING_ACTIVITY_STATE_SCHEDULED,
        1,
        5,
    )
    assert info.current_retry_interval == seconds(2)
    task = workflows.poll_activity()
    assert pending(workflows).state == STATE.PENDING_ACTIVITY_STATE_STARTED
    beat = api.RecordActivityTaskHeartbeatRequest(task_token=task.task_token, details=payloads("half"))
    workflows.call(beat)
    assert pending(workflows).heartbeat_details == payloads("half")
    failed = api.RespondActivityTaskFailedRequest(task_token=task.task_token, failure=application_failure())
    workflows.call(failed)
    info = pending(workflows)
    assert (info.state, info.attempt, info.last_failure.message) == (
        STATE.PENDING_ACTIVITY_STATE_SCHEDULED,
        2,
        "broken",
    )
    assert info.current_retry_interval == seconds(2)
    assert info.next_attempt_schedule_time.ToMilliseconds() == workflows.fold.now_ms + 2_000
    assert info.last_attempt_complete_time.ToMilliseconds() == workflows.fold.now_ms
    workflows.pass_time(3)
    info = pending(workflows)
    assert not info.HasField("next_attempt_schedule_time")
    assert info.current_retry_interval == seconds(6)


def test_backoff_that_overflows_is_shown_as_the_longest(workflows: Workflows) -> None:
    policy = RetryPolicy(initial_interval=seconds(100), backoff_coefficient=10.0)
    assert describe._interval_ns(policy, 1_000_000) == describe.MAX_NS


def test_what_was_pending_at_the_close_is_still_shown(workflows: Workflows) -> None:
    workflows.start()
    workflows.step(activity(), command("START_TIMER", timer_id="t", start_to_fire_timeout=seconds(5)))
    workflows.terminate()
    answer = described(workflows)
    assert [info.activity_id for info in answer.pending_activities] == ["a1"]
    workflows.pass_time(60)
    assert workflows.kinds()[-1] == "WORKFLOW_EXECUTION_TERMINATED", "nothing pending lives on"


def test_points_to_reset_to_follow_the_workers_versions(workflows: Workflows) -> None:
    workflows.start()
    for build_id in ("one", "one", "two"):
        stamp = WorkerVersionStamp(build_id=build_id)
        workflows.step(worker_version_stamp=stamp)
        workflows.signal()
    info = described(workflows).workflow_execution_info
    points = [
        (point.build_id, point.first_workflow_task_completed_id) for point in info.auto_reset_points.points
    ]
    assert points == [("one", 4), ("two", 12)]
    assert info.most_recent_worker_version_stamp.build_id == "two"
    build_ids = info.search_attributes.indexed_fields["BuildIds"].data
    assert build_ids == b'["unversioned","unversioned:one","unversioned:two"]'


def test_points_expire_in_the_run_that_follows(workflows: Workflows) -> None:
    first = workflows.start()
    workflows.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION", workflow_type={"name": "Type"}))
    (point,) = described(workflows).workflow_execution_info.auto_reset_points.points
    assert point.run_id == first
    assert point.expire_time.ToMilliseconds() == workflows.fold.now_ms + 86_400_000


def test_points_to_reset_to_are_limited_in_this_run_and_the_next() -> None:
    workflows = Workflows(**{"history.historyMaxAutoResetPoints": 2})
    workflows.start()
    for build_id in ("one", "two", "three"):
        workflows.step(worker_version_stamp=WorkerVersionStamp(build_id=build_id))
        workflows.signal()
    info = described(workflows).workflow_execution_info
    assert [point.build_id for point in info.auto_reset_points.points] == ["two", "three"]
    workflows.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION", workflow_type={"name": "Type"}))
    inherited = workflows.event("WORKFLOW_EXECUTION_STARTED").prev_auto_reset_points
    assert len(inherited.points) == 2


def test_faulted_run_shows_why(workflows: Workflows) -> None:
    run_id = workflows.start()
    poison = bodies.Call("SignalWorkflowExecution", NAMESPACE, "wf", run_id, b"\xff")
    outcome = workflows.fold.send(poison, f"{NAMESPACE}/wf")
    assert outcome.verdicts
    memo = described(workflows).workflow_execution_info.memo
    assert b"Error" in memo.fields[describe.FAULTED].data
