"""A worker that is about to poll again takes the next task of the run whose task it completes (decision 0017)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
)

from gateway import polls, worker_polls
from gateway.errors import NOT_FOUND, ApiError
from streams.bodies import Call, PollTask, TaskUndelivered
from streams.runtime.records import Reply
from tests.unit.gateway.conftest import NAMESPACE, Serve, settle
from tests.unit.gateway.test_histories import an_update
from tests.unit.gateway.test_polls import (
    STICKY,
    TASK,
    WORKFLOW_TOKEN,
    Caller,
    Polling,
    Worker,
    undelivered,
    until,
    workflow_of,
)

CLOSING = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
QUEUE = "sticky"


class StickyWorker(Worker):
    """A worker that polls its sticky queue and completes workflow tasks."""

    def __init__(self, polling: Polling) -> None:
        super().__init__(polling, QUEUE)
        self.request.task_queue.kind = STICKY

    async def complete(self, *commands: Command, queue: str = QUEUE) -> tuple[Call, int, asyncio.Task[bytes]]:
        """Complete a task; the call that is made of it, its number and the answer to come."""
        request = RespondWorkflowTaskCompletedRequest(
            task_token=WORKFLOW_TOKEN.encode(),
            commands=commands,
            sticky_attributes=StickyExecutionAttributes(worker_task_queue=TaskQueue(name=queue)),
        )
        answer = asyncio.ensure_future(self.polling.tasks.workflow_task_completed(request, b"", Caller()))
        await settle()
        body, where = next(
            (body, who)
            for _, _, body, who in reversed(self.polling.engine.appended)
            if isinstance(body, Call) and who is not None
        )
        return body, where.id, answer

    async def offers(self, *commands: Command, queue: str = QUEUE) -> int:
        """Complete a task; the number under which it offers to take the next one, 0 if it does not."""
        call, _, answer = await self.complete(*commands, queue=queue)
        answer.cancel()
        return call.offer_id


@pytest.fixture
async def polling() -> Polling:
    return Polling()


def polled(polling: Polling) -> int:
    """How many polls were made in matching."""
    return sum(isinstance(body, PollTask) for body in polling.bodies)


def given_back(polling: Polling) -> list[msgspec.Struct]:
    return [body for body in polling.bodies if isinstance(body, TaskUndelivered)]


async def test_worker_whose_poll_waits_gets_the_task_that_it_offered_to_take(polling: Polling) -> None:
    worker = StickyWorker(polling)
    poll = await worker.begin()
    call, id, answer = await worker.complete()
    assert call.offer_id == id - 1
    assert call.offer_deadline_ms == pytest.approx(polling.polls._backend.now_ms() + 500, abs=400)
    polling.engine.reply(id, Reply())
    await answer
    worker.send(call.offer_id, "next")
    assert workflow_of(await poll) == "next"
    await worker.begin()
    assert polled(polling) == 1, "its poll in matching serves the next call"


async def test_worker_offers_to_take_as_many_tasks_as_it_has_polls(polling: Polling) -> None:
    worker = StickyWorker(polling)
    assert not await worker.offers(), "it is not known"
    polls_ = [await worker.begin() for _ in range(2)]
    first = await worker.offers()
    assert first and await worker.offers()
    assert not await worker.offers()
    assert not await worker.offers(queue="another")
    worker.send(first, "a")
    assert workflow_of(await polls_[0]) == "a"
    assert not await worker.offers(), "a poll is gone as well"


async def test_worker_offers_to_take_what_it_has_come_for_lately(polling: Polling) -> None:
    worker = StickyWorker(polling)
    await worker.served()  # It has come twice, soon after the last answer.
    assert [bool(await worker.offers()) for _ in range(5)] == [True] * 4 + [False]


async def test_what_a_worker_came_for_long_ago_is_forgotten(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_polls, "KEPT_S", 0.0)
    for _ in range(5):
        poll = await polling.begin()  # For activities, for which nothing is ever offered.
        polling.engine.reply(polling.last_poll, Reply(body=TASK))
        await poll
    (worker,) = polling.polls._workers.values()
    assert len(worker._taken_s) <= 1


async def test_what_ends_the_run_offers_nothing(polling: Polling) -> None:
    worker = StickyWorker(polling)
    await worker.begin()
    assert not await worker.offers(CLOSING)


async def test_refused_completion_offers_nothing_any_more(polling: Polling) -> None:
    worker = StickyWorker(polling)
    await worker.begin()
    call, id, answer = await worker.complete()
    assert call.offer_id
    polling.engine.reply(id, Reply(code=NOT_FOUND, message="no"))
    with pytest.raises(ApiError, match="no"):
        await answer
    worker.send(call.offer_id, "late")
    assert polling.polls._backend.replies.not_awaited_total == 1
    assert await worker.offers()


async def test_answer_that_brings_the_next_task_ends_the_offer(polling: Polling) -> None:
    worker = StickyWorker(polling)
    await worker.begin()
    _, id, answer = await worker.complete()
    polling.engine.reply(id, Reply(body=b"", kind="completed"))
    await answer
    assert await worker.offers()


async def test_offer_that_came_to_nothing_makes_room_in_time(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "OFFER_S", 0.01)
    worker = StickyWorker(polling)
    poll = await worker.begin()
    first = await worker.offers()
    offers = next(iter(polling.polls._workers.values())).offers
    ended_ms = offers[first].deadline_ms + 1
    monkeypatch.setattr(polling.polls._backend, "now_ms", lambda: ended_ms)
    assert await worker.offers()
    worker.send(first, "late")  # Histories' owners may have been away: it is for the worker all the same.
    assert workflow_of(await poll) == "late"


async def test_task_that_was_offered_to_be_taken_is_kept_for_the_next_poll(polling: Polling) -> None:
    worker = StickyWorker(polling)
    await worker.served()
    offers = [await worker.offers() for _ in range(3)]
    for id in offers:
        worker.send(id, f"for {id}")
    assert [workflow_of(await (await worker.begin())) for _ in offers] == [f"for {id}" for id in offers]
    assert not given_back(polling)


async def test_task_that_the_worker_does_not_come_for_goes_back(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "KEPT_S", 0.0)
    worker = StickyWorker(polling)
    await worker.served()
    id = await worker.offers()
    worker.send(id, "b")
    await until(lambda: bool(given_back(polling)))
    assert given_back(polling) == [undelivered("b", id)]
    await worker.begin()
    assert not await worker.offers(), "it is not trusted for a while"


async def test_what_waits_in_matching_has_its_turn(polling: Polling) -> None:
    worker = StickyWorker(polling)
    await worker.served()
    for id in [await worker.offers() for _ in range(2)]:
        worker.send(id, "a")
    before = polled(polling)
    await (await worker.begin())
    assert polled(polling) == before + 1
    await (await worker.begin())
    assert polled(polling) == before + 1, "one poll is there"


async def test_worker_hears_of_the_tasks_that_are_kept_for_it(polling: Polling) -> None:
    worker = StickyWorker(polling)
    worker.request.task_queue.normal_name = "q"
    normal = Worker(polling)
    poll = await normal.begin()
    await worker.served()
    for id in [await worker.offers() for _ in range(3)]:
        worker.send(id, "a")
    hints = [
        PollWorkflowTaskQueueResponse.FromString(await (await worker.begin())).backlog_count_hint
        for _ in range(3)
    ]
    assert hints == [2, 1, 0]
    poll.cancel()


async def test_drained_gateway_takes_no_offers_and_outlives_those_it_has(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "OFFER_S", 0.1)
    worker = StickyWorker(polling)
    await worker.served()
    offers = [await worker.offers() for _ in range(2)]
    polling.polls.drain()
    assert not await worker.offers()
    worker.send(offers[0], "a")
    assert given_back(polling) == [undelivered("a", offers[0])]
    until_ms = polling.polls._offers[offers[1]].deadline_ms
    await polling.polls.end_offers()
    assert polling.polls._backend.now_ms() > until_ms


async def test_an_update_reaches_its_worker_without_matching(serve: Serve) -> None:
    served = await serve()
    await served.start()
    sticky_poll = PollWorkflowTaskQueueRequest(
        namespace=NAMESPACE, task_queue={"name": QUEUE, "kind": STICKY, "normal_name": "q"}
    )
    first = await served.workflows.PollWorkflowTaskQueue(
        PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue={"name": "q"}), timeout=10
    )
    poll = asyncio.ensure_future(served.workflows.PollWorkflowTaskQueue(sticky_poll, timeout=10))
    await until(lambda: served.gateway.waiting_polls == 1)
    completed = RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, task_token=first.task_token)
    completed.sticky_attributes.worker_task_queue.name = QUEUE
    completed.sticky_attributes.schedule_to_start_timeout.FromSeconds(5)
    await served.workflows.RespondWorkflowTaskCompleted(completed)
    update = asyncio.ensure_future(served.workflows.UpdateWorkflowExecution(an_update(), timeout=10))
    task = await poll
    assert [message.protocol_instance_id for message in task.messages] == ["u"]
    assert task.started_time == task.scheduled_time, "it was started where it was made"
    update.cancel()
