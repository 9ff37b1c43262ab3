"""A poll that ends leaves nothing behind, and a task it gets too late goes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

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

from gateway.backend import Backend
from gateway.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, ApiError
from gateway.histories import Histories
from gateway.metrics import Registry
from gateway.polls import Polls
from gateway.service_metrics import ServiceMetrics
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

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return ()


class Polling:
    """Polls over a recording engine."""

    def __init__(self) -> None:
        self.engine = RecordingEngine()
        backend = Backend(self.engine, Limits(), "gateway-0")
        backend.begin()
        self.polls = Polls(backend, Histories(backend), ServiceMetrics(Registry(), "0"))

    async def begin(self, timeout_s: float = 60.0) -> asyncio.Task[bytes]:
        """A poll for activities that waits."""
        request = PollActivityTaskQueueRequest(
            namespace=NAMESPACE, task_queue=TaskQueue(name="q"), identity="i"
        )
        poll = asyncio.ensure_future(self.polls.activity_task(request, b"request", Caller(timeout_s)))
        await settle()
        return poll

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
        poll = asyncio.ensure_future(polling.polls.workflow_task(request, b"", Caller()))
        await settle()
        return poll

    async def hint_of(poll: asyncio.Task[bytes]) -> int:
        task = PollWorkflowTaskQueueResponse(task_token=b"t", backlog_count_hint=9).SerializeToString()
        polls = sum(isinstance(body, PollTask) for body in polling.bodies)
        polling.engine.reply(polls, Reply(0, "", task))
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
