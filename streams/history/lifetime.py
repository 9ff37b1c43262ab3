"""The deadlines of a run as a whole: its first task's delay, its timeouts, and its retention once closed."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType, RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure, TimeoutFailureInfo
from temporalio.api.history.v1 import WorkflowExecutionTimedOutEventAttributes

from streams.history import closing, continuing, deletion, workflow_tasks
from streams.history.closing import CAUSE
from streams.history.opening import begin_delayed
from streams.history.run import Run


def expire(run: Run, id: str) -> None:
    """A deadline of the run itself is past."""
    core, now_ms = run.core, run.step.now_ms
    if core.close_ms:
        deletion.delete(run)
        return
    for due_ms in (core.run_expires_ms, core.execution_expires_ms):
        if due_ms and due_ms <= now_ms:
            time_out(run)
            return
    if core.first_task_due_ms and core.first_task_due_ms <= now_ms:
        begin_delayed(run)


def time_out(run: Run) -> None:
    """The run took too long. Its retry policy or cron schedule may run it again, within the execution timeout."""
    core = run.core
    successor, retry_state = None, RetryState.RETRY_STATE_TIMEOUT
    failure = Failure(
        message="workflow timeout",
        source="Server",
        timeout_failure_info=TimeoutFailureInfo(timeout_type=TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE),
    )
    if not core.execution_expires_ms or core.execution_expires_ms > run.step.now_ms:
        successor, retry_state = continuing.after_failure(run, failure)
    if run.task_running:
        workflow_tasks.fail(
            run, CAUSE.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND, None, "history-service"
        )
    run.flush()
    closing.close(
        run,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        WorkflowExecutionTimedOutEventAttributes(
            retry_state=retry_state, new_execution_run_id=successor.run_id if successor else ""
        ),
    )
    if successor:
        continuing.follow(run, successor, failure=failure)
