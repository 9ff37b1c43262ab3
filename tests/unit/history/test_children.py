"""Child workflows, seen from both sides."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import (
    ParentClosePolicy,
    StartChildWorkflowExecutionFailedCause,
    WorkflowIdReusePolicy,
)
from temporalio.api.workflowservice import v1 as api

from streams.history import errors
from tests.unit.history.support import (
    NAMESPACE,
    NAMESPACE_ID,
    OTHER_NAMESPACE,
    CallError,
    Workflows,
    application_failure,
    command,
    complete,
    payload,
    payloads,
    seconds,
)

POLICY = ParentClosePolicy
CAUSE = StartChildWorkflowExecutionFailedCause


@pytest.fixture
def workflows() -> Workflows:
    """A workflow that has been started, with nothing done."""
    world = Workflows()
    world.start()
    return world


def child(workflow_id: str = "child", **fields: Any) -> Command:
    """A command that starts a child on a queue of its own."""
    given = {"workflow_type": {"name": "Child"}, "task_queue": {"name": "child"}} | fields
    return command("START_CHILD_WORKFLOW_EXECUTION", workflow_id=workflow_id, **given)


def test_child_starts_and_completes(workflows: Workflows) -> None:
    workflows.step(child(input=payloads("in"), control="c"))
    initiated = workflows.event("START_CHILD_WORKFLOW_EXECUTION_INITIATED")
    assert (initiated.namespace, initiated.namespace_id) == (NAMESPACE, NAMESPACE_ID)
    assert initiated.parent_close_policy == POLICY.PARENT_CLOSE_POLICY_TERMINATE
    assert initiated.HasField("workflow_run_timeout")
    assert not initiated.HasField("workflow_execution_timeout")
    assert not initiated.HasField("search_attributes")
    started = workflows.event("CHILD_WORKFLOW_EXECUTION_STARTED")
    assert (started.initiated_event_id, started.workflow_type.name) == (5, "Child")
    first = workflows.history("child")[0].workflow_execution_started_event_attributes
    run_id = workflows.history()[0].workflow_execution_started_event_attributes.original_execution_run_id
    assert first.parent_workflow_execution.run_id == run_id
    assert first.root_workflow_execution.workflow_id == "wf"
    assert (first.parent_initiated_event_id, first.input) == (5, payloads("in"))
    assert first.parent_workflow_namespace_id == NAMESPACE_ID
    workflows.step(queue="tq")
    workflows.step(command("COMPLETE_WORKFLOW_EXECUTION", result=payloads("out")), queue="child")
    end = workflows.event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    assert (end.result, end.initiated_event_id, end.started_event_id) == (payloads("out"), 5, 6)
    assert end.workflow_execution == started.workflow_execution
    assert workflows.waiting("workflow", "tq") == 1
    workflows.fold.check_refold()


def test_all_fields_reach_the_child() -> None:
    workflows = Workflows()
    workflows.start(priority={"priority_key": 1, "fairness_key": "k"})
    attributes = {"indexed_fields": {"Keyword": payload("v")}}
    given = child(
        workflow_execution_timeout=seconds(300),
        workflow_run_timeout=seconds(500),
        workflow_task_timeout=seconds(700),
        retry_policy={"maximum_attempts": 4},
        memo={"fields": {"note": payload("n")}},
        search_attributes=attributes,
        header={"fields": {"h": payload("h")}},
        priority={"priority_key": 5},
    )
    given.user_metadata.summary.CopyFrom(payload("summary"))
    workflows.step(given)
    event = workflows.history("child")[0]
    first = event.workflow_execution_started_event_attributes
    assert first.workflow_run_timeout == seconds(300)
    assert first.workflow_task_timeout == seconds(120)
    assert first.HasField("workflow_execution_expiration_time")
    assert first.retry_policy.initial_interval == seconds(1)
    assert (first.priority.priority_key, first.priority.fairness_key) == (5, "k")
    assert first.memo.fields["note"] == payload("n")
    assert first.search_attributes.indexed_fields["Keyword"].metadata["type"] == b"Keyword"
    assert first.header.fields["h"] == payload("h")
    assert event.user_metadata.summary == payload("summary")


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (command("FAIL_WORKFLOW_EXECUTION", failure=application_failure()), "FAILED"),
        (command("CANCEL_WORKFLOW_EXECUTION", details=payloads("bye")), "CANCELED"),
    ],
)
def test_other_ends_of_a_child(workflows: Workflows, last: Command, kind: str) -> None:
    workflows.step(child())
    workflows.step(queue="tq")
    workflows.step(last, queue="child")
    end = workflows.event(f"CHILD_WORKFLOW_EXECUTION_{kind}")
    assert end.failure == application_failure() if kind == "FAILED" else end.details == payloads("bye")


def test_terminated_and_timed_out_children(workflows: Workflows) -> None:
    workflows.step(child("one"), child("two", workflow_run_timeout=seconds(5)))
    workflows.step(queue="tq")
    workflows.terminate("one")
    workflows.pass_time(5)
    assert workflows.kinds()[-2:] == [
        "CHILD_WORKFLOW_EXECUTION_TERMINATED",
        "CHILD_WORKFLOW_EXECUTION_TIMED_OUT",
    ]


def test_started_event_waits_for_the_running_workflow_task(workflows: Workflows) -> None:
    workflows.hold()
    workflows.step(child(), force_create_new_workflow_task=True)
    running = workflows.poll()
    workflows.release()
    assert "CHILD_WORKFLOW_EXECUTION_STARTED" not in workflows.kinds()
    workflows.step(complete(), queue="child")
    workflows.respond(running)
    assert workflows.kinds()[1:] == ["CHILD_WORKFLOW_EXECUTION_STARTED", "CHILD_WORKFLOW_EXECUTION_COMPLETED"]
    started_event_id = workflows.event("CHILD_WORKFLOW_EXECUTION_COMPLETED").started_event_id
    assert workflows.history()[started_event_id - 1].HasField(
        "child_workflow_execution_started_event_attributes"
    )
    workflows.fold.check_refold()


def test_taken_id_fails_the_start(workflows: Workflows) -> None:
    workflows.start("child", queue="other")
    workflows.step(child(control="c"))
    end = workflows.event("START_CHILD_WORKFLOW_EXECUTION_FAILED")
    assert end.cause == CAUSE.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
    assert (end.initiated_event_id, end.control, end.workflow_type.name) == (5, "c", "Child")
    assert workflows.waiting("workflow", "tq") == 1


def test_reuse_policy_decides_over_a_closed_run(workflows: Workflows) -> None:
    workflows.start("child", queue="other")
    workflows.step(complete(), queue="other")
    reject = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    workflows.step(child(workflow_id_reuse_policy=reject))
    assert workflows.kinds()[-1] == "START_CHILD_WORKFLOW_EXECUTION_FAILED"
    workflows.step(child())
    assert workflows.kinds()[-1] == "CHILD_WORKFLOW_EXECUTION_STARTED"


@pytest.mark.parametrize("close", ["complete", "terminate"])
def test_parent_close_policies(workflows: Workflows, close: str) -> None:
    workflows.step(
        child("ended"),
        child("asked", parent_close_policy=POLICY.PARENT_CLOSE_POLICY_REQUEST_CANCEL),
        child("left", parent_close_policy=POLICY.PARENT_CLOSE_POLICY_ABANDON),
    )
    if close == "complete":
        workflows.step(complete())
    else:
        workflows.terminate()
    ended = workflows.event("WORKFLOW_EXECUTION_TERMINATED", "ended")
    assert (ended.reason, ended.identity) == ("by parent close policy", "history-service")
    asked = workflows.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED", "asked")
    assert asked.external_workflow_execution.workflow_id == "wf"
    assert asked.identity == "history-service"
    assert workflows.kinds("left") == []
    workflows.fold.check_refold()


def test_child_of_a_closing_task_never_starts(workflows: Workflows) -> None:
    workflows.step(child(parent_close_policy=POLICY.PARENT_CLOSE_POLICY_ABANDON), complete())
    assert not workflows.waiting("workflow", "child")


def test_policy_is_applied_when_the_child_starts_after_its_parent_closed(workflows: Workflows) -> None:
    workflows.step(child("first"))
    workflows.step()
    workflows.hold()
    workflows.signal()
    workflows.step(child("late"))
    workflows.terminate()
    workflows.release()
    assert workflows.kinds("late") == ["WORKFLOW_EXECUTION_TERMINATED"]
    assert workflows.kinds("first") == ["WORKFLOW_EXECUTION_TERMINATED"]


def test_policy_follows_the_chain_of_runs_and_only_the_last_is_told(workflows: Workflows) -> None:
    workflows.step(child())
    workflows.step()
    workflows.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"), queue="child")
    assert workflows.kinds()[-1] == "CHILD_WORKFLOW_EXECUTION_STARTED"
    workflows.pass_time(1)
    workflows.step(complete(), queue="child")
    end = workflows.event("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    started = workflows.event("CHILD_WORKFLOW_EXECUTION_STARTED")
    assert end.workflow_execution.run_id != started.workflow_execution.run_id
    workflows.step(child("other"))
    workflows.step()
    workflows.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"), queue="child")
    workflows.terminate()
    assert workflows.kinds("other") == ["WORKFLOW_EXECUTION_TERMINATED"]


def test_cron_child_waits_for_its_schedule(workflows: Workflows) -> None:
    workflows.step(child(cron_schedule="@every 30s"))
    assert not workflows.waiting("workflow", "child")
    assert workflows.kinds()[-1] == "CHILD_WORKFLOW_EXECUTION_STARTED"
    workflows.pass_time(31)
    assert workflows.waiting("workflow", "child") == 1


def test_child_in_another_namespace(workflows: Workflows) -> None:
    workflows.step(child(namespace=OTHER_NAMESPACE))
    started = workflows.event("CHILD_WORKFLOW_EXECUTION_STARTED")
    assert started.namespace == OTHER_NAMESPACE
    with pytest.raises(CallError, match="Namespace nowhere is not found") as refused:
        workflows.step(child("x", namespace="nowhere"))
    assert refused.value.code == errors.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"workflow_id": ""},
            "BadStartChildExecutionAttributes: Required field WorkflowId is not set on "
            "StartChildWorkflowExecutionCommand. WorkflowType=Child Namespace=default",
        ),
        (
            {"workflow_run_timeout": seconds(-1)},
            "BadStartChildExecutionAttributes: Invalid WorkflowRunTimeout on "
            "StartChildWorkflowExecutionCommand: negative duration. "
            "WorkflowId=child WorkflowType=Child Namespace=default",
        ),
        (
            {"search_attributes": {"indexed_fields": {"Nobody": payload("x")}}},
            "BadSearchAttributes: Namespace default has no mapping defined for search attribute Nobody",
        ),
        (
            {"retry_policy": {"maximum_attempts": -1}},
            "invalid WorkflowRetryPolicy on StartChildWorkflowExecutionCommand: MaximumAttempts cannot be "
            "negative on retry policy.. WorkflowId=child WorkflowType=Child Namespace=default",
        ),
        (
            {"cron_schedule": "nonsense"},
            "invalid CronSchedule on StartChildWorkflowExecutionCommand: invalid CronSchedule.. "
            "WorkflowId=child WorkflowType=Child Namespace=default",
        ),
        (
            {"task_queue": {"name": "/_sys/x/1"}},
            "invalid TaskQueue on StartChildWorkflowExecutionCommand: task queue name cannot start with "
            "reserved prefix /_sys/. WorkflowId=child WorkflowType=Child Namespace=default "
            'TaskQueue=name:"/_sys/x/1" kind:TASK_QUEUE_KIND_NORMAL',
        ),
    ],
)
def test_bad_commands(workflows: Workflows, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError) as refused:
        workflows.step(child(**fields))
    assert refused.value.message == message


def test_pending_children_are_limited() -> None:
    workflows = Workflows(**{"limit.numPendingChildExecutions.error": 1})
    workflows.start()
    with pytest.raises(CallError, match="the number of pending child workflow executions, 1, has reached"):
        workflows.step(child("one"), child("two"))


def test_too_much_input_ends_the_workflow() -> None:
    workflows = Workflows(**{"limit.blobSize.error": 100})
    workflows.start()
    with pytest.raises(CallError, match="Input exceeds size limit"):
        workflows.step(child(input=payloads("x" * 200)))
    assert workflows.kinds()[-1] == "WORKFLOW_EXECUTION_TERMINATED"


def test_child_ended_by_its_client_while_the_parent_is_told(workflows: Workflows) -> None:
    workflows.hold()
    workflows.step(child())
    workflows.release()
    workflows.hold()
    workflows.call(api.TerminateWorkflowExecutionRequest(namespace=NAMESPACE), "child")
    workflows.release()
    assert workflows.kinds()[1:] == [
        "CHILD_WORKFLOW_EXECUTION_STARTED",
        "CHILD_WORKFLOW_EXECUTION_TERMINATED",
    ]
