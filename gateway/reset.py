"""ResetWorkflowExecution: the new run is prepared here from stored events, and opened by history.

Preparing needs old events, which the fold has no more (fold.md rule 23): they are folded again up to the
reset point, and sent as pages together with the later events that the new run gets too.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import EventType, ResetReapplyType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest, ResetWorkflowExecutionResponse

from gateway import errors
from gateway.backend import CALL_TIMEOUT_S, Backend, Context
from gateway.validation import check_execution, check_request_id
from streams import avro
from streams.bodies import HistoryState, NumberPair, ResetBase, ResetPrepared, StatePart
from streams.history import reset
from streams.history.refold import NoTaskError, Refold
from streams.stores.damage import StoreError
from streams.topology import COMMANDS, workflow_key

_PAGE_BYTES: Final = 1_000_000
_TRIES: Final = 50
"""How often a reset catches up with runs that move on; each time there is only the newest to read."""
_STARTED: Final = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
_CONTINUED: Final = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW


class Resets:
    """Handles resets."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def reset(self, request: ResetWorkflowExecutionRequest, data: bytes, context: Context) -> bytes:
        """ResetWorkflowExecution."""
        backend, execution = self._backend, request.workflow_execution
        namespace = backend.namespace(request.namespace)
        if not request.request_id:
            raise errors.invalid("RequestId is not set on request.")
        check_request_id(request.request_id, backend.limits)
        check_execution(execution, request.HasField("workflow_execution"))
        if request.reset_reapply_type not in ResetReapplyType.values():
            raise errors.invalid(f"unknown reset reapply type: {request.reset_reapply_type}")
        if request.post_reset_operations:
            raise errors.unimplemented("post reset operations are not supported")
        reply = await backend.call(
            "PrepareReset", namespace.name, execution.workflow_id, execution.run_id, data, context
        )
        base = avro.decode(ResetBase, reply.body)
        if base.done_run_id:
            return ResetWorkflowExecutionResponse(run_id=base.done_run_id).SerializeToString()
        return await _Reset(backend, request, data, base, context).carry_out()


class _Reset:
    """One reset under way: what has been read, and the page being filled."""

    def __init__(
        self,
        backend: Backend,
        request: ResetWorkflowExecutionRequest,
        data: bytes,
        base: ResetBase,
        context: Context,
    ) -> None:
        self._backend = backend
        self._namespace = request.namespace
        self._workflow_id = request.workflow_execution.workflow_id
        self._data = data
        self._base = base
        self._context = context
        self._point = request.workflow_task_finish_event_id
        self._excluded = reset.excluded(request)
        self._new_run_id = str(uuid.uuid4())
        self._seen = {base.base_run_id: self._point}
        self._point_hash = b""
        self._page = 0
        self._next_event_id = 1
        self._begin_page()

    def _begin_page(self) -> None:
        self._events: list[bytes] = []
        self._parts: list[StatePart] = []
        self._reapply: list[bytes] = []
        self._size = 0

    async def carry_out(self) -> bytes:
        """Prepare and send all pages. Returns the encoded response. Raises ApiError."""
        parts = await self._fold()
        async for event in self._read(self._base.base_run_id, 1, self._point - 1):
            await self._make_room(len(event))
            self._events.append(event)
            self._point_hash = reset.point_hash(event)
        for part in parts:
            await self._make_room(len(part.data))
            self._parts.append(part)
        await self._look_at(self._base.base_run_id, self._base.next_event_id)
        for _ in range(_TRIES):
            try:
                timeout_s = CALL_TIMEOUT_S if self._context.time_remaining() is None else None
                reply = await self._backend.ask(COMMANDS, self._key, self._take_page(last=True), timeout_s)
            except errors.ApiError as error:
                if error.code != errors.ABORTED:
                    raise
                run_id = next(reversed(self._seen))
                await self._look_at(run_id, await self._expected(run_id))
            else:
                return reply.body
        raise errors.unavailable("The workflow moves on too fast to be reset.")

    @property
    def _key(self) -> str:
        return workflow_key(self._namespace, self._workflow_id)

    async def _fold(self) -> list[StatePart]:
        """The state of the new run: what the events before the reset point make. Raises ApiError."""
        refold = Refold(self._namespace, self._workflow_id, self._new_run_id)
        last = b""
        async for last in self._read(self._base.base_run_id, 1, self._point - 1):
            refold.add(last)
        try:
            return refold.parts()
        except NoTaskError:
            pass
        point = [e async for e in self._read(self._base.base_run_id, self._point, self._point)]
        raise errors.invalid(self._no_task(HistoryEvent.FromString(last), HistoryEvent.FromString(point[0])))

    def _no_task(self, before: HistoryEvent, point: HistoryEvent) -> str:
        """Why the point cannot be reset to, in the real server's words.

        It says something else for a point within events that were written together; these have one time.
        """
        together = _time(before.event_time) == _time(point.event_time) and before.event_type != _STARTED
        if together:
            return (
                f"StateRebuilder unable to Rebuild mutable state to event ID: {self._point - 1}, version: 0, "
                "this event must be at the boundary"
            )
        allowed = "[WorkflowTaskScheduled +1, WorkflowTaskStarted + 1]"
        return f"Can only reset workflow to event ID in range {allowed}: {self._point}"

    async def _look_at(self, run_id: str, next_event_id: int) -> None:
        """Take the events of a run that come again, and those of the runs that it continued as."""
        if reset.excludes_all(self._excluded):
            self._seen[run_id] = next_event_id
            return
        while run_id:
            following = ""
            async for data in self._read(run_id, self._seen.get(run_id, 1), next_event_id - 1):
                event = HistoryEvent.FromString(data)
                if reset.comes_again(event, self._excluded):
                    await self._make_room(len(data))
                    self._reapply.append(data)
                if event.event_type == _CONTINUED:
                    continued = event.workflow_execution_continued_as_new_event_attributes
                    following = continued.new_execution_run_id
            self._seen[run_id] = next_event_id
            run_id = following
            if run_id:
                next_event_id = await self._expected(run_id)

    async def _expected(self, run_id: str) -> int:
        """The id of the event that a run expects next."""
        reply = await self._backend.call(
            "ReadHistory", self._namespace, self._workflow_id, run_id, b"", self._context
        )
        return avro.decode(HistoryState, reply.body).last_event_id + 1

    async def _read(self, run_id: str, first: int, last: int) -> AsyncIterator[bytes]:
        while first <= last:
            try:
                events = await self._backend.engine.read_events(run_id, first, last, _PAGE_BYTES)
            except StoreError as error:
                raise errors.of_store(error) from error
            if not events or events[0][0] != first:
                await self._expected(run_id)  # NOT_FOUND if the run has been deleted meanwhile
                raise errors.unavailable("The events of this history cannot be read yet.")
            for event_id, event in events:
                first = event_id + 1
                yield event

    async def _make_room(self, size: int) -> None:
        """Send the page when the next thing does not fit any more."""
        if self._size and self._size + size > _PAGE_BYTES:
            self._backend.engine.append(COMMANDS, self._key, self._take_page(last=False))
            await self._backend.engine.flush()
        self._size += size

    def _take_page(self, *, last: bool) -> ResetPrepared:
        page = ResetPrepared(
            self._namespace,
            self._workflow_id,
            self._base.base_run_id,
            self._new_run_id,
            self._page,
            self._next_event_id,
            tuple(self._events),
            tuple(self._parts),
            tuple(self._reapply),
            last,
            self._data if last else b"",
            self._point_hash if last else b"",
            tuple(NumberPair(key, value) for key, value in self._seen.items()) if last else (),
        )
        self._page += 1
        self._next_event_id += len(self._events)
        self._begin_page()
        return page


def _time(time: Timestamp) -> tuple[int, int]:
    return time.seconds, time.nanos
