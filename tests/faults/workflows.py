"""The workflows and activities that run while the server is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

SHORT = timedelta(seconds=3)
QUICKLY = RetryPolicy(initial_interval=timedelta(milliseconds=20), backoff_coefficient=1.0)

executions: Counter[tuple[str, str, str, int]] = Counter()
"""How often each attempt was executed, by workflow id, run id, activity id and attempt."""


@activity.defn
async def work(failures: int) -> int:
    """Fails at its first `failures` attempts, and returns the attempt that succeeded."""
    info = activity.info()
    executions[info.workflow_id or "", info.workflow_run_id or "", info.activity_id, info.attempt] += 1
    if info.attempt <= failures:
        raise ApplicationError("not yet")
    return info.attempt


@dataclass
class Progress:
    """What a workflow has seen, over all its runs."""

    signals: list[str] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    finished: bool = False


@workflow.defn
class Child:
    """Works, tells its parent, and ends."""

    @workflow.run
    async def run(self, name: str) -> str:
        await _work(1)
        parent = workflow.info().parent
        assert parent is not None
        handle = workflow.get_external_workflow_handle(parent.workflow_id)
        await handle.signal(Order.hear, name)
        return name


@workflow.defn
class Order:
    """Works, sleeps and has children until it is told to finish. Keeps what signals and updates bring."""

    def __init__(self) -> None:
        self._progress = Progress()

    @workflow.run
    async def run(self, carried: Progress, runs_left: int) -> Progress:
        """Does one round of work in each run but the last, which waits for the finish."""
        progress = self._progress
        progress.signals[:0], progress.updates[:0] = carried.signals, carried.updates
        progress.said[:0] = carried.said
        progress.finished |= carried.finished
        name = f"child-{runs_left}"
        child = asyncio.create_task(
            workflow.execute_child_workflow(
                Child.run,
                name,
                id=f"{workflow.info().workflow_id}/{name}",
                task_timeout=timedelta(seconds=2),
            )
        )
        await asyncio.gather(_work(2), workflow.sleep(0.2), _work(0))
        assert await child == name
        await workflow.wait_condition(lambda: name in progress.said)
        if not runs_left:
            await workflow.wait_condition(lambda: progress.finished)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if runs_left:
            workflow.continue_as_new(args=[progress, runs_left - 1])
        return progress

    @workflow.signal
    def note(self, name: str) -> None:
        """Keep the name."""
        self._progress.signals.append(name)

    @workflow.signal
    def hear(self, name: str) -> None:
        """A child says its name."""
        self._progress.said.append(name)

    @workflow.signal
    def finish(self) -> None:
        """End soon."""
        self._progress.finished = True

    @workflow.update
    async def add(self, name: str) -> str:
        """Keep the name, some work later."""
        await _work(1)
        self._progress.updates.append(name)
        return name

    @add.validator
    def _validate_add(self, name: str) -> None:
        if name.startswith("wrong"):
            raise ValueError("a bad name")


async def _work(failures: int) -> int:
    return await workflow.execute_activity(work, failures, start_to_close_timeout=SHORT, retry_policy=QUICKLY)
