"""Clients' calls that wait for something of a run: a new event, its close, a stage of an update."""

from __future__ import annotations

from streams import avro, bodies
from streams.history import state, workflow_tasks
from streams.history.calls import handles_call
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.step import Step
from streams.runtime.records import Correlation, Reply

MAX_WAITERS = 2_000
"""Calls that may wait on one run; the oldest is answered when another comes."""


def add(run: Run, waiter: state.Waiter) -> None:
    """Have a call wait. Those that the gateway has answered by itself are forgotten on the way."""
    now_ms = run.step.now_ms
    items = run.entity.items(state.WAITER)
    for id, other in items:
        if other.deadline_ms <= now_ms:
            run.set_part(state.WAITER, id, None)
    if len(items) >= MAX_WAITERS:
        run.set_part(state.WAITER, items[0][0], None)
    number = int(items[-1][0]) + 1 if items else 0
    run.set_part(state.WAITER, state.number_id(number), waiter)


def correlation(waiter: state.Waiter) -> Correlation:
    """Where the answer of a waiting call goes."""
    return Correlation(waiter.gateway, waiter.epoch, waiter.call_id)


@handles_call("ReadHistory")
def read_history(step: Step, call: bodies.Call) -> None:
    """Tell what the history of a run is: at once, or when it has grown or closed (Call.wait)."""
    run = find_run(step, call.run_id)
    core = run.core
    waits = call.wait == "close" or (
        call.wait == "new_event" and core.next_event_id - 1 <= call.after_event_id
    )
    if not waits or not run.is_open:
        _answer(run, history_state(run), step.correlation, call.wait, call.after_event_id)
        return
    assert step.correlation is not None
    where = step.correlation
    add(
        run,
        state.Waiter(
            kind=call.wait,
            gateway=where.gateway,
            epoch=where.epoch,
            call_id=where.id,
            deadline_ms=call.deadline_ms,
            after_event_id=call.after_event_id,
        ),
    )


def history_state(run: Run) -> bytes:
    """What the owner knows of the run's history, encoded."""
    core = run.core
    pending = workflow_tasks.pending_events(run) if run.is_open else ()
    return avro.encode(
        bodies.HistoryState(
            run_id=core.run_id,
            last_event_id=core.next_event_id - 1,
            closed=not run.is_open,
            workflow_type=core.workflow_type,
            new_run_id=core.next_run_id,
            transient=tuple(event.SerializeToString(deterministic=True) for event in pending),
        )
    )


def _answer(run: Run, answer: bytes, where: Correlation | None, wait: str, after_event_id: int) -> None:
    """Answer a read, naming the events that it asks for: they travel beside the answer."""
    last = run.core.next_event_id - 1
    first = last if wait == "close" else after_event_id + 1
    reply = Reply(body=answer)
    if first <= last:
        reply = Reply(body=answer, attach_run=run.core.run_id, attach_first=first, attach_last=last)
    run.step.context.reply(where, reply)


def grown(run: Run) -> None:
    """The history has new events: answer those who waited for one."""
    answer = b""
    for id, waiter in run.entity.items(state.WAITER):
        if waiter.kind == "new_event" and run.core.next_event_id - 1 > waiter.after_event_id:
            answer = answer or history_state(run)
            _answer(run, answer, correlation(waiter), waiter.kind, waiter.after_event_id)
            run.set_part(state.WAITER, id, None)


def closed(run: Run) -> None:
    """The run closed: answer everybody who waits for events."""
    answer = history_state(run)
    for id, waiter in run.entity.items(state.WAITER):
        if waiter.kind in ("new_event", "close"):
            _answer(run, answer, correlation(waiter), waiter.kind, waiter.after_event_id)
            run.set_part(state.WAITER, id, None)
