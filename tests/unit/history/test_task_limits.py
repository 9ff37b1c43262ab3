"""Limits on workflow tasks: how long they take, how long they are put off, and what they are told."""

from __future__ import annotations

import pytest
from temporalio.api.workflowservice import v1 as api

from tests.unit.history.support import CallError, Workflows, command, payloads, seconds

DEFAULT_TIMEOUT = "history.defaultWorkflowTaskTimeout"
HEARTBEAT_TIMEOUT = "history.workflowTaskHeartbeatTimeout"
RETRY_INTERVAL = "history.workflowTaskRetryMaxInterval"


def test_a_task_times_out_after_the_default_when_the_start_says_nothing() -> None:
    workflows = Workflows(**{DEFAULT_TIMEOUT: 3_000})
    workflows.start()
    workflows.poll()
    workflows.pass_time(2.9)
    assert len(workflows.history()) == 3
    workflows.pass_time(0.1)
    assert workflows.event("WORKFLOW_TASK_TIMED_OUT").started_event_id == 3


def test_a_start_may_ask_for_another_timeout() -> None:
    workflows = Workflows(**{DEFAULT_TIMEOUT: 3_000})
    workflows.start(workflow_task_timeout=seconds(20))
    assert workflows.event("WORKFLOW_TASK_SCHEDULED").start_to_close_timeout == seconds(20)


def test_a_task_that_goes_on_and_on_times_out_in_the_end() -> None:
    workflows = Workflows(**{HEARTBEAT_TIMEOUT: 12_000})
    workflows.start()
    task = workflows.poll()
    for _ in range(2):
        workflows.pass_time(5)
        task = workflows.respond(
            task, force_create_new_workflow_task=True, return_new_workflow_task=True
        ).workflow_task
    workflows.pass_time(5)
    with pytest.raises(CallError, match="workflow task heartbeat timeout"):
        workflows.respond(task, force_create_new_workflow_task=True, return_new_workflow_task=True)
    assert workflows.waiting("workflow", "tq") == 1


def test_the_backoff_of_a_failing_task_is_limited() -> None:
    workflows = Workflows(**{RETRY_INTERVAL: 7_000})
    workflows.start()
    taken_s = []
    for _ in range(7):
        task = workflows.poll()
        assert task.attempt == len(taken_s) + 1
        waited_s = 0.0
        while not workflows.waiting("workflow", "tq"):
            workflows.pass_time(0.5)
            waited_s += 0.5
        taken_s.append(waited_s)
    assert taken_s == [10, 10, 10, 15, 17, 17, 17]


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("limit.historyCount.suggestContinueAsNew", 8),
        ("limit.historySize.suggestContinueAsNew", 1_000),
    ],
)
def test_a_grown_history_suggests_to_continue_as_new(limit: str, value: int) -> None:
    workflows = Workflows(**{limit: value})
    workflows.start()
    markers = [
        command("RECORD_MARKER", marker_name="m", details={"d": payloads("x" * 300)}) for _ in range(4)
    ]
    workflows.step(*markers)
    assert not workflows.event("WORKFLOW_TASK_STARTED").suggest_continue_as_new
    workflows.signal()
    task: api.PollWorkflowTaskQueueResponse = workflows.poll()
    assert task.history.events or task.started_event_id
    assert workflows.event("WORKFLOW_TASK_STARTED").suggest_continue_as_new


@pytest.mark.parametrize("limit_bytes", [500, 3_000])
def test_a_failure_kept_between_attempts_is_cut_to_the_limit(limit_bytes: int) -> None:
    workflows = Workflows(**{"limit.mutableStateActivityFailureSize.error": limit_bytes})
    workflows.start()
    workflows.step(
        command(
            "SCHEDULE_ACTIVITY_TASK",
            activity_id="a",
            activity_type={"name": "A"},
            task_queue={"name": "act"},
            start_to_close_timeout=seconds(10),
        )
    )
    task = workflows.poll_activity()
    failure = {"message": "m" * 4_000, "application_failure_info": {"type": "T"}}
    workflows.call(api.RespondActivityTaskFailedRequest(task_token=task.task_token, failure=failure))
    described = workflows.call(api.DescribeWorkflowExecutionRequest())
    kept = described.pending_activities[0].last_failure
    assert 0.5 * limit_bytes < kept.cause.ByteSize() <= limit_bytes
