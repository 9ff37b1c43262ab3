"""A worker that completes a workflow task may offer to take the run's next one at once (decision 0017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from streams.history.step import OFFERS
from streams.runtime.records import Reply
from streams.task_token import TaskToken
from tests.unit.history.callers import Clients, accept, place, respond, sticky
from tests.unit.history.support import IDENTITY, NAMESPACE, activity

OFFER = 900
STANDS_S = 1.0


class Offering(Clients):
    """Clients, and a worker with a sticky queue that offers to take the next task with what it completes."""

    def complete(self, task: api.PollWorkflowTaskQueueResponse, *commands: Any, **fields: Any) -> None:
        request = api.RespondWorkflowTaskCompletedRequest(
            task_token=task.task_token,
            commands=commands,
            identity=IDENTITY,
            namespace=NAMESPACE,
            **{"sticky_attributes": sticky(), **fields},
        )
        until_ms = self.fold.now_ms + int(STANDS_S * 1000)
        data = request.SerializeToString()
        self.calls += 1
        self.send(
            bodies.Call(
                "RespondWorkflowTaskCompleted",
                NAMESPACE,
                "wf",
                task.workflow_execution.run_id,
                data,
                offer_id=OFFER,
                offer_deadline_ms=until_ms,
            ),
            self.calls,
        )
        (reply,) = self.replies[self.calls]
        assert not reply.code, reply.message

    def begin(self, *commands: Any, **fields: Any) -> None:
        """Start a workflow whose first task is completed with an offer."""
        self.start()
        self.complete(self.poll(), *commands, **fields)

    @property
    def taken(self) -> list[Reply]:
        """What the worker got for its offers."""
        return self.replies.get(OFFER, [])

    @property
    def task(self) -> api.PollWorkflowTaskQueueResponse:
        """The only task it got."""
        (reply,) = self.taken
        return api.PollWorkflowTaskQueueResponse.FromString(reply.body)

    def waits_at(self, queue: str) -> bool:
        """Whether the run's task waits at a queue, and nobody got it."""
        return self.waiting(bodies.WORKFLOW_TASK, queue) == 1 and not self.taken


def test_an_update_starts_its_task_at_once() -> None:
    clients = Offering()
    clients.begin()
    clients.fold.restart()
    update = clients.update()
    assert not clients.waiting(bodies.WORKFLOW_TASK, "sticky")
    task = clients.task
    assert [event.event_id for event in task.history.events] == [5, 6]
    messages = [accept(task.messages[0]), respond()]
    clients.complete(task, *map(place, messages), messages=messages)
    assert update.answered
    clients.fold.check_refold()


def test_what_an_activity_returns_comes_with_a_task_at_once() -> None:
    clients = Offering()
    clients.begin(activity(), worker_version_stamp=WorkerVersionStamp(build_id="one"))
    token = clients.poll_activity().task_token
    clients.call(api.RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=token))
    (reply,) = clients.taken
    assert (reply.kind, reply.attach_first, reply.attach_last) == ("poll-workflow", 4, 9)
    started = clients.history()[8]
    assert (started.event_type, started.event_id) == (EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED, 9)
    attributes = started.workflow_task_started_event_attributes
    assert (attributes.identity, attributes.worker_version.build_id) == (IDENTITY, "one")
    assert TaskToken.decode(clients.task.task_token).queue == "sticky"
    clients.fold.check_refold()


def test_an_offer_is_good_for_one_task() -> None:
    clients = Offering()
    clients.begin()
    clients.update()
    task = clients.task
    clients.respond(task, sticky_attributes=sticky())  # The update is not processed, and nothing is offered.
    clients.update("u2")
    assert len(clients.taken) == 1
    assert clients.waiting(bodies.WORKFLOW_TASK, "sticky") == 1


def test_a_task_that_is_handed_over_takes_the_place_of_the_offer() -> None:
    clients = Offering()
    clients.begin(return_new_workflow_task=True, force_create_new_workflow_task=True)
    clients.pass_time(0.5)
    clients.signal()
    assert not clients.taken
    assert not clients.waiting(bodies.WORKFLOW_TASK, "sticky")


def past_its_time(clients: Offering) -> None:
    clients.pass_time(STANDS_S + 0.1)
    clients.update()


def signal(clients: Offering) -> None:
    """A signal seldom comes alone: what follows it, queries too, shares its task."""
    clients.signal()


@pytest.mark.parametrize("event", [past_its_time, signal])
def test_a_task_goes_to_the_sticky_queue(event: Callable[[Offering], None]) -> None:
    clients = Offering()
    clients.begin()
    event(clients)
    assert clients.waits_at("sticky")


def test_an_offer_stands_until_its_deadline() -> None:
    clients = Offering()
    clients.begin()
    clients.pass_time(STANDS_S - 0.01)
    clients.update()
    assert clients.task.messages


def test_an_offer_ends_with_the_sticky_queue() -> None:
    clients = Offering()
    clients.begin()
    clients.call(api.ResetStickyTaskQueueRequest(namespace=NAMESPACE))
    clients.update()
    assert clients.waits_at("tq")


def test_a_worker_without_a_sticky_queue_offers_nothing() -> None:
    clients = Offering()
    clients.begin(sticky_attributes=None)
    clients.update()
    assert clients.waits_at("tq")


def test_older_logic_knows_no_offers() -> None:
    clients = Offering(logic_version=OFFERS - 1)
    clients.begin()
    clients.update()
    assert clients.waits_at("sticky")


def test_a_task_that_reached_nobody_goes_to_the_head_of_the_sticky_queue() -> None:
    clients = Offering()
    clients.begin(activity())
    token = clients.poll_activity().task_token
    clients.call(api.RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=token))
    token = TaskToken.decode(clients.task.task_token)
    clients.send(
        bodies.TaskUndelivered(
            NAMESPACE,
            "wf",
            token.run_id,
            bodies.WORKFLOW_TASK,
            token.scheduled_event_id,
            token.attempt,
            token.stamp,
            "",
            OFFER,
        )
    )
    failed = clients.event("WORKFLOW_TASK_FAILED")
    assert failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
    again = clients.take(bodies.WORKFLOW_TASK, "sticky")
    assert (again.attempt, again.at_head) == (1, True)
    clients.fold.check_refold()
