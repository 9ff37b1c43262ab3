"""Histories for clients: pages of events spliced into answers, and waiting for what is not there yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from temporalio.api.enums.v1 import EventType, HistoryEventFilterType, TimeoutType
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionContinuedAsNewEventAttributes
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedResponse,
)

from gateway import errors, page_tokens, splice
from gateway.backend import Backend, Context
from gateway.errors import ApiError
from gateway.page_tokens import HistoryPage, ReversePage
from gateway.validation import check_execution
from streams import avro
from streams.bodies import Call, HistoryState, NamespaceConfig
from streams.runtime.records import Reply
from streams.stores.damage import StoreError
from streams.topology import COMMANDS, workflow_key

_CLOSE_ONLY: Final = HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
_TAIL_ROOM_S: Final = 1.0
_FOLLOWS_NEXT_RUN: Final = b"follows-next-run-id"

_HISTORY_FIELD: Final = 1  # of GetWorkflowExecutionHistory(Reverse)Response
_TOKEN_FIELD: Final = 3
_TASK_HISTORY_FIELD: Final = 8  # of PollWorkflowTaskQueueResponse
_TASK_TOKEN_FIELD: Final = 9
_NESTED_TASK_FIELD: Final = {
    "completed": 1,  # of RespondWorkflowTaskCompletedResponse
    "started": 2,  # of StartWorkflowExecutionResponse
}
"""The field that holds the workflow task, by kind of reply; polls are answered with the task itself."""
_NO_EVENTS: Final = splice.history(_HISTORY_FIELD, ())

_TASK_EVENTS: Final = (
    EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
)

Page = TypeVar("Page", HistoryPage, ReversePage)

GetHistory = GetWorkflowExecutionHistoryRequest
GetHistoryReverse = GetWorkflowExecutionHistoryReverseRequest


class Histories:
    """Reads of histories. Behaviour: service/history/api/getworkflowexecutionhistory of the real server."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get(self, request: GetHistory, data: bytes, context: Context) -> bytes:
        """GetWorkflowExecutionHistory."""
        namespace = self._backend.namespace(request.namespace)
        check_execution(request.execution, request.HasField("execution"))
        page = _page_of(HistoryPage, request.next_page_token, request.execution.run_id)
        if request.history_event_filter_type == _CLOSE_ONLY:
            return await self._close_event(namespace, request, page, context)
        if page is None:
            state = await self._state(namespace, request, request.execution.run_id, context)
            page = HistoryPage(state.run_id, 1, state.last_event_id, not state.closed)
        else:
            state = await self._state(
                namespace, request, page.run_id, context, after_event_id=page.next_event_id - 1
            )
            if page.next_event_id > page.last_event_id and not page.fixed:
                page = await self._grown(namespace, request, page, state, context)
        return await self._answer(namespace, request, page, state, context)

    async def _grown(
        self,
        namespace: NamespaceConfig,
        request: GetHistory,
        page: HistoryPage,
        state: HistoryState,
        context: Context,
    ) -> HistoryPage:
        """The page once there are events after it; itself when there are none in time."""
        if not (request.wait_new_event and page.open):
            return HistoryPage(page.run_id, page.next_event_id, page.last_event_id, open=False)
        if state.last_event_id <= page.last_event_id and not state.closed:
            waited = await self._wait(
                namespace, request, page.run_id, "new_event", page.last_event_id, context
            )
            if waited is None:
                return page
            state = waited
        return HistoryPage(page.run_id, page.next_event_id, state.last_event_id, not state.closed)

    async def _answer(
        self,
        namespace: NamespaceConfig,
        request: GetHistory,
        page: HistoryPage,
        state: HistoryState,
        context: Context,
    ) -> bytes:
        first, last = page.next_event_id, page.last_event_id
        count = self._size(request.maximum_page_size)
        async with self._of_run(namespace, request, page.run_id, context):
            events, read_to = await self._read(page.run_id, first, last, count)
        if read_to < page.last_event_id:
            more = HistoryPage(
                page.run_id, read_to + 1, page.last_event_id, page.open, page.fixed, page.pending
            )
        elif page.fixed:
            more = None
            if page.pending:
                events += await self._of_task(page, state)
        elif request.wait_new_event and page.open:
            more = HistoryPage(page.run_id, read_to + 1, page.last_event_id, open=True)
        else:
            more = None
        answer = splice.history(_HISTORY_FIELD, events)
        return answer if more is None else answer + splice.field(_TOKEN_FIELD, page_tokens.encode(more))

    async def _of_task(self, page: HistoryPage, state: HistoryState) -> Sequence[bytes]:
        """The events of the task whose history the page ends, unless they were in it: none once it is over."""
        last = page.last_event_id
        if state.last_event_id == last:
            return state.transient
        if state.last_event_id < last + 2:
            return ()
        # A speculative task is in the history as soon as anything else happens while it runs.
        events, _ = await self._read(page.run_id, last + 1, last + 2, 2)
        kinds = tuple(HistoryEvent.FromString(event).event_type for event in events)
        return events if kinds == _TASK_EVENTS else ()

    async def _close_event(
        self, namespace: NamespaceConfig, request: GetHistory, page: HistoryPage | None, context: Context
    ) -> bytes:
        run_id = page.run_id if page else request.execution.run_id
        state = await self._wait(namespace, request, run_id, "close", 0, context)
        if state is None:
            state = await self._state(namespace, request, run_id, context)
        if not state.closed:
            if not request.wait_new_event:
                return _NO_EVENTS
            token = HistoryPage(state.run_id, state.last_event_id + 1, state.last_event_id, open=True)
            return _NO_EVENTS + splice.field(_TOKEN_FIELD, page_tokens.encode(token))
        async with self._of_run(namespace, request, state.run_id, context):
            events, _ = await self._read(state.run_id, state.last_event_id, state.last_event_id, 1)
        return splice.history(_HISTORY_FIELD, [_as_followed(events[0], context)])

    async def get_reverse(self, request: GetHistoryReverse, data: bytes, context: Context) -> bytes:
        """GetWorkflowExecutionHistoryReverse."""
        namespace = self._backend.namespace(request.namespace)
        check_execution(request.execution, request.HasField("execution"))
        page = _page_of(ReversePage, request.next_page_token, request.execution.run_id)
        run_id = page.run_id if page else request.execution.run_id
        state = await self._state(namespace, request, run_id, context)
        last = min(page.next_event_id, state.last_event_id) if page else state.last_event_id
        first = max(1, last - self._size(request.maximum_page_size) + 1)
        async with self._of_run(namespace, request, state.run_id, context):
            events, read_to = await self._read(state.run_id, first, last, last - first + 1)
            while read_to < last:  # too many bytes: drop the older half, never the newest
                first = (first + last + 1) // 2
                events, read_to = await self._read(state.run_id, first, last, last - first + 1)
        answer = splice.history(_HISTORY_FIELD, reversed(events))
        if first > 1:
            token = page_tokens.encode(ReversePage(state.run_id, first - 1))
            answer += splice.field(_TOKEN_FIELD, token)
        return answer

    async def attach(self, reply: Reply) -> bytes:
        """The body of a workflow task's reply with the events that belong into it."""
        if not reply.attach_run:
            return reply.body
        events, read_to = await self._read(
            reply.attach_run, reply.attach_first, reply.attach_last, self._backend.limits.history_page_events
        )
        token = b""
        if read_to < reply.attach_last:
            page = HistoryPage(
                reply.attach_run, read_to + 1, reply.attach_last, open=True, fixed=True, pending=True
            )
            token = splice.field(_TASK_TOKEN_FIELD, page_tokens.encode(page))
        # Before the body, which may bring further events that are not in the history yet.
        attached = splice.history(_TASK_HISTORY_FIELD, events) + token
        nested = _NESTED_TASK_FIELD.get(reply.kind)
        if nested is not None:
            attached = splice.field(nested, attached)
        return attached + (_without_events(reply) if token else reply.body)

    def _size(self, asked: int) -> int:
        most = self._backend.limits.history_page_events
        return asked if 0 < asked < most else most

    @asynccontextmanager
    async def _of_run(
        self,
        namespace: NamespaceConfig,
        request: GetHistory | GetHistoryReverse,
        run_id: str,
        context: Context,
    ) -> AsyncIterator[None]:
        """Reads of a run's events inside raise NOT_FOUND when the run was deleted since its state was read."""
        try:
            yield
        except ApiError:
            await self._state(namespace, request, run_id, context)
            raise

    async def _read(self, run_id: str, first: int, last: int, count: int) -> tuple[list[bytes], int]:
        """Events from `first`, no more than `count` nor past `last` or a page's bytes, and the last's id."""
        if first > last:
            return [], last
        try:
            events = await self._backend.engine.read_events(
                run_id, first, min(last, first + count - 1), self._backend.limits.page_bytes
            )
        except StoreError as error:
            raise errors.of_store(error) from error
        if not events or events[0][0] != first:
            raise errors.unavailable("The events of this history cannot be read yet.")
        return [event for _, event in events], events[-1][0]

    async def _state(
        self,
        namespace: NamespaceConfig,
        request: GetHistory | GetHistoryReverse,
        run_id: str,
        context: Context,
        *,
        after_event_id: int = 0,
    ) -> HistoryState:
        """What the owner knows. The events after `after_event_id` come beside its answer, as far as it has them."""
        reply = await self._backend.call(
            "ReadHistory",
            namespace.name,
            request.execution.workflow_id,
            run_id,
            b"",
            context,
            after_event_id=after_event_id,
        )
        return avro.decode(HistoryState, reply.body)

    async def _wait(
        self,
        namespace: NamespaceConfig,
        request: GetHistory,
        run_id: str,
        wait: str,
        after_event_id: int,
        context: Context,
    ) -> HistoryState | None:
        """The state once it is what `wait` says, None if that takes too long."""
        timeout_s = self._backend.limits.history_poll_ms / 1000
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            timeout_s = max(0.0, min(timeout_s, remaining_s - _TAIL_ROOM_S))
        workflow_id = request.execution.workflow_id
        body = Call(
            "ReadHistory",
            namespace.name,
            workflow_id,
            run_id,
            b"",
            deadline_ms=self._backend.now_ms() + int(timeout_s * 1000),
            wait=wait,
            after_event_id=after_event_id,
        )
        try:
            reply = await self._backend.ask(
                COMMANDS,
                workflow_key(namespace.name, workflow_id),
                body,
                timeout_s,
                if_drained=TimeoutError(),
            )
        except TimeoutError:
            return None
        return avro.decode(HistoryState, reply.body)


def _without_events(reply: Reply) -> bytes:
    """The reply's body less the events it brings, for when they follow on a later page."""
    if reply.kind == "completed":
        completed = RespondWorkflowTaskCompletedResponse.FromString(reply.body)
        completed.workflow_task.ClearField("history")
        return completed.SerializeToString()
    if reply.kind == "started":
        return reply.body  # a task that is in the history brings no events
    task = PollWorkflowTaskQueueResponse.FromString(reply.body)
    task.ClearField("history")
    return task.SerializeToString()


def _page_of(kind: type[Page], token: bytes, run_id: str) -> Page | None:
    if not token:
        return None
    page = page_tokens.decode(kind, token)
    if run_id and run_id != page.run_id:
        raise errors.invalid("RunId in the request does not match the NextPageToken.")
    return page


def _as_followed(event: bytes, context: Context) -> bytes:
    """A close event for one who waits for it, so that old clients too go on to a run that follows.

    Behaviour: FixFollowEvents of the real server, for clients that do not know of runs that follow a failure,
    a timeout or a completion.
    """
    if _FOLLOWS_NEXT_RUN in context.headers.get(b"supported-features", b"").split(b","):
        return event
    decoded = HistoryEvent.FromString(event)
    followed = WorkflowExecutionContinuedAsNewEventAttributes()
    match decoded.event_type:
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            completed = decoded.workflow_execution_completed_event_attributes
            followed.new_execution_run_id = completed.new_execution_run_id
            followed.last_completion_result.CopyFrom(completed.result)
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            failed = decoded.workflow_execution_failed_event_attributes
            followed.new_execution_run_id = failed.new_execution_run_id
            followed.failure.CopyFrom(failed.failure)
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
            timed_out = decoded.workflow_execution_timed_out_event_attributes
            followed.new_execution_run_id = timed_out.new_execution_run_id
            followed.failure.message = "workflow timeout"
            followed.failure.source = "Server"
            followed.failure.timeout_failure_info.timeout_type = TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
    if not followed.new_execution_run_id:
        return event
    decoded.event_type = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
    decoded.workflow_execution_continued_as_new_event_attributes.CopyFrom(followed)
    return decoded.SerializeToString()
