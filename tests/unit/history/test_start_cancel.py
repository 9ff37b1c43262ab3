"""Starts that hand over the first workflow task, and requests to cancel."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.workflowservice import v1 as api

from tests.unit.history.callers import Clients
from tests.unit.history.support import NAMESPACE, CallError, command, complete, seconds

RUN = "00000000-0000-4000-8000-000000000001"
OTHER_RUN = "00000000-0000-4000-8000-000000000002"


def start_eagerly(clients: Clients, request_id: str = "r1", **fields: Any) -> Any:
    request = api.StartWorkflowExecutionRequest(
        namespace=NAMESPACE, workflow_id="wf", request_id=request_id, request_eager_execution=True, **fields
    )
    request.workflow_type.name = "Type"
    request.task_queue.name = "tq"
    return clients.ask(request, new_run_id=RUN).answer()


def cancel(clients: Clients, run_id: str = "", **fields: Any) -> None:
    request = api.RequestCancelWorkflowExecutionRequest(namespace=NAMESPACE, **fields)
    clients.ask(request, run_id).answer()


def test_a_starter_that_asks_gets_the_first_task() -> None:
    clients = Clients()
    task = start_eagerly(clients).eager_workflow_task
    assert (task.started_event_id, task.attempt) == (3, 1)
    assert clients.waiting("workflow", "tq") == 0
    clients.respond(task, complete())
    assert clients.kinds()[-1] == "WORKFLOW_EXECUTION_COMPLETED"
    clients.fold.check_refold()


def test_a_starter_whose_answer_got_lost_gets_its_task_again() -> None:
    clients = Clients()
    first = start_eagerly(clients)
    assert start_eagerly(clients) == first
    clients.respond(first.eager_workflow_task)
    again = start_eagerly(clients)
    assert again.run_id == RUN
    assert not again.HasField("eager_workflow_task")


def test_a_starter_gets_no_task_of_another_request() -> None:
    clients = Clients()
    start_eagerly(clients)
    use_existing = 2
    answer = start_eagerly(clients, "r2", workflow_id_conflict_policy=use_existing)
    assert not answer.started
    assert not answer.HasField("eager_workflow_task")


def test_a_delayed_start_hands_over_no_task() -> None:
    clients = Clients()
    answer = start_eagerly(clients, workflow_start_delay=seconds(5))
    assert not answer.HasField("eager_workflow_task")


def test_canceling_a_closed_run_changes_nothing() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    clients.step(complete())
    before = len(clients.history())
    cancel(clients)
    cancel(clients, first_execution_run_id=OTHER_RUN)
    assert len(clients.history()) == before


def test_canceling_names_the_first_run_of_the_chain() -> None:
    clients = Clients()
    run_id = clients.idle()
    with pytest.raises(CallError, match="workflow execution not found"):
        cancel(clients, first_execution_run_id=OTHER_RUN)
    cancel(clients, OTHER_RUN, first_execution_run_id=run_id)
    assert "WORKFLOW_EXECUTION_CANCEL_REQUESTED" in clients.kinds()


def test_a_request_to_cancel_ends_the_start_delay() -> None:
    clients = Clients()
    clients.start(workflow_start_delay=seconds(60))
    cancel(clients)
    assert clients.waiting("workflow", "tq") == 1
    clients.fold.check_refold()


def test_a_task_failed_for_a_reset_is_followed_by_a_first_attempt() -> None:
    clients = Clients()
    clients.start()
    task = clients.poll()
    request = api.RespondWorkflowTaskFailedRequest(
        namespace=NAMESPACE,
        task_token=task.task_token,
        cause=WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
    )
    clients.ask(request, task.workflow_execution.run_id).answer()
    assert clients.history()[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
    assert clients.poll().attempt == 1


def test_a_canceled_timer_that_fired_unseen_does_not_keep_the_workflow_open() -> None:
    clients = Clients()
    clients.start()
    clients.step(command("START_TIMER", timer_id="t1", start_to_fire_timeout=seconds(5)))
    clients.signal()
    task = clients.poll()
    clients.pass_time(6)
    clients.respond(task, command("CANCEL_TIMER", timer_id="t1"), complete())
    assert clients.kinds()[-1] == "WORKFLOW_EXECUTION_COMPLETED"
