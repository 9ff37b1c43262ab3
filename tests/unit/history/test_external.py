"""Signals and cancel requests from one workflow to another."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import (
    CancelExternalWorkflowExecutionFailedCause,
    SignalExternalWorkflowExecutionFailedCause,
)

from tests.unit.history.support import (
    NAMESPACE,
    NAMESPACE_ID,
    CallError,
    Workflows,
    command,
    complete,
    payload,
    payloads,
)

SIGNAL = SignalExternalWorkflowExecutionFailedCause
CANCEL = CancelExternalWorkflowExecutionFailedCause
SIGNAL_NOT_FOUND = (
    SIGNAL.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)
CANCEL_NOT_FOUND = (
    CANCEL.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)


@pytest.fixture
def workflows() -> Workflows:
    """Two workflows that have been started."""
    world = Workflows()
    world.start()
    world.start("other", queue="other")
    return world


def signal(workflow_id: str = "other", run_id: str = "", **fields: Any) -> Command:
    """A command that signals another workflow."""
    execution = {"workflow_id": workflow_id, "run_id": run_id}
    given = {"execution": execution, "signal_name": "hello"} | fields
    return command("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION", **given)


def cancel(workflow_id: str = "other", **fields: Any) -> Command:
    """A command that asks another workflow to cancel itself."""
    return command("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION", workflow_id=workflow_id, **fields)


def child() -> Command:
    """A command that starts a child."""
    fields = {"workflow_type": {"name": "Child"}, "task_queue": {"name": "child"}}
    return command("START_CHILD_WORKFLOW_EXECUTION", workflow_id="child", **fields)


def test_signal_arrives_and_is_confirmed(workflows: Workflows) -> None:
    workflows.step(signal(input=payloads("in"), control="c", header={"fields": {"h": payload("h")}}))
    taken = workflows.event("WORKFLOW_EXECUTION_SIGNALED", "other")
    assert (taken.signal_name, taken.input, taken.identity) == ("hello", payloads("in"), "history-service")
    assert taken.external_workflow_execution.workflow_id == "wf"
    assert taken.header.fields["h"] == payload("h")
    initiated = workflows.event("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED")
    assert (initiated.namespace, initiated.namespace_id) == ("", NAMESPACE_ID)
    confirmed = workflows.event("EXTERNAL_WORKFLOW_EXECUTION_SIGNALED")
    assert (confirmed.namespace, confirmed.control, confirmed.initiated_event_id) == (NAMESPACE, "c", 5)
    assert workflows.waiting("workflow", "tq") == 1
    workflows.fold.check_refold()


@pytest.mark.parametrize("target", ["nobody", "wf", "closed"])
def test_signal_that_finds_nobody(workflows: Workflows, target: str) -> None:
    workflows.start("closed", queue="closed")
    workflows.step(complete(), queue="closed")
    workflows.step(signal(target, control="c"))
    failed = workflows.event("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED")
    assert (failed.cause, failed.control, failed.initiated_event_id) == (SIGNAL_NOT_FOUND, "c", 5)
    assert failed.workflow_execution.workflow_id == target
    assert workflows.waiting("workflow", "tq") == 1


def test_signal_for_children_only(workflows: Workflows) -> None:
    workflows.step(signal(child_workflow_only=True), child(), signal("child", child_workflow_only=True))
    assert workflows.kinds("other") == []
    assert workflows.kinds("child") == ["WORKFLOW_EXECUTION_SIGNALED"]
    assert workflows.event("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED").cause == SIGNAL_NOT_FOUND
    assert "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED" in workflows.kinds()


def test_signal_over_the_target_s_limit() -> None:
    workflows = Workflows(**{"history.maximumSignalsPerExecution": 1})
    workflows.start()
    workflows.start("other", queue="other")
    workflows.signal("other")
    workflows.step(signal())
    failed = workflows.event("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED")
    cause = SIGNAL.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_SIGNAL_COUNT_LIMIT_EXCEEDED
    assert failed.cause == cause


def test_signal_waits_for_a_target_that_tries_to_close(workflows: Workflows) -> None:
    running = workflows.poll("other")
    workflows.signal("other")
    with pytest.raises(CallError, match="UnhandledCommand"):
        workflows.respond(running, complete())
    running = workflows.poll("other")
    workflows.step(signal())
    assert workflows.kinds()[-1] == "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED"
    workflows.respond(running)
    assert workflows.kinds("other")[-1] == "WORKFLOW_EXECUTION_SIGNALED"


def test_cancel_arrives_once(workflows: Workflows) -> None:
    workflows.step(cancel(reason="enough"))
    asked = workflows.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED", "other")
    assert (asked.cause, asked.identity) == ("enough", "history-service")
    assert (asked.external_initiated_event_id, asked.external_workflow_execution.workflow_id) == (5, "wf")
    workflows.step(cancel())
    assert workflows.kinds()[-1] == "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED"
    assert workflows.kinds("other") == ["WORKFLOW_EXECUTION_CANCEL_REQUESTED"]
    workflows.fold.check_refold()


def test_cancel_of_a_closed_workflow_succeeds(workflows: Workflows) -> None:
    workflows.step(complete(), queue="other")
    workflows.step(cancel())
    assert workflows.kinds()[-1] == "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED"


@pytest.mark.parametrize(("target", "only"), [("nobody", False), ("wf", False), ("other", True)])
def test_cancel_that_finds_nobody(workflows: Workflows, target: str, only: bool) -> None:
    workflows.step(cancel(target, child_workflow_only=only))
    failed = workflows.event("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED")
    assert (failed.cause, failed.initiated_event_id) == (CANCEL_NOT_FOUND, 5)


def test_child_cannot_be_started_and_canceled_by_one_task(workflows: Workflows) -> None:
    with pytest.raises(CallError, match="Start and RequestCancel for child workflow is not allowed in same"):
        workflows.step(child(), cancel("child", child_workflow_only=True))


def test_closing_task_sends_nothing(workflows: Workflows) -> None:
    workflows.step(signal(), cancel(), complete())
    assert workflows.kinds("other") == []


def test_answer_waits_for_the_running_workflow_task(workflows: Workflows) -> None:
    workflows.hold()
    workflows.step(signal(), cancel(), force_create_new_workflow_task=True)
    running = workflows.poll()
    workflows.release()
    workflows.respond(running)
    assert workflows.kinds()[-2:] == [
        "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED",
        "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED",
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            signal("", signal_name="s"),
            "BadSignalWorkflowExecutionAttributes: WorkflowId is not set on "
            "SignalExternalWorkflowExecutionCommand. Namespace= RunId= SignalName=s",
        ),
        (
            signal(signal_name=""),
            "BadSignalWorkflowExecutionAttributes: SignalName is not set on "
            "SignalExternalWorkflowExecutionCommand. WorkflowId=other Namespace= RunId=",
        ),
        (
            signal(run_id="not-a-uuid", signal_name="s"),
            "BadSignalWorkflowExecutionAttributes: Invalid RunId set on "
            "SignalExternalWorkflowExecutionCommand. WorkflowId=other Namespace= RunId=not-a-uuid "
            "SignalName=s",
        ),
        (
            cancel(""),
            "BadRequestCancelExternalWorkflowExecutionAttributes: WorkflowId is not set on "
            "RequestCancelExternalWorkflowExecutionCommand. Namespace= RunId=",
        ),
        (
            cancel(run_id="not-a-uuid"),
            "BadRequestCancelExternalWorkflowExecutionAttributes: Invalid RunId set on "
            "RequestCancelExternalWorkflowExecutionCommand. WorkflowId=other RunId=not-a-uuid Namespace=",
        ),
        (signal(namespace="nowhere"), "Namespace nowhere is not found."),
    ],
)
def test_bad_commands(workflows: Workflows, bad: Command, message: str) -> None:
    with pytest.raises(CallError) as refused:
        workflows.step(bad)
    assert refused.value.message == message


def test_pending_requests_are_limited() -> None:
    limits = {"limit.numPendingSignals.error": 1, "limit.numPendingCancelRequests.error": 1}
    workflows = Workflows(**limits)
    workflows.start()
    task = workflows.poll()
    with pytest.raises(CallError, match="the number of pending signals to external workflows, 1"):
        workflows.respond(task, signal(), signal())
    with pytest.raises(CallError, match="the number of pending requests to cancel external workflows, 1"):
        workflows.step(cancel(), cancel())
