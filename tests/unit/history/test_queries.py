"""Queries of a run."""

from __future__ import annotations

import pytest
from temporalio.api.errordetails.v1 import QueryFailedFailure, WorkflowNotReadyFailure
from temporalio.api.query.v1 import WorkflowQueryResult
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from tests.support.folding import EPOCH, GATEWAY, described
from tests.unit.history.callers import Clients, DetailedError, Waiting, sticky
from tests.unit.history.support import (
    NAMESPACE,
    CallError,
    application_failure,
    command,
    complete,
    payloads,
    seconds,
)

ANSWERED, FAILED = 1, 2
NOT_OPEN, NOT_COMPLETED_CLEANLY = 2, 3


def result(**fields: object) -> WorkflowQueryResult:
    return WorkflowQueryResult(**{"result_type": ANSWERED, "answer": payloads("answer")} | fields)


def test_an_idle_run_answers_with_a_task_of_its_own() -> None:
    clients = Clients()
    run_id = clients.idle()
    query = clients.query()
    task = clients.poll_query()
    assert task.query.query_type == "question"
    assert (task.previous_started_event_id, task.started_event_id, task.attempt) == (3, 0, 1)
    assert task.workflow_execution.run_id == run_id
    reply = clients.replies[clients.calls][0]
    assert (reply.attach_run, reply.attach_first, reply.attach_last) == (run_id, 1, 4)
    clients.respond_query(task)
    assert query.answer().query_result == payloads("answer")
    assert len(clients.history()) == 4
    with pytest.raises(CallError, match="query task not found, or already expired"):
        clients.respond_query(task)
    clients.fold.check_refold()


def cancel(clients: Clients, query: Waiting, run_id: str = "") -> None:
    """The client of a query goes away."""
    clients.send(bodies.CancelQuery(NAMESPACE, "wf", run_id, GATEWAY, EPOCH, query.id))


def test_a_query_whose_client_goes_away_leaves_its_queue() -> None:
    clients = Clients()
    run_id = clients.idle()
    kept, dropped = clients.query(), clients.query()
    for _ in range(2):
        cancel(clients, dropped, run_id)
        assert clients.waiting("query", "tq") == 1
    clients.respond_query(clients.poll_query())
    assert kept.answered
    assert not dropped.answered
    clients.fold.check_refold()


def test_a_query_whose_client_goes_away_does_not_ride_on_the_task() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    query = clients.query()
    cancel(clients, query)
    assert not clients.poll().queries
    assert not query.answered


def test_an_answer_for_a_client_that_went_away_is_not_found() -> None:
    clients = Clients()
    run_id = clients.idle()
    query = clients.query()
    task = clients.poll_query()
    cancel(clients, query, run_id)
    with pytest.raises(CallError, match="query task not found, or already expired"):
        clients.respond_query(task)
    assert not query.answered


def test_a_client_that_goes_away_from_a_workflow_that_is_not_there_changes_nothing() -> None:
    clients = Clients()
    outcome = clients.send(bodies.CancelQuery(NAMESPACE, "wf", "", GATEWAY, EPOCH, 1))
    assert described(outcome) == [[], [], []]


def test_a_worker_may_fail_a_query() -> None:
    clients = Clients()
    clients.idle()
    query = clients.query()
    failure = application_failure("unknown")
    clients.respond_query(
        clients.poll_query(), completed_type=FAILED, error_message="unknown", failure=failure
    )
    with pytest.raises(DetailedError, match="unknown") as caught:
        query.answer()
    assert caught.value.code == 3
    assert caught.value.detail(QueryFailedFailure).failure == failure


def test_a_query_rides_on_the_pending_task() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    query = clients.query()
    assert clients.waiting("query", "tq") == 0
    task = clients.poll()
    assert [asked.query_type for asked in task.queries.values()] == ["question"]
    clients.respond(task, query_results={id: result() for id in task.queries})
    assert query.answer().query_result == payloads("answer")


def test_a_query_asked_while_a_task_runs_follows_it() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    task = clients.poll()
    query = clients.query()
    clients.respond(task)
    clients.respond_query(clients.poll_query())
    assert query.answer().query_result == payloads("answer")


def test_a_query_waits_on_when_another_task_follows() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    task = clients.poll()
    query = clients.query()
    clients.signal()
    clients.respond(task)
    assert clients.waiting("query", "tq") == 0
    task = clients.poll()
    (id,) = task.queries
    with_failure = result(result_type=FAILED, error_message="no", answer=None)
    clients.respond(task, query_results={id: with_failure})
    with pytest.raises(CallError, match="no"):
        query.answer()


def test_an_answer_too_large_or_malformed() -> None:
    clients = Clients(**{"limit.blobSize.error": 1000})
    clients.idle()
    clients.signal()
    query = clients.query()
    task = clients.poll()
    clients.respond(task, query_results={id: result(answer=payloads("x" * 1000)) for id in task.queries})
    with pytest.raises(CallError, match="Blob data size exceeds limit"):
        query.answer()
    clients.signal()
    query = clients.query()
    task = clients.poll()
    clients.respond(task, query_results={id: result(result_type=FAILED) for id in task.queries})
    clients.respond_query(clients.poll_query())
    assert query.answer().query_result == payloads("answer")


def test_few_queries_may_wait_for_a_task() -> None:
    clients = Clients(**{"history.MaxBufferedQueryCount": 2})
    clients.start()
    first, second, third = clients.query(), clients.query(), clients.query()
    with pytest.raises(CallError, match="consistent query buffer is full") as caught:
        third.answer()
    assert caught.value.code == 8
    clients.pass_time(21)
    clients.query()
    assert len(clients.poll().queries) == 1
    assert not first.answered
    assert not second.answered


def test_a_failed_task_is_followed_by_one_with_the_same_query() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    query = clients.query()
    task = clients.poll()
    clients.call(
        api.RespondWorkflowTaskFailedRequest(namespace=NAMESPACE, task_token=task.task_token),
        run_id=task.workflow_execution.run_id,
    )
    again = clients.poll()
    assert dict(again.queries) == dict(task.queries)
    clients.respond(again, query_results={id: result() for id in again.queries})
    assert query.answered


def test_a_workflow_that_keeps_failing_is_not_ready() -> None:
    clients = Clients()
    clients.start()
    for _ in range(2):
        with pytest.raises(CallError):
            clients.step(command("START_TIMER"))
        clients.pass_time(11)
    with pytest.raises(DetailedError, match="due to Workflow Task in failed state") as caught:
        clients.query().answer()
    assert caught.value.code == 9
    caught.value.detail(WorkflowNotReadyFailure)


def test_a_start_delay_beyond_the_deadline_is_not_ready() -> None:
    clients = Clients()
    clients.start(workflow_start_delay=seconds(600))
    with pytest.raises(CallError, match="Workflow task is not scheduled yet"):
        clients.query().answer()


def test_closed_runs_answer_unless_rejected() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    clients.step(complete())
    query = clients.query()
    clients.respond_query(clients.poll_query())
    assert query.answer().query_result == payloads("answer")
    assert clients.query(query_reject_condition=NOT_OPEN).answer().query_rejected.status == 2
    assert not clients.query(query_reject_condition=NOT_COMPLETED_CLEANLY).answered


def test_a_run_closed_before_its_first_task_has_no_answer() -> None:
    clients = Clients()
    clients.start()
    query = clients.query()
    clients.terminate()
    for asked in (query, clients.query()):
        with pytest.raises(CallError, match="closed before WorkflowTaskStarted event"):
            asked.answer()
    assert clients.query(query_reject_condition=NOT_COMPLETED_CLEANLY).answer().query_rejected.status == 5


def test_a_query_outlives_the_close_of_its_run() -> None:
    clients = Clients()
    clients.idle()
    clients.signal()
    query = clients.query()
    clients.terminate()
    clients.respond_query(clients.poll_query())
    assert query.answer().query_result == payloads("answer")


def test_a_sticky_query_brings_no_history() -> None:
    clients = Clients()
    clients.start()
    clients.step(sticky_attributes=sticky())
    query = clients.query()
    task = clients.poll_query("sticky")
    assert task.HasField("history")
    assert not clients.replies[clients.calls][0].attach_run
    clients.respond_query(task)
    assert query.answered


def test_a_query_leaves_a_sticky_queue_without_pollers() -> None:
    clients = Clients()
    run_id = clients.start()
    clients.step(sticky_attributes=sticky())
    query = clients.query()
    task = clients.take("query", "sticky")
    back = bodies.StickyUnavailable(NAMESPACE, "wf", run_id, "query", 0, 1, task.stamp, task.query_id)
    clients.send(back)
    clients.send(back)
    assert clients.waiting("query", "tq") == 1
    assert clients.deliver(task) is None
    clients.respond_query(clients.poll_query())
    assert query.answered


def test_an_undelivered_query_is_dispatched_again() -> None:
    clients = Clients()
    run_id = clients.idle()
    clients.query()
    task = clients.take("query", "tq")
    clients.deliver(task)
    clients.send(bodies.TaskUndelivered(NAMESPACE, "wf", run_id, "query", 0, 1, task.stamp, task.query_id, 1))
    assert clients.waiting("query", "tq") == 1


def test_nobody_gets_a_query_past_its_deadline() -> None:
    clients = Clients()
    clients.idle()
    clients.query()
    clients.pass_time(21)
    assert clients.deliver(clients.take("query", "tq")) is None
    assert len(clients.returned) == 1
