"""How large a run may get, and what a large one costs."""

from __future__ import annotations

import time

import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from tests.unit.history.callers import Clients, accept, place
from tests.unit.history.support import (
    IDENTITY,
    NAMESPACE,
    CallError,
    Workflows,
    activity,
    command,
    complete,
    payload,
    payloads,
    seconds,
)

COUNT = "limit.historyCount.error"
SIZE = "limit.historySize.error"
STATE = "limit.mutableStateSize.error"


def marker(details: str = "") -> Command:
    return command("RECORD_MARKER", marker_name="m", details={"d": payloads(details)})


def timer(number: int, due_s: int) -> Command:
    return command("START_TIMER", timer_id=f"t{number}", start_to_fire_timeout=seconds(due_s))


def signal(workflows: Workflows, number: int, input: Payloads | None = None) -> None:
    execution = WorkflowExecution(workflow_id="wf")
    request = api.SignalWorkflowExecutionRequest(
        namespace=NAMESPACE,
        workflow_execution=execution,
        signal_name="s",
        request_id=f"r{number}",
        input=input,
    )
    workflows.call(request)


def beat(workflows: Workflows, task: api.PollActivityTaskQueueResponse, size_bytes: int) -> None:
    request = api.RecordActivityTaskHeartbeatRequest(
        task_token=task.task_token, details=payloads("x" * size_bytes), identity=IDENTITY
    )
    workflows.call(request)


def warnings(workflows: Workflows) -> list[str]:
    return [sentence for outcome in workflows.fold.outcomes for sentence in outcome.warnings]


def ended_by(workflows: Workflows) -> str:
    """Why the server terminated the run; the step that was too much left nothing."""
    terminated = workflows.event("WORKFLOW_EXECUTION_TERMINATED")
    assert terminated.identity == "history-service"
    return str(terminated.reason)


def test_a_step_that_makes_the_history_too_long_terminates_the_run_instead() -> None:
    workflows = Workflows(**{COUNT: 12})
    workflows.start()
    workflows.step(marker(), marker())
    signal(workflows, 1)
    task = workflows.poll()
    with pytest.raises(CallError, match="Workflow history count exceeds limit") as caught:
        workflows.respond(task, marker(), marker(), marker())
    assert caught.value.code == 3
    assert ended_by(workflows) == "Workflow history count exceeds limit."
    history = workflows.history()
    assert [event.event_id for event in history] == list(range(1, 12))
    failed = history[-2].workflow_task_failed_event_attributes
    assert failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
    with pytest.raises(CallError, match="workflow execution already completed"):
        signal(workflows, 2)
    workflows.fold.check_refold()


def test_an_update_of_a_run_that_is_too_large_ends_it_only_with_its_task() -> None:
    clients = Clients(**{SIZE: 1000})
    clients.start()
    clients.step(marker("x" * 2000))
    accepted, admitted = clients.update("u1"), clients.update("u2")
    task = clients.poll()
    assert clients.kinds() == ["MARKER_RECORDED"]
    answer = accept(task.messages[0])
    with pytest.raises(CallError, match="Workflow history size exceeds limit"):
        clients.respond(task, place(answer), messages=[answer])
    assert ended_by(clients) == "Workflow history size exceeds limit."
    assert (
        accepted.answer().outcome.failure.application_failure_info.type == "AcceptedUpdateCompletedWorkflow"
    )
    with pytest.raises(CallError, match="workflow update was aborted by closing workflow"):
        admitted.answer()
    assert [event.event_id for event in clients.history()] == list(range(1, 7))
    clients.fold.check_refold()


def test_a_task_for_a_run_that_is_too_long_gives_its_poll_back() -> None:
    workflows = Workflows(**{COUNT: 2})
    workflows.start()
    assert workflows.deliver(workflows.take(bodies.WORKFLOW_TASK, "tq")) is None
    assert len(workflows.returned) == 1
    assert ended_by(workflows) == "Workflow history count exceeds limit."


def test_a_run_may_close_with_the_step_that_is_one_too_much() -> None:
    workflows = Workflows(**{COUNT: 4})
    workflows.start()
    workflows.step(marker(), complete())
    assert workflows.kinds()[-1] == "WORKFLOW_EXECUTION_COMPLETED"


def test_a_history_with_too_many_bytes_ends_the_run_at_its_next_step() -> None:
    workflows = Workflows(**{SIZE: 4000})
    workflows.start()
    workflows.step(marker("x" * 4000))
    with pytest.raises(CallError, match="Workflow history size exceeds limit"):
        signal(workflows, 1)
    assert ended_by(workflows) == "Workflow history size exceeds limit."
    workflows.fold.check_refold()


def test_looking_at_a_run_that_is_too_large_does_not_end_it() -> None:
    workflows = Workflows(**{SIZE: 4000})
    workflows.start()
    workflows.step(marker("x" * 4000))
    workflows.call(api.DescribeWorkflowExecutionRequest(namespace=NAMESPACE))
    assert workflows.kinds() == ["MARKER_RECORDED"]


def test_heartbeats_that_make_the_state_too_large_end_the_run() -> None:
    workflows = Workflows(**{STATE: 5000, "limit.mutableStateSize.warn": 2000})
    workflows.start()
    workflows.step(activity("a1"), activity("a2"))
    tasks = [workflows.poll_activity() for _ in range(2)]
    beat(workflows, tasks[0], 3000)
    beat(workflows, tasks[0], 3000)
    workflows.fold.restart()
    assert len(warnings(workflows)) == 1
    assert "its state has 3" in warnings(workflows)[0]
    with pytest.raises(CallError, match="Workflow mutable state size exceeds limit"):
        beat(workflows, tasks[1], 3000)
    assert ended_by(workflows) == "Workflow mutable state size exceeds limit."


def test_input_of_activities_and_ended_ones_do_not_count_for_the_state() -> None:
    workflows = Workflows(**{STATE: 5000})
    workflows.start()
    workflows.step(*(activity(f"a{n}", input=payloads("x" * 2000)) for n in range(4)))
    for _ in range(4):
        task = workflows.poll_activity()
        beat(workflows, task, 3000)
        workflows.call(api.RespondActivityTaskCompletedRequest(task_token=task.task_token))
    workflows.step(complete())
    assert workflows.kinds()[-1] == "WORKFLOW_EXECUTION_COMPLETED"


def test_the_memo_counts_for_the_state() -> None:
    workflows = Workflows(**{STATE: 3000})
    workflows.start(memo={"fields": {"note": payload("x" * 4000)}})
    assert workflows.deliver(workflows.take(bodies.WORKFLOW_TASK, "tq")) is None
    assert ended_by(workflows) == "Workflow mutable state size exceeds limit."


@pytest.mark.parametrize(
    ("limit", "value", "what"),
    [("limit.historyCount.warn", 6, "history has 7 events"), ("limit.historySize.warn", 3000, "bytes")],
)
def test_a_growing_history_is_warned_of_once(limit: str, value: int, what: str) -> None:
    workflows = Workflows(**{limit: value})
    run_id = workflows.start()
    workflows.step(marker("x" * 1000))
    assert warnings(workflows) == []
    for number in range(5):
        signal(workflows, number, payloads("x" * 1000))
    (sentence,) = warnings(workflows)
    assert what in sentence
    assert sentence.startswith(f"workflow wf of namespace {NAMESPACE}, run {run_id}: its history has")
    assert sentence.endswith(f"above the limit of {value} for warnings")


def test_large_payloads_and_memos_of_commands_are_warned_of() -> None:
    workflows = Workflows(**{"limit.blobSize.warn": 1000, "limit.memoSize.warn": 500})
    workflows.start()
    memo = {"fields": {"note": payload("x" * 600)}}
    workflows.step(marker("x" * 1500), command("MODIFY_WORKFLOW_PROPERTIES", upserted_memo=memo))
    large_payload, large_memo = warnings(workflows)
    assert "a payload of 15" in large_payload
    assert "a memo of 6" in large_memo


def test_ten_thousand_timers_in_one_workflow() -> None:
    workflows = Workflows()
    workflows.start()
    began_s = time.process_time()
    workflows.step(*(timer(number, 10 + number % 100) for number in range(10_000)))
    workflows.pass_time(9.9)
    assert len(workflows.history()) == 10_004
    workflows.pass_time(200)
    fired = [e for e in workflows.history() if e.event_type == EventType.EVENT_TYPE_TIMER_FIRED]
    assert len({event.timer_fired_event_attributes.timer_id for event in fired}) == 10_000
    assert [event.event_id for event in workflows.history()] == list(range(1, len(workflows.history()) + 1))
    assert time.process_time() - began_s < 10


def test_ten_thousand_signals_in_one_run_and_not_one_more() -> None:
    workflows = Workflows()
    workflows.start()
    began_s = time.process_time()
    for number in range(10_000):
        signal(workflows, number)
    with pytest.raises(CallError, match="exceeded workflow execution limit for signal events"):
        signal(workflows, 10_000)
    signal(workflows, 9_999)  # a request that was applied already
    assert workflows.kinds() == ["WORKFLOW_EXECUTION_SIGNALED"] * 10_000
    assert time.process_time() - began_s < 10


def test_what_is_buffered_is_limited_by_bytes_only() -> None:
    workflows = Workflows()
    workflows.start()
    task = workflows.poll()
    for number in range(3_000):
        signal(workflows, number)
    assert workflows.kinds() == []
    workflows.respond(task)
    assert workflows.kinds() == ["WORKFLOW_EXECUTION_SIGNALED"] * 3_000
