"""The end of a run's record: by a client's wish, or when its retention is over.

Behaviour: service/history/api/deleteworkflow and service/history/deletemanager of the real server.
"""

from __future__ import annotations

import msgspec
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionResponse

from streams import bodies
from streams.history import arming, closing, errors, state, waiters
from streams.history.calls import handles_call
from streams.history.evolve import applies_fact, emits_fact
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.step import CURRENT, REQUEST, Step, current_key
from streams.runtime.context import Context
from streams.runtime.records import Correlation
from streams.topology import HISTORY, TIMERS, VISIBILITY, run_key, workflow_key

REASON = "Delete workflow execution"
IDENTITY = "history-service"


class Removed(msgspec.Struct, frozen=True):
    """The run is gone with all its parts; `timer_out` tells that the timer processor may have a timer of it."""

    namespace: str
    workflow_id: str
    run_id: str
    armed_version: int
    timer_out: bool


class RemovalDue(msgspec.Struct, frozen=True):
    """The run, just closed, is not to be kept: it goes as soon as its close has been told to all."""


@handles_call("DeleteWorkflowExecution")
def delete_call(step: Step, call: bodies.Call) -> None:
    """Delete a run: a closed one at once, an open one right after it has been terminated."""
    run = find_run(step, call.run_id)
    if run.is_open:
        closing.terminate(run, REASON, IDENTITY)
        run.note(RemovalDue())
    else:
        delete(run)
    step.reply(DeleteWorkflowExecutionResponse())


def delete(run: Run) -> None:
    """Remove a closed run; whoever still waits for something of it is told that it is not there."""
    step, core = run.step, run.core
    missing = errors.run_missing(core.workflow_id, core.run_id)
    for _, waiter in run.entity.items(state.WAITER):
        step.reply_error(missing, waiters.correlation(waiter))
    for _, query in run.entity.items(state.QUERY):
        step.reply_error(missing, Correlation(query.gateway, query.epoch, query.call_id))
    _forget_current(step, core.run_id)
    timer_out = arming.is_far(run)
    run.note(Removed(core.namespace, core.workflow_id, core.run_id, core.armed_version, timer_out))


def _forget_current(step: Step, run_id: str) -> None:
    """Drop what the workflow id knows of the run. An earlier run does not become current again."""
    current = step.current
    if current is not None and current.run_id == run_id:
        step.set_current(None)
    entity = step.context.table(CURRENT).entity(current_key(step.namespace, step.workflow_id))
    for id, attached in entity.items(REQUEST):
        if attached.run_id == run_id:
            entity.drop(REQUEST, id)


@applies_fact(Removed)
def _removed(run: Run, fact: Removed) -> None:
    run.entity.clear()


@emits_fact(Removed)
def _tell_removed(run: Run, fact: Removed) -> None:
    context, key = run.step.context, workflow_key(fact.namespace, fact.workflow_id)
    arming.disarm_near(context, run.entity.key)
    if fact.timer_out:
        disarmed = bodies.SetTimer(fact.namespace, fact.workflow_id, fact.run_id, 0, fact.armed_version + 1)
        context.emit(TIMERS, key, disarmed)
    tell_deleted(context, fact.namespace, fact.workflow_id, fact.run_id)


def tell_deleted(context: Context, namespace: str, workflow_id: str, run_id: str) -> None:
    """Have both stores forget a run. Visibility has its rows by run since logic version 2, deletions among them."""
    key = workflow_key(namespace, workflow_id)
    if context.logic_version < 2:
        context.emit(HISTORY, key, bodies.RunDeleted(namespace, workflow_id, run_id))
        return
    context.emit(HISTORY, key, bodies.HistoryDeleted(namespace, workflow_id, run_id))
    context.emit(
        VISIBILITY,
        run_key(namespace, workflow_id, run_id),
        bodies.RunDeleted(namespace, workflow_id, run_id),
    )


@applies_fact(RemovalDue)
def _removal_due(run: Run, fact: RemovalDue) -> None:
    """Nothing changes yet: closing sets the retention when its event is told, and the emitter comes after."""


@emits_fact(RemovalDue)
def _expire_now(run: Run, fact: RemovalDue) -> None:
    """Retention is over at once. The timer's record comes after those that tell of the close."""
    run.change_core(retention_due_ms=run.step.now_ms)
