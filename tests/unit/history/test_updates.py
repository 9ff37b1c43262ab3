"""Updates of a run."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.errordetails.v1 import MultiOperationExecutionFailure
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Request
from temporalio.api.workflowservice import v1 as api

from tests.unit.history.callers import (
    ACCEPTED,
    ADMITTED,
    COMPLETED,
    Clients,
    DetailedError,
    Waiting,
    accept,
    place,
    reject,
    respond,
    sticky,
    update_request,
)
from tests.unit.history.support import NAMESPACE, CallError, command, complete, payloads, seconds


def names(clients: Clients, after: int = 4) -> list[str]:
    """The event types of `wf` after those of its first task."""
    return [
        EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").removeprefix("WORKFLOW_")
        for event in clients.history()[after:]
    ]


TASK = ["TASK_SCHEDULED", "TASK_STARTED", "TASK_COMPLETED"]
DONE = ["EXECUTION_UPDATE_ACCEPTED", "EXECUTION_UPDATE_COMPLETED"]


def process(clients: Clients, task: Any, *messages: Any, more: Any = (), **fields: Any) -> Any:
    """Complete a task with messages, each at its place, and further commands."""
    return clients.respond(task, *map(place, messages), *more, messages=messages, **fields)


def test_an_update_is_accepted_and_completed_by_a_speculative_task() -> None:
    clients = Clients()
    run_id = clients.idle()
    update = clients.update()
    assert names(clients) == []
    task = clients.poll()
    assert [event.event_id for event in task.history.events] == [5, 6]
    (message,) = task.messages
    assert (message.id, message.protocol_instance_id, message.event_id) == ("u1/request", "u1", 5)
    request = Request()
    assert message.body.Unpack(request)
    assert request.input.name == "change"
    process(clients, task, accept(message), respond())
    answer = update.answer()
    assert (answer.stage, answer.outcome.success) == (COMPLETED, payloads("out"))
    assert answer.update_ref.workflow_execution.run_id == run_id
    assert names(clients) == [*TASK, *DONE]
    accepted = clients.event("WORKFLOW_EXECUTION_UPDATE_ACCEPTED")
    assert accepted.accepted_request == request
    assert accepted.accepted_request_message_id == "u1/request"
    assert accepted.accepted_request_sequencing_event_id == 5
    completed = clients.event("WORKFLOW_EXECUTION_UPDATE_COMPLETED")
    assert completed.accepted_event_id == 8
    assert completed.outcome.success == payloads("out")
    clients.fold.check_refold()


def test_callers_wait_for_the_stage_they_asked_for() -> None:
    clients = Clients()
    clients.idle()
    accepted, completed = clients.update(stage=ACCEPTED), clients.update(stage=COMPLETED)
    assert clients.poll_update().answer().stage == ADMITTED
    task = clients.poll()
    assert len(task.messages) == 1
    process(clients, task, accept(task.messages[0]))
    assert accepted.answer().stage == ACCEPTED
    assert not completed.answered
    assert not clients.poll_update(stage=COMPLETED).answered
    clients.signal()
    process(clients, clients.poll(), respond())
    assert completed.answer().stage == COMPLETED
    assert clients.poll_update(stage=COMPLETED).answer().outcome.success == payloads("out")


def test_an_update_completed_with_its_acceptance_has_its_outcome_at_once() -> None:
    clients = Clients()
    clients.idle()
    update = clients.update(stage=ACCEPTED)
    task = clients.poll()
    process(clients, task, accept(task.messages[0]), respond())
    assert update.answer().stage == COMPLETED


def test_a_rejected_update_leaves_no_trace() -> None:
    clients = Clients()
    clients.idle()
    update = clients.update()
    task = clients.poll()
    response = clients.respond(task, messages=[reject(task.messages[0], "no")])
    assert response.reset_history_event_id == 3
    answer = update.answer()
    assert (answer.stage, answer.outcome.failure.message) == (COMPLETED, "no")
    assert names(clients) == []
    with pytest.raises(CallError, match='update "u1" not found') as caught:
        clients.poll_update().answer()
    assert caught.value.code == 5
    clients.signal()
    assert names(clients) == ["EXECUTION_SIGNALED", "TASK_SCHEDULED"]
    assert clients.poll().started_event_id == 7
    clients.fold.check_refold()


def test_a_speculative_task_with_commands_is_kept() -> None:
    clients = Clients()
    clients.idle()
    clients.update()
    task = clients.poll()
    timer = command("START_TIMER", timer_id="t1", start_to_fire_timeout=seconds(60))
    clients.respond(task, timer, messages=[reject(task.messages[0])])
    assert names(clients) == [*TASK, "TIMER_STARTED"]


def test_an_event_makes_a_speculative_task_part_of_the_history() -> None:
    clients = Clients()
    clients.idle()
    clients.update()
    clients.signal()
    assert names(clients) == ["TASK_SCHEDULED", "EXECUTION_SIGNALED"]
    task = clients.poll()
    clients.respond(task, messages=[reject(task.messages[0])])
    assert names(clients)[2:] == TASK[1:]
    clients.update("u2")
    task = clients.poll()
    clients.signal()
    assert names(clients, 8) == TASK[:2]
    clients.respond(task, messages=[reject(task.messages[0])])
    assert names(clients, 8) == [*TASK, "EXECUTION_SIGNALED", "TASK_SCHEDULED"]
    clients.fold.check_refold()


def test_a_speculative_task_that_nobody_takes_becomes_a_normal_one() -> None:
    clients = Clients()
    clients.idle()
    clients.update()
    clients.pass_time(6)
    assert names(clients) == ["TASK_SCHEDULED", "TASK_TIMED_OUT", "TASK_SCHEDULED"]
    assert clients.deliver(clients.take("workflow", "tq")) is None
    assert len(clients.poll().messages) == 1


def test_a_speculative_task_leaves_a_sticky_queue_without_pollers() -> None:
    clients = Clients()
    clients.start()
    clients.step(sticky_attributes=sticky())
    clients.update()
    assert clients.waiting("workflow", "sticky") == 1
    clients.pass_time(6)
    assert names(clients) == ["TASK_SCHEDULED", "TASK_TIMED_OUT", "TASK_SCHEDULED"]
    assert clients.waiting("workflow", "tq") == 1


def test_an_update_rides_on_the_task_that_is_pending() -> None:
    clients = Clients()
    clients.start()
    clients.update()
    assert clients.waiting("workflow", "tq") == 1
    task = clients.poll()
    assert task.messages[0].event_id == 2
    process(clients, task, accept(task.messages[0]), respond())
    assert names(clients, 1) == [*TASK, *DONE]


def test_updates_that_come_while_a_task_runs_are_sent_in_order_with_the_next() -> None:
    clients = Clients()
    clients.start()
    task = clients.poll()
    clients.update("b")
    clients.update("a")
    completed = clients.respond(task, return_new_workflow_task=True)
    assert [m.protocol_instance_id for m in completed.workflow_task.messages] == ["b", "a"]
    assert names(clients) == []


def test_a_worker_that_does_not_take_the_next_task_gets_a_normal_one() -> None:
    clients = Clients()
    clients.start()
    task = clients.poll()
    clients.update()
    clients.respond(task)
    assert names(clients) == ["TASK_SCHEDULED"]


def test_a_heartbeat_neither_rejects_nor_repeats_updates() -> None:
    clients = Clients()
    clients.idle()
    first = clients.update("u1")
    task = clients.poll()
    clients.update("u2")
    beat = clients.respond(task, force_create_new_workflow_task=True, return_new_workflow_task=True)
    again = beat.workflow_task
    assert [message.protocol_instance_id for message in again.messages] == ["u2"]
    assert not first.answered
    messages = [accept(task.messages[0]), respond("u1"), accept(again.messages[0]), respond("u2")]
    process(clients, again, *messages)
    assert first.answer().stage == COMPLETED


def test_what_a_worker_ignores_is_rejected() -> None:
    clients = Clients()
    clients.idle()
    update = clients.update()
    clients.step()
    assert update.answer().outcome.failure.application_failure_info.type == "UnprocessedUpdate"
    assert names(clients) == []


def test_a_failed_task_is_followed_by_one_with_the_same_updates() -> None:
    clients = Clients()
    clients.idle()
    update = clients.update()
    task = clients.poll()
    request = api.RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token)
    clients.call(request, run_id=task.workflow_execution.run_id)
    again = clients.poll()
    assert [message.id for message in again.messages] == ["u1/request"]
    clients.pass_time(11)
    third = clients.poll()
    process(clients, third, accept(third.messages[0]), respond())
    assert update.answer().stage == COMPLETED


def test_updates_of_a_task_with_bad_commands_are_not_sent_again() -> None:
    clients = Clients()
    clients.idle()
    sent = clients.update("u1")
    task = clients.poll()
    admitted = clients.update("u2")
    with pytest.raises(CallError, match="BadStartTimerAttributes"):
        clients.respond(task, command("START_TIMER"), messages=[accept(task.messages[0])])
    with pytest.raises(CallError, match="unexpected workflow task failure") as caught:
        sent.answer()
    assert caught.value.code == 9
    assert not admitted.answered
    assert [message.protocol_instance_id for message in clients.poll().messages] == ["u2"]


BAD = [
    ("while in state Sent", lambda m: ([respond()], [respond()])),
    ("Acceptance message while in state ProvisionallyAccepted", lambda m: ([accept(m)] * 2, [])),
    ("referenced absent message ID u1/accept", lambda m: ([], [accept(m)])),
    ("update u2 wasn't found on the server", lambda m: ([respond("u2")], [])),
]


@pytest.mark.parametrize(("wrong", "make"), BAD, ids=[text for text, _ in BAD])
def test_bad_messages_fail_the_task(wrong: str, make: Any) -> None:
    clients = Clients()
    clients.idle()
    clients.update()
    task = clients.poll()
    messages, placed = make(task.messages[0])
    messages = [Message.FromString(message.SerializeToString()) for message in messages]
    for number, message in enumerate(messages):
        message.id += str(number) if number else ""
    with pytest.raises(CallError, match=wrong):
        clients.respond(task, *map(place, placed), messages=messages)
    assert names(clients) == [*TASK[:2], "TASK_FAILED"]
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE
    assert clients.event("WORKFLOW_TASK_FAILED").cause == cause


def test_a_message_without_body_is_refused_and_the_task_runs_on() -> None:
    clients = Clients()
    clients.idle()
    clients.update()
    task = clients.poll()
    message = accept(task.messages[0])
    message.ClearField("body")
    with pytest.raises(CallError, match="nil message body"):
        process(clients, task, message)
    process(clients, task, accept(task.messages[0]), respond())
    assert names(clients) == [*TASK, *DONE]


def test_a_worker_may_bring_back_an_update_that_is_forgotten_here() -> None:
    clients = Clients()
    clients.idle()
    clients.update()
    task = clients.poll()
    acceptance = Acceptance(accepted_request_message_id="u9/request", accepted_request_sequencing_event_id=5)
    task.messages[0].body.Unpack(acceptance.accepted_request)
    message = Message(id="u9/accept", protocol_instance_id="u9")
    message.body.Pack(acceptance)
    process(clients, task, message)
    assert clients.event("WORKFLOW_EXECUTION_UPDATE_ACCEPTED").protocol_instance_id == "u9"
    assert clients.poll_update("u9").answer().stage == ACCEPTED


def test_the_same_id_is_the_same_update() -> None:
    clients = Clients()
    clients.idle()
    first, second = clients.update(), clients.update()
    task = clients.poll()
    assert len(task.messages) == 1
    process(clients, task, accept(task.messages[0]), respond())
    assert first.answer() == second.answer() == clients.update().answer()
    clients.signal()
    clients.step(complete())
    assert clients.update().answer().outcome.success == payloads("out")
    with pytest.raises(CallError, match="workflow execution already completed"):
        clients.update("u2").answer()
    clients.fold.check_refold()


def test_a_close_aborts_what_is_not_accepted_and_fails_what_is() -> None:
    clients = Clients()
    clients.idle()
    accepted = clients.update("u1")
    task = clients.poll()
    late = clients.update("u2")
    process(clients, task, accept(task.messages[0]), more=[complete()])
    failure = accepted.answer().outcome.failure
    assert failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"
    with pytest.raises(CallError, match="workflow update was aborted by closing workflow") as caught:
        late.answer()
    assert caught.value.code == 5
    assert clients.poll_update("u1").answer().stage == COMPLETED


def test_a_rejection_counts_even_with_the_close() -> None:
    clients = Clients()
    clients.idle()
    update = clients.update()
    task = clients.poll()
    clients.respond(task, complete(), messages=[reject(task.messages[0], "no")])
    assert update.answer().outcome.failure.message == "no"


def test_callers_may_try_again_on_the_run_that_follows() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    task = clients.poll()
    update = clients.update()
    clients.respond(task, command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    with pytest.raises(CallError, match="workflow is closing") as caught:
        update.answer()
    assert caught.value.code == 8


def test_updates_are_limited() -> None:
    clients = Clients(**{"history.maxInFlightUpdates": 2, "history.maxTotalUpdates": 3})
    clients.idle()
    clients.update("u1")
    clients.update("u2")
    with pytest.raises(CallError, match=r"concurrent in-flight updates has been reached \(2\)") as caught:
        clients.update("u3").answer()
    assert caught.value.code == 8
    task = clients.poll()
    messages = [accept(task.messages[0]), respond("u1"), accept(task.messages[1]), respond("u2")]
    process(clients, task, *messages)
    clients.update("u3")
    task = clients.poll()
    process(clients, task, accept(task.messages[0]), respond("u3"))
    with pytest.raises(CallError, match=r"total number of distinct updates in this workflow") as caught:
        clients.update("u4").answer()
    assert caught.value.code == 9


def test_updates_in_flight_are_limited_by_size() -> None:
    clients = Clients(**{"history.maxInFlightUpdatePayloads": 1000})
    clients.idle()
    with pytest.raises(CallError, match=r"total payload size of in-flight updates has been reached \(1000"):
        clients.update("u" * 1000).answer()


def test_many_updates_suggest_to_continue_as_new() -> None:
    clients = Clients(**{"history.maxTotalUpdates": 2})
    clients.idle()
    for id in ("u1", "u2"):
        clients.update(id)
        task = clients.poll()
        process(clients, task, accept(task.messages[0]), respond(id))
    started = [e for e in clients.history() if e.HasField("workflow_task_started_event_attributes")]
    suggested = [e.workflow_task_started_event_attributes.suggest_continue_as_new for e in started]
    assert suggested == [False, False, True]


def test_an_update_of_a_failing_workflow_is_not_ready() -> None:
    clients = Clients()
    clients.start()
    for _ in range(2):
        with pytest.raises(CallError):
            clients.step(command("START_TIMER"))
        clients.pass_time(11)
    with pytest.raises(CallError, match="due to Workflow Task in failed state"):
        clients.update().answer()


def test_an_update_during_the_start_delay_has_a_task_at_once() -> None:
    clients = Clients()
    clients.start(workflow_start_delay=seconds(60))
    clients.update()
    task = clients.poll()
    clients.respond(task, messages=[reject(task.messages[0])])
    assert len(clients.history()) == 1
    clients.pass_time(61)
    assert names(clients, 1) == ["TASK_SCHEDULED"]


def test_the_first_run_must_be_the_one_named() -> None:
    clients = Clients()
    clients.idle()
    with pytest.raises(CallError, match="workflow execution not found"):
        clients.update(first_execution_run_id="another").answer()


def both(clients: Clients, update_id: str = "u1", new_run_id: str = "new", **start: Any) -> Waiting:
    """Update-with-start of `wf`."""
    request = api.ExecuteMultiOperationRequest(namespace=NAMESPACE)
    fields = {"workflow_id": "wf", "workflow_type": {"name": "Type"}, "task_queue": {"name": "tq"}} | start
    request.operations.add().start_workflow.CopyFrom(
        api.StartWorkflowExecutionRequest(namespace=NAMESPACE, **{"request_id": new_run_id} | fields)
    )
    request.operations.add().update_workflow.CopyFrom(update_request(update_id, COMPLETED))
    return clients.ask(request, new_run_id=new_run_id)


def test_update_with_start_starts_and_updates() -> None:
    clients = Clients()
    call = both(clients)
    task = clients.poll()
    process(clients, task, accept(task.messages[0]), respond())
    start, update = call.answer().responses
    assert (start.start_workflow.run_id, start.start_workflow.started) == ("new", True)
    assert update.update_workflow.outcome.success == payloads("out")
    again = both(clients, new_run_id="other").answer().responses
    assert (again[0].start_workflow.run_id, again[0].start_workflow.started) == ("new", False)
    assert again[1].update_workflow == update.update_workflow


def test_update_with_start_uses_an_existing_run() -> None:
    clients = Clients()
    run_id = clients.idle()
    with pytest.raises(DetailedError, match="Update-with-Start could not be executed") as caught:
        both(clients, workflow_id_conflict_policy=1).answer()
    assert caught.value.code == 6
    failure = caught.value.detail(MultiOperationExecutionFailure)
    assert [status.code for status in failure.statuses] == [6, 10]
    call = both(clients, workflow_id_conflict_policy=2)
    task = clients.poll()
    process(clients, task, accept(task.messages[0]), respond())
    assert call.answer().responses[0].start_workflow.run_id == run_id


def test_update_with_start_may_be_tried_again_when_its_run_closes() -> None:
    clients = Clients()
    clients.idle()
    used = both(clients, workflow_id_conflict_policy=2)
    clients.terminate()
    with pytest.raises(DetailedError) as caught:
        used.answer()
    assert caught.value.code == 10
    started = both(clients)
    clients.terminate()
    with pytest.raises(DetailedError) as caught:
        started.answer()
    statuses = caught.value.detail(MultiOperationExecutionFailure).statuses
    assert [status.code for status in statuses] == [0, 5]
    clients.fold.check_refold()
