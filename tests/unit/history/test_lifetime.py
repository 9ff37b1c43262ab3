"""When a run has to be over."""

from __future__ import annotations

from tests.support.folding import START_MS
from tests.unit.history.support import Workflows, seconds


def test_a_start_delay_puts_off_the_run_timeout_but_not_the_execution_timeout() -> None:
    workflows = Workflows()
    workflows.start(
        workflow_start_delay=seconds(60),
        workflow_run_timeout=seconds(30),
        workflow_execution_timeout=seconds(80),
    )
    started = workflows.event("WORKFLOW_EXECUTION_STARTED")
    assert started.workflow_execution_expiration_time.ToMilliseconds() == START_MS + 80_000
    workflows.pass_time(79.9)
    assert workflows.waiting("workflow", "tq") == 1
    workflows.pass_time(0.1)
    assert workflows.kinds() == ["WORKFLOW_EXECUTION_TIMED_OUT"]


def test_the_run_timeout_counts_from_the_end_of_the_start_delay() -> None:
    workflows = Workflows()
    workflows.start(workflow_start_delay=seconds(60), workflow_run_timeout=seconds(30))
    workflows.pass_time(89.9)
    assert workflows.kinds() == []
    workflows.pass_time(0.1)
    assert workflows.kinds() == ["WORKFLOW_EXECUTION_TIMED_OUT"]


def test_a_start_delay_longer_than_the_execution_timeout_leaves_no_time_for_a_task() -> None:
    workflows = Workflows()
    workflows.start(workflow_start_delay=seconds(60), workflow_execution_timeout=seconds(10))
    workflows.pass_time(10)
    assert workflows.kinds() == ["WORKFLOW_EXECUTION_TIMED_OUT"]
    assert workflows.waiting("workflow", "tq") == 0
