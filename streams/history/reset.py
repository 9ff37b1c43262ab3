"""Resetting a run: a new run that begins with part of its history.

The pages of a reset are prepared outside the fold (`refold`, fold.md rule 23); here they are collected, and
the new run opens with the last one. Behaviour: service/history/ndc/workflow_resetter.go of the real server.
"""

from __future__ import annotations

import hashlib
from copy import copy
from typing import Any

import msgspec
from temporalio.api.enums.v1 import (
    EventType,
    ResetReapplyExcludeType,
    ResetReapplyType,
    UpdateAdmittedEventOrigin,
)
from temporalio.api.failure.v1 import Failure, ResetWorkflowFailureInfo
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionUpdateAdmittedEventAttributes,
)
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest, ResetWorkflowExecutionResponse

from streams import avro, bodies
from streams.history import closing, deletion, errors, facts, state, visibility, workflow_tasks
from streams.history.calls import handles_body, handles_call
from streams.history.closing import CAUSE, RESETTER
from streams.history.errors import Rejected
from streams.history.evolve import applies_fact, emit, emits_fact
from streams.history.lookup import find_run
from streams.history.opening import RUNNING
from streams.history.run import ATTRIBUTES, Run
from streams.history.state import COPIED_CORE, COPYING, REAPPLY, Copying, number_id
from streams.history.step import Step
from streams.history.values import copy_fields
from streams.runtime.records import Reply
from streams.topology import HISTORY, TIMERS, workflow_key

EVENT = EventType
EXCLUDE = ResetReapplyExcludeType

FORGET_AFTER_MS = 600_000
"""How long the pages of a reset may take to come; after that those that came are forgotten."""

OUTSIDE = "Workflow task finish ID must be > 1 && <= workflow last event ID."
MOVED_ON = "the run has moved on since its events were read"
"""What the last page is answered with (ABORTED) when the runs have later events than were looked at."""

_SERVER = "history-service"

_CHILD_EVENTS = frozenset(
    (
        EVENT.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
        EVENT.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
        EVENT.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        EVENT.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        EVENT.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        EVENT.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        EVENT.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
    )
)
_CHILD_BEGINNINGS = frozenset(
    (
        EVENT.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
        EVENT.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
    )
)


class PageCollected(msgspec.Struct, frozen=True):
    """A page of a reset is here; `copying` is how far it has come with it."""

    page: bodies.ResetPrepared
    copying: Copying


class Reborn(msgspec.Struct, frozen=True):
    """The run that a reset makes is there, with the state that its copied events make."""

    core: state.Core


class Resent(msgspec.Struct, frozen=True):
    """A copied request to another workflow goes out again: the answer to the first went to the other run."""

    event: HistoryEvent


# --- which later events come again ---


def excluded(request: ResetWorkflowExecutionRequest) -> frozenset[int]:
    """The ResetReapplyExcludeType values that a request asks for, the older field for it included."""
    types = set(map(int, request.reset_reapply_exclude_types))
    if request.reset_reapply_type == ResetReapplyType.RESET_REAPPLY_TYPE_SIGNAL:
        types.add(EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE)
    elif request.reset_reapply_type == ResetReapplyType.RESET_REAPPLY_TYPE_NONE:
        types |= {EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL, EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE}
    return frozenset(types)


def excludes_all(types: frozenset[int]) -> bool:
    """Whether nothing comes again that was recorded before the reset."""
    return all(value in types for value in EXCLUDE.values() if value)


def comes_again(event: HistoryEvent, types: frozenset[int]) -> bool:
    """Whether an event after the reset point is one for the new run too.

    When all types are excluded, only events that the reset itself adds to the base run are asked about.
    """
    kind = event.event_type
    if kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
        return EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL not in types
    if kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
        return EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE not in types
    if kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
        # Without a request it follows an admitted event, which comes again in its place.
        accepted = event.workflow_execution_update_accepted_event_attributes
        with_request = accepted.HasField("accepted_request")
        return with_request and EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE not in types
    return kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED or kind in _CHILD_EVENTS


# --- collecting ---


@handles_call("PrepareReset")
def prepare_call(step: Step, call: bodies.Call) -> None:
    """Tell whoever prepares a reset where to start from, or that it has been done."""
    request = ResetWorkflowExecutionRequest.FromString(call.request)
    run = find_run(step, call.run_id)
    next_event_id = run.core.next_event_id
    if not 1 < request.workflow_task_finish_event_id < next_event_id:
        raise errors.invalid(OUTSIDE)
    current = step.current
    if current is None:
        raise errors.workflow_missing(step.workflow_id)
    done = current.run_id if current.request_id == request.request_id else ""
    answer = avro.encode(bodies.ResetBase(run.core.run_id, next_event_id, done))
    # Whoever prepares it reads up to the last event, and the last ones may be in no store yet.
    step.context.reply(
        step.correlation,
        Reply(body=answer, attach_run=run.core.run_id, attach_first=1, attach_last=next_event_id - 1),
    )


@handles_body(bodies.ResetPrepared)
def collect(step: Step, body: bodies.ResetPrepared) -> None:
    """Keep a page; with the last one, reset."""
    run = step.run(body.new_run_id)
    before: Copying = run.entity.get(COPYING) or Copying(body.base_run_id, 0, 1, 0, 0, b"")
    if run.exists or body.page != before.next_page or body.first_event_id != before.next_event_id:
        raise Rejected(errors.UNAVAILABLE, "the pages of this reset were forgotten")
    run.note(
        PageCollected(
            body,
            msgspec.structs.replace(
                before,
                next_page=body.page + 1,
                next_event_id=body.first_event_id + len(body.events),
                size_bytes=before.size_bytes + sum(map(len, body.events)),
                reapplied=before.reapplied + len(body.reapply),
                last_hash=point_hash(body.events[-1]) if body.events else before.last_hash,
            ),
        )
    )
    if body.last:
        _reset(step, run, body)


def point_hash(event: bytes) -> bytes:
    """What pins the event a reset goes back to."""
    return hashlib.sha256(event).digest()


@applies_fact(PageCollected)
def _collected(run: Run, fact: PageCollected) -> None:
    page, copying = fact.page, fact.copying
    run.put(COPYING, "", copying)
    for part in page.parts:
        run.put(part.kind, part.id, avro.decode(state.KINDS[part.kind], part.data))
    for number, event in enumerate(page.reapply, copying.reapplied - len(page.reapply)):
        run.put(REAPPLY, number_id(number), state.BufferedEvent(event))


@emits_fact(PageCollected)
def _copy(run: Run, fact: PageCollected) -> None:
    """The copied events go into the new run's history page by page; a timer forgets them if no more come."""
    page, step = fact.page, run.step
    key = workflow_key(page.namespace, page.workflow_id)
    if page.events:
        last = page.first_event_id + len(page.events) - 1
        batch = bodies.HistoryBatch(
            page.namespace,
            page.workflow_id,
            page.new_run_id,
            page.first_event_id,
            last,
            step.now_ms,
            page.events,
        )
        step.context.emit(HISTORY, key, batch)
    if page.page == 0 and not run.exists:
        due_ms = step.now_ms + FORGET_AFTER_MS
        timer = bodies.SetTimer(page.namespace, page.workflow_id, page.new_run_id, due_ms, 0)
        step.context.emit(TIMERS, key, timer)


def forget(run: Run) -> None:
    """Drop the pages of a reset that is not to be, if there are any."""
    if run.entity.get(COPYING) is not None:
        namespace, workflow_id, run_id = run.entity.key.split("\x1f")
        run.note(deletion.Removed(namespace, workflow_id, run_id, 0, timer_out=True))


# --- resetting ---


def _reset(step: Step, run: Run, body: bodies.ResetPrepared) -> None:
    request = ResetWorkflowExecutionRequest.FromString(body.request)
    base, current = step.run(body.base_run_id), step.current
    if not base.exists or current is None:
        forget(run)
        step.reply_error(errors.run_missing(step.workflow_id, body.base_run_id))
        return
    if current.request_id == request.request_id:
        forget(run)
        step.reply(ResetWorkflowExecutionResponse(run_id=current.run_id))
        return
    if any(_next_event_id(step, pair.key) != pair.value for pair in body.seen):
        step.reply_error(Rejected(errors.ABORTED, MOVED_ON))
        return
    copying: Copying = run.entity.get(COPYING)
    core: state.Core | None = run.entity.get(COPIED_CORE)
    if core is None or core.next_event_id != copying.next_event_id or copying.last_hash != body.point_hash:
        forget(run)
        step.reply_error(Rejected(errors.INTERNAL, "the pages of this reset do not fit together"))
        return
    again = [HistoryEvent.FromString(part.event) for _, part in run.entity.items(REAPPLY)]
    ended = _end_current(step, base, body.new_run_id, request)
    if body.seen[-1].key == current.run_id:
        types = excluded(request)
        again += [event for event in ended if comes_again(event, types)]
    _open(step, run, core, request)
    _fail_task(run, base, request)
    _revive(run)
    for event in again:
        _reapply(run, event)
    workflow_tasks.schedule(run)
    step.reply(ResetWorkflowExecutionResponse(run_id=body.new_run_id))


def _next_event_id(step: Step, run_id: str) -> int:
    run = step.run(run_id)
    return run.core.next_event_id if run.exists else 0


def _end_current(
    step: Step, base: Run, new_run_id: str, request: ResetWorkflowExecutionRequest
) -> list[HistoryEvent]:
    """Terminate the current run if it is open. Returns the events that this adds to it."""
    base.change_core(reset_run_id=new_run_id)
    assert step.current is not None
    current = step.run(step.current.run_id)
    if not current.is_open:
        return []
    known = len(current.history)
    closing.terminate(current, request.reason, RESETTER)
    return current.history[known:]


def _open(step: Step, run: Run, core: state.Core, request: ResetWorkflowExecutionRequest) -> None:
    """Make the run from its copied state: its times count from now."""
    now_ms = step.now_ms
    execution_expires_ms = now_ms + core.execution_timeout_ms if core.execution_timeout_ms else 0
    run_expires_ms = now_ms + core.run_timeout_ms if core.run_timeout_ms else 0
    if run_expires_ms and execution_expires_ms:
        run_expires_ms = min(run_expires_ms, execution_expires_ms)
    run.note(
        Reborn(
            msgspec.structs.replace(
                core,
                start_ms=now_ms,
                execution_start_ms=now_ms + core.execution_start_ms - core.start_ms,
                execution_expires_ms=execution_expires_ms,
                run_expires_ms=run_expires_ms,
                create_request_id=request.request_id,
                copied_event_id=core.next_event_id - 1,
            )
        )
    )
    step.set_current(
        state.Current(
            run_id=core.run_id,
            request_id=request.request_id,
            status=RUNNING,
            start_ms=now_ms,
            first_run_id=core.first_run_id,
        )
    )


@applies_fact(Reborn)
def _reborn(run: Run, fact: Reborn) -> None:
    for kind in (COPYING, COPIED_CORE, REAPPLY):
        for id, _ in run.entity.items(kind):
            run.put(kind, id, None)
    run.put(state.CORE, "", copy(fact.core))  # The step changes it further; the fact has to stay what it was.


@emits_fact(Reborn)
def _show(run: Run, fact: Reborn) -> None:
    visibility.show(run)


def _fail_task(run: Run, base: Run, request: ResetWorkflowExecutionRequest) -> None:
    """End the workflow task at the reset point: the event tells the worker, and everybody, of the reset."""
    if run.task is None:
        workflow_tasks.schedule(run, dispatch=False)
    assert run.task is not None
    if not run.task.started_event_id:
        workflow_tasks.start(run, request_id=run.step.derived_id("reset", run.core.run_id), identity=_SERVER)
    workflow_tasks.fail(
        run,
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
        Failure(message=request.reason, reset_workflow_failure_info=ResetWorkflowFailureInfo()),
        _SERVER,
        attributes={"base_run_id": base.core.run_id, "new_run_id": run.core.run_id},
    )
    run.change_core(task_attempt=1)


def _revive(run: Run) -> None:
    """Have what the copied part left pending go on: activities start anew, timers keep their time.

    What another workflow was asked for is asked for again. A child is asked for too: it may run already, for the base
    run, and then goes on under the new run. One that the base run was told of as started is not asked about: if it
    ended after the base run and before the reset, the new run waits for it in vain, as on the real server.
    """
    now_ms = run.step.now_ms
    for _, activity in run.entity.items(state.ACTIVITY):
        scheduled = msgspec.structs.replace(activity, first_scheduled_ms=now_ms, attempt_scheduled_ms=now_ms)
        run.note(facts.ActivityDispatched(scheduled))
    for _, child in run.entity.items(state.CHILD):
        if not child.started:
            kind = EVENT.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
            run.note(Resent(HistoryEvent(event_id=child.initiated_event_id, event_type=kind)))
    for part_kind, event_type in (
        (state.EXTERNAL_SIGNAL, EVENT.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED),
        (state.EXTERNAL_CANCEL, EVENT.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED),
    ):
        for _, external in run.entity.items(part_kind):
            event = HistoryEvent(event_id=external.initiated_event_id, event_type=event_type)
            getattr(event, ATTRIBUTES[event_type]).ParseFromString(external.initiated)
            run.note(Resent(event))


@applies_fact(Resent)
def _resent(run: Run, fact: Resent) -> None:
    """It is pending since the event that was copied."""


@emits_fact(Resent)
def _resend(run: Run, fact: Resent) -> None:
    emit(run, fact.event)


def _reapply(run: Run, event: HistoryEvent) -> None:
    """Record an event from after the reset point again."""
    extra: dict[str, Any] = {"links": event.links} if event.links else {}
    kind = event.event_type
    if kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
        signaled = event.workflow_execution_signaled_event_attributes
        again = WorkflowExecutionSignaledEventAttributes(
            signal_name=signaled.signal_name, identity=signaled.identity
        )
        copy_fields(signaled, again, "input", "header")
        run.record(kind, again, **extra)
    elif kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
        run.record(kind, event.workflow_execution_update_admitted_event_attributes)
    elif kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
        run.record(
            EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED,
            WorkflowExecutionUpdateAdmittedEventAttributes(
                request=event.workflow_execution_update_accepted_event_attributes.accepted_request,
                origin=UpdateAdmittedEventOrigin.UPDATE_ADMITTED_EVENT_ORIGIN_REAPPLY,
            ),
        )
    elif kind == EVENT.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED:
        attributes = event.workflow_execution_options_updated_event_attributes
        run.record(kind, attributes, worker_may_ignore=True, **extra)
    else:
        _reapply_child(run, event)


def _reapply_child(run: Run, event: HistoryEvent) -> None:
    """What became of a child after the point, for one that was initiated before it."""
    event = HistoryEvent.FromString(event.SerializeToString())
    attributes: Any = getattr(event, ATTRIBUTES[event.event_type])
    child: state.Child | None = run.entity.get(state.CHILD, number_id(attributes.initiated_event_id))
    begins = event.event_type in _CHILD_BEGINNINGS
    if child is None or (begins and child.started):
        return
    if not begins:
        attributes.started_event_id = child.started_event_id
    run.record(event.event_type, attributes)
