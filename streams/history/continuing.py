"""The run that follows another: by retry, by cron schedule, or as new.

Behaviour: the real server's retry.go and continue-as-new (service/history/workflow).
"""

from __future__ import annotations

from temporalio.api.common.v1 import Payloads, RetryPolicy
from temporalio.api.enums.v1 import ContinueAsNewInitiator, RetryState
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes

from streams.history import cron, retries, state, worker_versions
from streams.history.opening import Opening, open_run, start_attributes, start_links
from streams.history.run import Run
from streams.history.values import to_duration, to_timestamp

INITIATOR = ContinueAsNewInitiator

MIN_RUN_MS = 1_000
"""Runs of a chain begin at least this far apart, so that one cannot spin."""


class Successor:
    """The run to follow: its id, how long its first task waits, and who starts it."""

    def __init__(self, run_id: str, backoff_ms: int, initiator: INITIATOR.ValueType) -> None:
        self.run_id = run_id
        self.backoff_ms = backoff_ms
        self.initiator = initiator


def after_failure(run: Run, failure: Failure) -> tuple[Successor | None, RetryState.ValueType]:
    """What follows a failed run: a retry, else the next cron run, else nothing."""
    attributes = start_attributes(run)
    verdict = RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
    if attributes.HasField("retry_policy"):
        backoff_ms, verdict = _retry(run, attributes.retry_policy, failure)
        if verdict == RetryState.RETRY_STATE_IN_PROGRESS:
            return Successor(_new_id(run), backoff_ms, INITIATOR.CONTINUE_AS_NEW_INITIATOR_RETRY), verdict
    return by_cron(run, attributes), verdict


def _retry(run: Run, policy: RetryPolicy, failure: Failure) -> tuple[int, RetryState.ValueType]:
    if not retries.is_retryable(failure, policy.non_retryable_error_types):
        return 0, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    core = run.core
    asked_ms = retries.requested_delay_ms(failure)
    return retries.next_interval(policy, core.attempt, run.step.now_ms, core.execution_expires_ms, asked_ms)


def by_cron(run: Run, attributes: WorkflowExecutionStartedEventAttributes | None = None) -> Successor | None:
    """The next run of a cron workflow."""
    schedule = (attributes or start_attributes(run)).cron_schedule
    if not schedule:
        return None
    backoff_ms = cron.backoff_ms(schedule, run.core.execution_start_ms, run.step.now_ms)
    if backoff_ms < 0:
        return None
    return Successor(_new_id(run), backoff_ms, INITIATOR.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE)


def _new_id(run: Run) -> str:
    return run.step.derived_id("next run", run.core.run_id)


def min_backoff_ms(run: Run, backoff_ms: int) -> int:
    """The backoff, made longer when the run that ends was very short.

    A run that ends before its first task was due (a signal or a reset let it begin) makes it longer still.
    """
    lifetime_ms = run.step.now_ms - run.core.execution_start_ms
    if lifetime_ms + backoff_ms < MIN_RUN_MS:
        return MIN_RUN_MS - lifetime_ms
    return backoff_ms


def follow(
    run: Run, successor: Successor, *, result: Payloads | None = None, failure: Failure | None = None
) -> Run:
    """Open the run that retries or comes next on the cron schedule, started like the first one."""
    attributes = start_attributes(run)
    last_result = attributes.last_completion_result if attributes.HasField("last_completion_result") else None
    retry = successor.initiator == INITIATOR.CONTINUE_AS_NEW_INITIATOR_RETRY
    if not retry and failure is None:
        last_result = result
    if retry:
        last_result = None
    attributes.ClearField("last_completion_result")
    attributes.ClearField("continued_failure")
    if last_result is not None:
        attributes.last_completion_result.CopyFrom(last_result)
    if failure is not None:
        attributes.continued_failure.CopyFrom(failure)
    attributes.attempt = run.core.attempt + 1 if retry else 1
    return open_next(run, attributes, successor)


def open_next(run: Run, attributes: WorkflowExecutionStartedEventAttributes, successor: Successor) -> Run:
    """Open a run in the chain of `run`: same parent, same execution deadline, same links."""
    core = run.core
    attributes.continued_execution_run_id = core.run_id
    attributes.first_execution_run_id = core.first_run_id
    attributes.original_execution_run_id = successor.run_id
    attributes.initiator = successor.initiator
    attributes.identity = ""
    attributes.eager_execution_accepted = False
    attributes.first_workflow_task_backoff.CopyFrom(to_duration(min_backoff_ms(run, successor.backoff_ms)))
    config = run.step.namespace_config()
    points = worker_versions.rolled_over(run, config.retention_ms if config else 0)
    attributes.prev_auto_reset_points.CopyFrom(points)
    if points.points:
        run.set_part(state.RESET_POINTS, "", state.Blob(points.SerializeToString(deterministic=True)))
    attributes.ClearField("workflow_execution_expiration_time")
    if core.execution_expires_ms:
        attributes.workflow_execution_expiration_time.CopyFrom(to_timestamp(core.execution_expires_ms))
    return open_run(
        run.step,
        Opening(
            run_id=successor.run_id,
            attributes=attributes,
            request_id=run.step.derived_id("request", successor.run_id),
            links=start_links(run),
        ),
    )
