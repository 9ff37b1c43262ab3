"""The history processor: owns workflow state, keyed namespace/workflow_id.

A record of `commands` comes in; the handler registered for it decides; facts evolve the runs touched; emissions
derive from the facts: history events, tasks, timers, visibility, replies, and commands to other workflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from temporalio.api.workflowservice.v1 import RespondWorkflowTaskCompletedRequest

from streams import bodies
from streams.history import arming, closing, handlers, size_limits, state, telling, updates, visibility
from streams.history.errors import BadCommand, Rejected, invalid
from streams.history.finish import finish
from streams.history.namespaces import REGISTRY_BODIES, RegistryView, fold_registry
from streams.history.size_limits import RunTooLargeError
from streams.history.step import CURRENT, EXECUTIONS, REGISTRY_TABLE, REQUEST, Step, split_run_key
from streams.limits import Limits
from streams.runtime.context import Context
from streams.runtime.records import Record, Reply
from streams.runtime.tables import TableSpec
from streams.topology import COMMANDS

_RUN_BODIES = (bodies.Call, bodies.StartTask, bodies.FireTimer, bodies.ChildClosed, bodies.ExternalAnswered)
"""Bodies that name the run they are for."""


class HistoryProcessor:
    """Folds `commands` into workflow state (design rules 1 and 2)."""

    name = "history"
    input_topic = COMMANDS
    tables: Sequence[TableSpec] = (
        TableSpec(EXECUTIONS, state.KINDS),
        TableSpec(CURRENT, {CURRENT: state.Current, REQUEST: state.AttachedRequest}),
        TableSpec(REGISTRY_TABLE, {"namespace": bodies.NamespaceConfig, "limits": bodies.LimitsChanged}),
    )

    def __init__(self) -> None:
        self._registry = RegistryView()

    def fold(self, context: Context, record: Record) -> None:
        """Apply one record."""
        body = record.body
        if type(body) in REGISTRY_BODIES:
            fold_registry(context, body)
            return
        limits = self._registry.limits(context)
        try:
            _attempt(context, body, limits, handlers.decide)
        except BadCommand as error:
            context.revert()
            _attempt(context, body, limits, partial(handlers.fail_for_bad_command, error=error))

    def due(self, context: Context, key: str, payload: int) -> None:
        """Fire the near deadline of a run, or tell what is yet to be told of it."""
        if not key.startswith(telling.DUE):
            arming.fire(context, key, payload)
            return
        namespace, workflow_id, run_id = split_run_key(key.removeprefix(telling.DUE))
        step = Step(context, namespace, workflow_id, self._registry.limits(context))
        run = step.run(run_id)
        if run.exists and telling.take(run).show:
            visibility.show(run)
        finish(step)

    def judged(self, context: Context, record: Record, reason: str) -> None:
        """Mark the run that a record could not be applied to, so that describe and metrics show it."""
        body = record.body
        run_id = getattr(body, "run_id", "")
        if not run_id or not isinstance(body, _RUN_BODIES):
            return
        namespace, workflow_id = body.namespace, body.workflow_id
        step = Step(context, namespace, workflow_id, self._registry.limits(context))
        run = step.run(run_id)
        if run.exists and run.is_open:
            run.change_core(faulted=reason[:1000])
            finish(step)


def _attempt(context: Context, body: Any, limits: Limits, decide: Callable[[Step, Any], None]) -> None:
    """Decide on a record and let it take effect; or refuse it, or terminate the run that it makes too large.

    Raises BadCommand.
    """
    step = Step(context, body.namespace, body.workflow_id, limits)
    try:
        decide(step, body)
        size_limits.check(step)
        finish(step)
    except Rejected as error:
        context.revert()
        context.reply(
            step.correlation, Reply(code=error.code, message=error.message, body=error.status_bytes())
        )
    except RunTooLargeError as error:
        context.revert()
        _terminate(Step(context, body.namespace, body.workflow_id, limits), body, error)


def _terminate(step: Step, body: Any, error: RunTooLargeError) -> None:
    """A caller is told why the run had to end; any other record meets a closed run.

    A speculative task leaves no trace: the real server forgets what it does not store.
    """
    run = step.run(error.run_id)
    if run.task is not None and run.task.kind == state.SPECULATIVE:
        run.set_part(state.WORKFLOW_TASK, "", None)
    if isinstance(body, bodies.Call) and body.method == "RespondWorkflowTaskCompleted":
        updates.end_accepted(run, RespondWorkflowTaskCompletedRequest.FromString(body.request))
    closing.terminate(run, error.reason, size_limits.TERMINATED_BY)
    if isinstance(body, bodies.Call):
        step.reply_error(invalid(error.reason))
    else:
        handlers.decide(step, body)
    finish(step)
