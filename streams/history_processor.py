"""The history processor: owns workflow state, keyed namespace/workflow_id.

A record of `commands` comes in; the handler registered for it decides; facts evolve the runs touched; emissions
derive from the facts: history events, tasks, timers, visibility, replies, and commands to other workflows.
"""

from __future__ import annotations

from collections.abc import Sequence

from streams import bodies
from streams.history import handlers, state
from streams.history.errors import BadCommand, Rejected
from streams.history.finish import finish
from streams.history.namespaces import RegistryView, fold_registry
from streams.history.step import CURRENT, EXECUTIONS, REGISTRY_TABLE, REQUEST, Step
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
        if fold_registry(context, body):
            return
        namespace, workflow_id = body.namespace, body.workflow_id
        limits = self._registry.limits(context)
        step = Step(context, namespace, workflow_id, limits)
        try:
            handlers.decide(step, body)
            finish(step)
        except Rejected as error:
            context.revert()
            _refuse(context, record, error)
        except BadCommand as error:
            context.revert()
            self._fail_task(Step(context, namespace, workflow_id, limits), record, error)

    def _fail_task(self, step: Step, record: Record, error: BadCommand) -> None:
        try:
            handlers.fail_for_bad_command(step, record.body, error)
            finish(step)
        except Rejected as rejected:
            step.context.revert()
            _refuse(step.context, record, rejected)

    def due(self, context: Context, key: str, payload: int) -> None:
        """Nothing is woken here: deadlines of runs are the timer processor's."""
        raise NotImplementedError(key)

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


def _refuse(context: Context, record: Record, error: Rejected) -> None:
    context.reply(
        record.correlation, Reply(code=error.code, message=error.message, body=error.status_bytes())
    )
