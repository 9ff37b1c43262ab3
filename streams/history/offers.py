"""The next workflow task of a run starts at once for the worker that completed the last one, if it offered to take it.

Its sticky queue would lead it to the same worker, two hops of the log later (decision 0017).
"""

from __future__ import annotations

from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.enums.v1 import EventType

from streams import bodies
from streams.history import facts, responses, workflow_tasks
from streams.history.run import Run
from streams.history.state import Offer
from streams.runtime.records import Correlation

SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED


def of_call(run: Run, call: bodies.Call, identity: str) -> Offer | None:
    """What the worker offers that completes a task by this call of the run's step."""
    where = run.step.correlation
    if not call.offer_id or where is None or not run.step.takes_offers:
        return None
    return Offer(where.gateway, where.epoch, call.offer_id, call.offer_deadline_ms, identity)


def take(run: Run) -> None:
    """Start the sticky task that this step scheduled for the worker that takes it: it need not go to its queue."""
    core, task = run.core, run.task
    offer = core.offer
    if offer is None or task is None or task.started_event_id or not task.sticky:
        return
    if any(event.event_type == SIGNALED for event in run.history):
        return
    if run.step.now_ms > offer.deadline_ms or not _was_scheduled_now(run, task.stamp):
        return
    where = Correlation(offer.gateway, offer.epoch, offer.id)
    version = WorkerVersionStamp(build_id=core.build_id) if core.build_id else None
    run.change_core(offer=None)
    workflow_tasks.start_for_poll(run, where, offer.identity, version)
    responses.reply_poll(run, where, 0)


def _was_scheduled_now(run: Run, stamp: int) -> bool:
    return any(
        isinstance(fact, facts.TaskScheduled) and fact.dispatch and fact.task.stamp == stamp
        for fact in run.facts
    )
