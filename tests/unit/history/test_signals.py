"""Signals of a run."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import Header, Link
from temporalio.api.enums.v1 import EventType, ResourceExhaustedCause, WorkflowTaskFailedCause
from temporalio.api.errordetails.v1 import ResourceExhaustedFailure
from temporalio.api.workflowservice import v1 as api

from tests.unit.history.callers import Clients, DetailedError
from tests.unit.history.support import NAMESPACE, CallError, complete, payload, payloads, seconds


def signal(clients: Clients, run_id: str = "", **fields: Any) -> None:
    request = api.SignalWorkflowExecutionRequest(
        namespace=NAMESPACE, **{"signal_name": "signal", "identity": "sender"} | fields
    )
    clients.ask(request, run_id).answer()


def test_a_signal_carries_everything_and_schedules_a_task() -> None:
    clients = Clients()
    clients.idle()
    link = Link(workflow_event=Link.WorkflowEvent(namespace="other", workflow_id="a", run_id="b"))
    header = Header(fields={"trace": payload("abc")})
    signal(clients, input=payloads("in"), header=header, links=[link])
    event = clients.history()[4]
    attributes = event.workflow_execution_signaled_event_attributes
    assert (attributes.signal_name, attributes.identity) == ("signal", "sender")
    assert attributes.input == payloads("in")
    assert attributes.header == header
    assert list(event.links) == [link]
    assert clients.waiting("workflow", "tq") == 1


def test_a_request_is_applied_once_even_after_the_close() -> None:
    clients = Clients()
    clients.idle()
    signal(clients, request_id="r1")
    signal(clients, request_id="r1")
    clients.step(complete())
    signal(clients, request_id="r1")
    assert clients.kinds() == ["WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_EXECUTION_COMPLETED"]
    with pytest.raises(CallError, match="workflow execution already completed") as caught:
        signal(clients, request_id="r2")
    assert caught.value.code == 5
    clients.fold.check_refold()


def test_a_signal_does_not_end_the_start_delay() -> None:
    clients = Clients()
    clients.start(workflow_start_delay=seconds(60))
    signal(clients)
    assert clients.waiting("workflow", "tq") == 0
    clients.pass_time(61)
    assert clients.waiting("workflow", "tq") == 1


def test_signals_are_limited_by_number() -> None:
    clients = Clients(**{"history.maximumSignalsPerExecution": 2})
    clients.idle()
    signal(clients)
    signal(clients)
    with pytest.raises(CallError, match="exceeded workflow execution limit for signal events") as caught:
        signal(clients)
    assert caught.value.code == 3


def test_signals_are_limited_by_size() -> None:
    clients = Clients(**{"limit.blobSize.error": 1000})
    clients.idle()
    with pytest.raises(CallError, match="Blob data size exceeds limit"):
        signal(clients, input=payloads("x" * 1000))


def test_an_unknown_run_is_not_found() -> None:
    clients = Clients()
    with pytest.raises(CallError, match="workflow not found for ID: wf"):
        signal(clients)
    clients.idle()
    with pytest.raises(CallError, match="workflow execution not found for workflow ID"):
        signal(clients, run_id="another")


def test_more_buffered_bytes_than_allowed_fail_the_running_task() -> None:
    clients = Clients(**{"history.maximumBufferedEventsSizeInBytes": 1000})
    clients.idle()
    signal(clients)
    clients.poll()
    for _ in range(3):
        signal(clients, input=payloads("x" * 400))
    kinds = [EventType.Name(event.event_type) for event in clients.history()[6:]]
    assert kinds == [
        "EVENT_TYPE_WORKFLOW_TASK_STARTED",
        "EVENT_TYPE_WORKFLOW_TASK_FAILED",
        *["EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED"] * 3,
    ]
    failed = clients.event("WORKFLOW_TASK_FAILED")
    assert failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
    assert clients.waiting("workflow", "tq") == 1
    clients.fold.check_refold()


def test_no_signal_comes_between_a_workflow_and_its_second_try_to_close() -> None:
    clients = Clients()
    clients.idle()
    signal(clients)
    task = clients.poll()
    signal(clients)
    with pytest.raises(CallError, match="UnhandledCommand"):
        clients.respond(task, complete())
    task = clients.poll()
    with pytest.raises(DetailedError, match="workflow is closing") as caught:
        signal(clients)
    assert caught.value.code == 8
    cause = caught.value.detail(ResourceExhaustedFailure).cause
    assert cause == ResourceExhaustedCause.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW
    clients.respond(task, complete())
    assert clients.kinds()[-1] == "WORKFLOW_EXECUTION_COMPLETED"
