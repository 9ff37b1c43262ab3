"""Deleting runs: by clients, and when their retention is over."""

from __future__ import annotations

import pytest
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from streams.history import errors
from streams.runtime.logic import SUPPORTED_LOGIC_VERSION, marker
from streams.topology import COMMANDS, HISTORY, TIMERS, VISIBILITY
from tests.unit.history.support import DAY_MS, NAMESPACE, NAMESPACE_ID, CallError, Workflows, complete


@pytest.fixture
def workflows() -> Workflows:
    """A workflow that has been started, with nothing done."""
    world = Workflows()
    world.start()
    return world


def delete(workflows: Workflows, run_id: str = "") -> None:
    """Call DeleteWorkflowExecution."""
    workflows.call(api.DeleteWorkflowExecutionRequest(namespace=NAMESPACE), run_id=run_id)


def describe(workflows: Workflows, run_id: str = "") -> None:
    """Call DescribeWorkflowExecution."""
    workflows.call(api.DescribeWorkflowExecutionRequest(namespace=NAMESPACE), run_id=run_id)


def rows(workflows: Workflows) -> list[tuple[str, int, str]]:
    """The rows of runs and of current runs that a checkpoint leaves."""
    workflows.fold.checkpoint()
    return [place for place in workflows.fold.store.rows if place[0] != "registry"]


def test_closed_run_is_gone_at_once_and_leaves_no_row(workflows: Workflows) -> None:
    workflows.step(complete())
    workflows.fold.checkpoint()
    delete(workflows)
    assert not workflows.events
    assert rows(workflows) == []
    with pytest.raises(CallError, match="workflow not found for ID: wf"):
        describe(workflows)
    workflows.fold.check_refold()


def test_open_run_is_terminated_and_then_deleted(workflows: Workflows) -> None:
    delete(workflows)
    terminated = workflows.event("WORKFLOW_EXECUTION_TERMINATED")
    assert (terminated.reason, terminated.identity) == ("Delete workflow execution", "history-service")
    workflows.pass_time(0)
    assert not workflows.events
    assert rows(workflows) == []
    workflows.fold.check_refold()


def test_run_is_deleted_when_its_retention_is_over(workflows: Workflows) -> None:
    workflows.step(complete())
    workflows.pass_time(DAY_MS / 1000 - 1)
    describe(workflows)
    workflows.pass_time(1)
    assert rows(workflows) == []


def test_earlier_run_goes_and_the_current_one_stays(workflows: Workflows) -> None:
    (first,) = workflows.events
    workflows.step(complete())
    second = workflows.start()
    delete(workflows, first)
    assert set(workflows.events) == {second}
    describe(workflows)
    with pytest.raises(CallError, match="workflow execution not found"):
        describe(workflows, first)


def test_timer_is_disarmed_before_the_history_goes() -> None:
    workflows = Workflows(logic_version=1)
    workflows.start()
    workflows.step(complete())
    workflows.fold.append(marker(COMMANDS, 0, SUPPORTED_LOGIC_VERSION))
    delete_call = bodies.Call("DeleteWorkflowExecution", NAMESPACE, "wf", "", b"")
    outcome = workflows.fold.send(delete_call, f"{NAMESPACE}/wf", 99)
    assert [record.topic for record in outcome.emissions] == [TIMERS, HISTORY, VISIBILITY]
    assert outcome.emissions[0].body.due_ms == 0


def test_what_the_timer_processor_never_had_is_not_disarmed_there(workflows: Workflows) -> None:
    workflows.step(complete())
    delete_call = bodies.Call("DeleteWorkflowExecution", NAMESPACE, "wf", "", b"")
    outcome = workflows.fold.send(delete_call, f"{NAMESPACE}/wf", 99)
    assert [record.topic for record in outcome.emissions] == [HISTORY, VISIBILITY]
    workflows.pass_time(2 * DAY_MS / 1000)
    assert not any(isinstance(record.body, bodies.FireTimer) for record in workflows.fold.log)


def test_those_who_wait_for_the_run_are_told(workflows: Workflows) -> None:
    workflows.step(complete())
    query = api.QueryWorkflowRequest(namespace=NAMESPACE, query={"query_type": "q"})
    call = bodies.Call("QueryWorkflow", NAMESPACE, "wf", "", query.SerializeToString(), "", 2**50)
    assert not workflows.send(call, 501).replies
    outcome = workflows.send(bodies.Call("DeleteWorkflowExecution", NAMESPACE, "wf", "", b""), 502)
    answers = {where.id: reply.code for where, reply in outcome.replies}
    assert answers == {501: errors.NOT_FOUND, 502: 0}


def test_late_records_for_a_deleted_run_change_nothing(workflows: Workflows) -> None:
    (run_id,) = workflows.events
    task = workflows.poll()
    waiting = bodies.AddTask(NAMESPACE, "tq", bodies.WORKFLOW_TASK, "wf", run_id, 2, 1, 1)
    workflows.respond(task, complete())
    delete(workflows)
    named = (NAMESPACE, "wf", run_id)
    assert workflows.deliver(waiting) is None
    assert len(workflows.returned) == 1, "the poll is matched again"
    for body in (
        bodies.FireTimer(*named, 1),
        bodies.TaskUndelivered(*named, bodies.WORKFLOW_TASK, 2, 1, 1, "", 1),
        bodies.StickyUnavailable(*named, bodies.WORKFLOW_TASK, 2, 1, 1, ""),
        bodies.ChildStarted(*named, 5, NAMESPACE, "child", "r"),
        bodies.ChildStartFailed(*named, 5, 1),
        bodies.ChildFound(*named, 5, "child", "r", "p", False),
        bodies.ChildClosed(*named, 5, NAMESPACE, "child", "r", b"", "r"),
        bodies.ExternalAnswered(NAMESPACE, "wf", "signal", run_id, 5, 0),
        bodies.ParentClosed(*named, 1, "parent", "p"),
    ):
        assert not workflows.send(body).emissions
    with pytest.raises(CallError) as error:
        workflows.respond(task)
    assert error.value.code == errors.NOT_FOUND


def test_start_after_a_deletion_opens_a_run_whatever_the_policy(workflows: Workflows) -> None:
    workflows.step(complete())
    delete(workflows)
    run_id = workflows.start(workflow_id_reuse_policy=3)
    assert set(workflows.events) == {run_id}


def told(workflows: Workflows) -> list[tuple[str, str, object]]:
    """What stores were told of deletions: topic, key and body."""
    return [
        (record.topic, record.key, record.body)
        for outcome in workflows.fold.outcomes
        for record in outcome.emissions
        if isinstance(record.body, bodies.RunDeleted)
    ]


def test_rule_9_since_logic_version_2_each_store_is_told_of_a_deletion_in_its_own_topic() -> None:
    workflows = Workflows()
    run_id = workflows.start()
    workflows.step(complete())
    delete(workflows)
    assert told(workflows) == [
        (HISTORY, f"{NAMESPACE}/wf", bodies.HistoryDeleted(NAMESPACE, "wf", run_id)),
        (VISIBILITY, f"{NAMESPACE}/wf/{run_id}", bodies.RunDeleted(NAMESPACE, "wf", run_id)),
    ]
    assert not (workflows.events or workflows.rows)
    workflows.fold.check_refold()


@pytest.mark.parametrize("version", [0, 1])
def test_rule_9_earlier_logic_tells_of_a_deletion_in_one_record_for_both_stores(version: int) -> None:
    workflows = Workflows(logic_version=version)
    run_id = workflows.start()
    workflows.step(complete())
    delete(workflows)
    assert told(workflows) == [(HISTORY, f"{NAMESPACE}/wf", bodies.RunDeleted(NAMESPACE, "wf", run_id))]
    assert not (workflows.events or workflows.rows)
    workflows.fold.check_refold()


@pytest.mark.parametrize("version", [1, 2])
def test_since_logic_version_2_compaction_keeps_the_row_of_every_run(version: int) -> None:
    workflows = Workflows(logic_version=version)
    runs = set()
    for _ in range(2):
        runs.add(workflows.start())
        workflows.step(complete())
    assert len(runs) == 2
    keys = {f"wf/{run_id}" for run_id in runs} if version == 2 else {"wf"}
    shown = {
        record.key.removeprefix(f"{NAMESPACE}/")
        for outcome in workflows.fold.outcomes
        for record in outcome.emissions
        if record.topic == VISIBILITY
    }
    assert shown == keys


def test_a_removed_namespace_takes_the_rows_of_its_runs_along() -> None:
    workflows = Workflows()
    run_id = workflows.start()
    workflows.send(bodies.NamespaceRemoved(NAMESPACE, NAMESPACE_ID))
    assert [topic for topic, _, body in told(workflows)] == [HISTORY, VISIBILITY]
    assert {body.run_id for _, _, body in told(workflows)} == {run_id}  # type: ignore[attr-defined]
