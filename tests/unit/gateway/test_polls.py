"""A poll that ends leaves nothing behind, and a task it gets too late goes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import pytest
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
)

from gateway import polls, worker_polls
from gateway.backend import Backend
from gateway.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, ApiError
from gateway.histories import Histories
from gateway.metrics import Registry
from gateway.polls import Polls
from gateway.service_metrics import ServiceMetrics
from gateway.task_calls import TaskCalls
from streams.bodies import CancelPoll, NamespaceConfig, PollTask, TaskUndelivered
from streams.limits import Limits
from streams.runtime.records import Correlation, Reply
from streams.task_token import TaskToken
from tests.unit.gateway.conftest import NAMESPACE, Serve, Served, settle

STICKY = TaskQueueKind.TASK_QUEUE_KIND_STICKY
TOKEN = TaskToken(NAMESPACE, "w", "r", "activity", 5, 2, stamp=3, activity_id="a")
TASK = PollActivityTaskQueueResponse(task_token=TOKEN.encode(), activity_id="a").SerializeToString()


class RecordingEngine:
    """An engine whose replies come when the test says so: what races cannot be timed with a real one."""

    def __init__(self) -> None:
        self.appended: list[tuple[str, str, msgspec.Struct, Correlation | None]] = []
        self.reply: Callable[[int, Reply], None]

    @property
    def namespaces(self) -> Mapping[str, NamespaceConfig]:
        return {NAMESPACE: NamespaceConfig(NAMESPACE, "id", 1, 1)}

    def attach_gateway(self, name: str, on_reply: Callable[[int, Reply], None]) -> int:
        self.reply = on_reply
        return 7

    def append(
        self, topic: str, key: str, body: msgspec.Struct, correlation: Correlation | None = None
    ) -> None:
        self.appended.append((topic, key, body, correlation))

    async def flush(self) -> None:
        raise NotImplementedError

    async def read_events(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        return []


class Caller:
    """The context of a call that waits for `timeout_s`."""

    def __init__(self, timeout_s: float | None = 60.0) -> None:
        self._timeout_s = timeout_s

    def time_remaining(self) -> float | None:
        return self._timeout_s

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return {}


class Polling:
    """Polls over a recording engine."""

    def __init__(self) -> None:
        self.engine = RecordingEngine()
        backend = Backend(self.engine, Limits(), "gateway-0")
        backend.begin()
        histories = Histories(backend)
        self.polls = Polls(backend, histories, ServiceMetrics(Registry(), "0"))
        self.tasks = TaskCalls(backend, histories, self.polls)

    async def begin(self, timeout_s: float = 60.0) -> asyncio.Task[bytes]:
        """A poll for activities that waits."""
        request = PollActivityTaskQueueRequest(
            namespace=NAMESPACE, task_queue=TaskQueue(name="q"), identity="i"
        )
        poll = asyncio.ensure_future(self.polls.activity_task(request, b"request", Caller(timeout_s)))
        await settle()
        return poll

    @property
    def last_poll(self) -> int:
        """The call id of the newest poll in matching."""
        return next(
            who.id for _, _, body, who in reversed(self.engine.appended) if who and isinstance(body, PollTask)
        )

    @property
    def bodies(self) -> list[msgspec.Struct]:
        return [body for _, _, body, _ in self.engine.appended]


@pytest.fixture
async def polling() -> Polling:
    return Polling()


UNDELIVERED = TaskUndelivered(NAMESPACE, "w", "r", "activity", 5, 2, 3, "", 1)


async def test_poll_waits_in_matching_and_gets_its_task(polling: Polling) -> None:
    poll = await polling.begin()
    topic, key, body, correlation = polling.engine.appended[0]
    assert isinstance(body, PollTask)
    assert (topic, key, correlation) == ("tasks", "default/q/activity/0", Correlation("gateway-0", 7, 1))
    assert (body.identity, body.request, body.sticky) == ("i", b"request", False)
    polling.engine.reply(1, Reply(body=TASK))
    assert await poll == TASK


async def test_client_that_goes_away_leaves_the_queue(polling: Polling) -> None:
    poll = await polling.begin()
    poll.cancel()
    await settle()
    assert polling.bodies[1:] == [CancelPoll("gateway-0", 7, 1)]


async def test_task_for_a_client_that_is_gone_goes_back(polling: Polling) -> None:
    poll = await polling.begin()
    poll.cancel()
    await settle()
    polling.engine.reply(1, Reply(body=TASK))
    assert polling.engine.appended[2][:3] == ("commands", "default/w", UNDELIVERED)
    polling.engine.reply(1, Reply(body=TASK))
    assert len(polling.bodies) == 3


async def test_task_that_arrives_with_the_cancellation_goes_back(polling: Polling) -> None:
    poll = await polling.begin()
    polling.engine.reply(1, Reply(body=TASK))
    poll.cancel()
    await settle()
    assert poll.cancelled()
    assert polling.bodies[1:] == [UNDELIVERED]


async def test_task_whose_events_cannot_be_read_goes_back(polling: Polling) -> None:
    request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="q"))
    poll = asyncio.ensure_future(polling.polls.workflow_task(request, b"", Caller()))
    await settle()
    token = TaskToken(NAMESPACE, "w", "r", "workflow", 2, 1, started_event_id=3)
    task = PollWorkflowTaskQueueResponse(task_token=token.encode()).SerializeToString()
    polling.engine.reply(1, Reply(0, "", task, "r", 1, 3, "poll-workflow"))
    with pytest.raises(ApiError, match="cannot be read yet"):
        await poll
    assert polling.bodies[1:] == [TaskUndelivered(NAMESPACE, "w", "r", "workflow", 2, 1, 0, "", 1)]


async def test_worker_hears_of_a_sticky_backlog_while_it_polls_its_normal_queue_too(polling: Polling) -> None:
    normal, sticky = TaskQueue(name="q"), TaskQueue(name="s", kind=STICKY, normal_name="q")

    async def poll(queue: TaskQueue, identity: str = "i") -> asyncio.Task[bytes]:
        request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=queue, identity=identity)
        data = request.SerializeToString()
        poll = asyncio.ensure_future(polling.polls.workflow_task(request, data, Caller()))
        await settle()
        return poll

    async def hint_of(poll: asyncio.Task[bytes]) -> int:
        task = PollWorkflowTaskQueueResponse(task_token=b"t", backlog_count_hint=9).SerializeToString()
        polling.engine.reply(polling.last_poll, Reply(0, "", task))
        response = PollWorkflowTaskQueueResponse.FromString(await poll)
        assert response.task_token == b"t"
        return response.backlog_count_hint

    assert await hint_of(await poll(sticky)) == 0
    await poll(normal, "another worker")
    assert await hint_of(await poll(sticky)) == 0
    left = await poll(normal)
    assert await hint_of(await poll(sticky)) == 9
    left.cancel()
    await settle()
    assert await hint_of(await poll(sticky)) == 0


async def test_lapsed_poll_of_a_client_that_is_gone_needs_nothing(polling: Polling) -> None:
    poll = await polling.begin()
    poll.cancel()
    await settle()
    polling.engine.reply(1, Reply())
    assert len(polling.bodies) == 2


async def test_drain_ends_polls_and_gives_late_tasks_back(polling: Polling) -> None:
    poll = await polling.begin()
    polling.polls.drain()
    assert await poll == b""
    assert await (await polling.begin()) == b""
    polling.engine.reply(1, Reply(body=TASK))
    assert polling.bodies[1:] == [CancelPoll("gateway-0", 7, 1), UNDELIVERED]


@pytest.mark.parametrize(
    ("timeout_s", "wait_s"), [(300.0, 60.0), (70.0, 60.0), (30.0, 25.0), (8.0, 4.0), (2.0, 1.0)]
)
async def test_poll_ends_before_its_client_does(polling: Polling, timeout_s: float, wait_s: float) -> None:
    before_ms = polling.polls._backend.now_ms()
    await polling.begin(timeout_s)
    after_ms = polling.polls._backend.now_ms()
    body = polling.bodies[0]
    assert isinstance(body, PollTask)
    assert before_ms + wait_s * 1000 <= body.deadline_ms <= after_ms + wait_s * 1000


@pytest.mark.parametrize(
    ("timeout_s", "code", "message"),
    [
        (None, INVALID_ARGUMENT, "Context timeout is not set."),
        (1.9, FAILED_PRECONDITION, "Context timeout is too short."),
    ],
)
async def test_poll_needs_a_deadline(
    polling: Polling, timeout_s: float | None, code: int, message: str
) -> None:
    request = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="q"))
    with pytest.raises(ApiError) as error:
        await polling.polls.activity_task(request, b"", Caller(timeout_s))
    assert (error.value.code, error.value.message) == (code, message)


WORKFLOW_TOKEN = TaskToken(NAMESPACE, "w", "r", "workflow", 2, 1, started_event_id=3)


class Worker:
    """A worker that polls a queue for workflow tasks; its tasks are told apart by their tokens' workflow ids."""

    def __init__(self, polling: Polling, queue: str = "q") -> None:
        self.polling = polling
        self.request = PollWorkflowTaskQueueRequest(
            namespace=NAMESPACE, task_queue=TaskQueue(name=queue), identity="i"
        )

    async def begin(self, timeout_s: float = 60.0) -> asyncio.Task[bytes]:
        data = self.request.SerializeToString()
        poll = asyncio.ensure_future(self.polling.polls.workflow_task(self.request, data, Caller(timeout_s)))
        await settle()
        return poll

    def send(self, id: int, workflow_id: str, events_of: str = "") -> None:
        """A task for the poll `id`; events 1 to 3 of the run `events_of` belong to it."""
        token = msgspec.structs.replace(WORKFLOW_TOKEN, workflow_id=workflow_id).encode()
        body = PollWorkflowTaskQueueResponse(task_token=token).SerializeToString()
        first, last = (1, 3) if events_of else (0, 0)
        self.polling.engine.reply(id, Reply(0, "", body, events_of, first, last, "poll-workflow"))

    async def known(self) -> int:
        """Make it known to the gateway. Returns the number of a poll of its that may bring more tasks, in matching."""
        first = await self.begin()
        self.send(self.polling.last_poll, "first")
        assert workflow_of(await first) == "first"
        self.left = await self.begin()
        return self.polling.last_poll

    async def served(self) -> int:
        """Like `known`, and the poll has brought its first task: more may follow, and nobody waits."""
        id = await self.known()
        self.send(id, "a")
        assert workflow_of(await self.left) == "a"
        return id


def workflow_of(response: bytes) -> str:
    token = PollWorkflowTaskQueueResponse.FromString(response).task_token
    return TaskToken.decode(token).workflow_id


async def until(reached: Callable[[], bool]) -> None:
    """Let the loop run until it is so."""
    while not reached():  # noqa: ASYNC110 (timers of the loop reach it)
        await asyncio.sleep(0)


def undelivered(workflow_id: str, poll_id: int) -> TaskUndelivered:
    return TaskUndelivered(NAMESPACE, workflow_id, "r", "workflow", 2, 1, 0, "", poll_id)


async def test_known_worker_takes_more_tasks_and_finds_them_at_its_next_polls(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    assert [body.spares for body in polling.bodies if isinstance(body, PollTask)] == [0, 3]
    for n, workflow_id in enumerate("abc"):
        worker.send(id + n, workflow_id)
    assert [
        workflow_of(await poll) for poll in (worker.left, await worker.begin(), await worker.begin())
    ] == [*"abc"]
    assert len(polling.bodies) == 2  # No poll was made for those that found a task.


async def test_task_that_overtakes_the_first_one_is_for_the_worker_too(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    worker.send(id + 1, "b")
    assert workflow_of(await worker.left) == "b"
    worker.send(id, "a")
    worker.send(id + 2, "c")
    assert [workflow_of(await (await worker.begin())) for _ in range(2)] == ["a", "c"]
    assert len(polling.bodies) == 2


async def test_task_that_is_sent_twice_is_given_once(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    for _ in range(2):
        worker.send(id + 1, "b")
    assert workflow_of(await worker.left) == "b"
    for _ in range(2):
        worker.send(id, "a")
        worker.send(id + 1, "b")
    assert workflow_of(await (await worker.begin())) == "a"
    assert not (await worker.begin()).done()
    assert polling.polls._backend.replies.not_awaited_total == 4


async def test_task_for_a_later_number_than_was_offered_is_for_nobody(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    worker.send(id + 4, "x")
    assert not worker.left.done()
    assert polling.polls._backend.replies.not_awaited_total == 1


async def test_a_poll_in_matching_serves_the_next_call(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    second = await worker.begin()
    other = polling.last_poll
    worker.send(id, "a")
    worker.send(id + 1, "b")
    assert [workflow_of(await poll) for poll in (worker.left, second)] == ["a", "b"]
    third = await worker.begin()
    assert polling.last_poll == other
    worker.send(other, "c")
    assert workflow_of(await third) == "c"


async def test_task_that_the_worker_does_not_come_for_goes_back(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "KEPT_S", 0.0)
    worker = Worker(polling)
    id = await worker.served()
    worker.send(id + 1, "b")
    worker.send(id + 2, "c")
    await until(lambda: len(polling.bodies) == 4)
    assert polling.bodies[2:] == [undelivered("b", id + 1), undelivered("c", id + 2)]
    await worker.begin()
    again = polling.bodies[-1]
    assert isinstance(again, PollTask) and again.spares == 0  # Not trusted with more for a while.


async def test_process_that_was_held_up_keeps_a_task_for_twice_as_long(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "KEPT_S", 0.05)
    monkeypatch.setattr(polls, "LATE_S", -1.0)
    worker = Worker(polling)
    id = await worker.served()
    sent_s = asyncio.get_running_loop().time()
    worker.send(id + 1, "b")
    await until(lambda: len(polling.bodies) > 2)
    assert polling.bodies[2:] == [undelivered("b", id + 1)]
    assert asyncio.get_running_loop().time() >= sent_s + 0.1


async def test_worker_waits_on_when_a_task_that_was_kept_cannot_be_read_any_more(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.served()
    worker.send(id + 1, "b", events_of="r")
    poll = await worker.begin()
    assert polling.bodies[2] == undelivered("b", id + 1)
    assert not poll.done()
    worker.send(polling.last_poll, "c")
    assert workflow_of(await poll) == "c"


async def test_more_tasks_of_a_poll_whose_client_left_go_back(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "KEPT_S", 0.0)
    worker = Worker(polling)
    id = await worker.known()
    worker.left.cancel()
    await settle()
    worker.send(id + 1, "b")
    worker.send(id, "a")
    await until(lambda: len(polling.bodies) == 5)
    assert polling.bodies[2:] == [
        CancelPoll("gateway-0", 7, id),
        undelivered("a", id),
        undelivered("b", id + 1),
    ]


async def test_drain_gives_back_what_is_kept_and_what_comes(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.served()
    worker.send(id + 1, "b")
    polling.polls.drain()
    worker.send(id + 2, "c")
    assert polling.bodies[2:] == [undelivered("b", id + 1), undelivered("c", id + 2)]


async def test_call_with_less_time_ends_by_its_own_poll(polling: Polling) -> None:
    worker = Worker(polling)
    await worker.known()
    short = await worker.begin(8.0)
    polling.engine.reply(polling.last_poll, Reply())
    assert await short == b""
    assert not worker.left.done()


async def test_task_is_for_the_call_that_ends_first(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    short = await worker.begin(8.0)
    worker.send(id, "a")
    assert workflow_of(await short) == "a"
    assert not worker.left.done()


async def test_refusal_reaches_one_call(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    second = await worker.begin()
    polling.engine.reply(id, Reply(8, "too many polls wait"))
    with pytest.raises(ApiError, match="too many polls"):
        await worker.left
    assert not second.done()
    worker.send(id, "a")  # of a poll that reached matching all the same
    assert polling.bodies[-1] == undelivered("a", id)


async def test_polls_that_no_call_needs_leave_the_queue(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(polling)
    id = await worker.known()
    second = await worker.begin()
    other = polling.last_poll
    monkeypatch.setattr(polls, "KEPT_S", 0.0)
    worker.send(id, "a")
    worker.send(id + 1, "b")
    assert [workflow_of(await poll) for poll in (worker.left, second)] == ["a", "b"]
    await until(lambda: len(polling.bodies) > 3)
    assert polling.bodies[3:] == [CancelPoll("gateway-0", 7, other)]


async def test_all_polls_of_a_worker_that_leaves_leave_the_queue(polling: Polling) -> None:
    worker = Worker(polling)
    id = await worker.known()
    second = await worker.begin()
    third = await worker.begin()
    last = polling.last_poll
    worker.send(id, "a")
    worker.send(id + 1, "b")
    assert [workflow_of(await poll) for poll in (worker.left, second)] == ["a", "b"]
    third.cancel()
    await settle()
    await until(lambda: not polling.polls._asks)
    assert {body.id for body in polling.bodies if isinstance(body, CancelPoll)} == {last - 4, last}


async def test_poll_whose_answer_was_lost_does_not_stand_for_a_call(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(polling)
    id = await worker.known()
    later_ms = polling.polls._backend.now_ms() + 70_000
    monkeypatch.setattr(polling.polls._backend, "now_ms", lambda: later_ms)
    await worker.begin()
    assert polling.bodies[2] == CancelPoll("gateway-0", 7, id)
    assert polling.last_poll > id


async def test_worker_that_takes_its_time_gets_nothing_to_keep(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_polls, "PROMPT_S", 0.0)
    worker = Worker(polling)
    await worker.known()
    assert [body.spares for body in polling.bodies if isinstance(body, PollTask)] == [0, 0]


async def test_worker_that_is_gone_is_forgotten(polling: Polling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polls, "IDLE_S", 0.0)
    worker = Worker(polling)
    await worker.known()
    await asyncio.sleep(0)
    assert len(polling.polls._workers) == 1
    worker.left.cancel()
    await until(lambda: not polling.polls._workers)


async def test_task_of_a_vanished_client_reaches_the_next(served: Served) -> None:
    request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="q"))
    vanished = served.workflows.PollWorkflowTaskQueue(request, timeout=60)
    await served.workflows.PollWorkflowTaskQueue(request, timeout=3)  # by its end the first one waits
    vanished.cancel()
    run_id = await served.start()
    task = await served.workflows.PollWorkflowTaskQueue(request, timeout=30)
    assert task.workflow_execution.run_id == run_id
    assert task.attempt == 1


async def test_drained_poll_is_answered_empty(serve: Serve) -> None:
    served = await serve()
    request = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name="q"))
    poll = served.workflows.PollActivityTaskQueue(request, timeout=60)
    await served.start()  # by its end the poll has arrived
    await served.gateway.drain()
    assert not (await poll).task_token
