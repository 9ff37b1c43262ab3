"""What holds between runs: who follows whom and when, what a reset takes along, what becomes of children."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import (
    ContinueAsNewInitiator,
    EventType,
    ParentClosePolicy,
    ResetReapplyExcludeType,
    WorkflowTaskFailedCause,
)
from temporalio.api.history.v1 import HistoryEvent

from tests.simulation.checked import Violation

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from tests.simulation.judge import RunHistory

E = EventType
BY = ContinueAsNewInitiator
EXCLUDE = ResetReapplyExcludeType
RESET = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
Runs = Mapping[str, "RunHistory"]

MIN_RUN_MS = 1_000
"""How far apart the beginnings of runs of a chain are at least."""

GRACE_MS = 10_000
"""How long after its parent's end a child may go on without having heard of it, whatever the trouble."""


CHILD_ENDS = frozenset(
    E.Value(f"EVENT_TYPE_{name}")
    for name in (
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
        "CHILD_WORKFLOW_EXECUTION_FAILED",
        "CHILD_WORKFLOW_EXECUTION_TIMED_OUT",
        "CHILD_WORKFLOW_EXECUTION_CANCELED",
        "CHILD_WORKFLOW_EXECUTION_TERMINATED",
        "START_CHILD_WORKFLOW_EXECUTION_FAILED",
    )
)


def require(condition: bool, message: str) -> None:
    """Raise Violation unless the condition holds."""
    if not condition:
        raise Violation(message)


def time_ms(event: HistoryEvent) -> int:
    """When it happened."""
    return event.event_time.seconds * 1000 + event.event_time.nanos // 1_000_000


def ms(duration: Duration) -> int:
    """A duration in ms."""
    return duration.seconds * 1000 + duration.nanos // 1_000_000


def reset_at(run_id: str, event: HistoryEvent) -> bool:
    """Whether this is the event with which a reset made the run."""
    if event.event_type != E.EVENT_TYPE_WORKFLOW_TASK_FAILED:
        return False
    failed = event.workflow_task_failed_event_attributes
    return failed.cause == RESET and failed.new_run_id == run_id


def check_chains(runs: Runs, updated: Container[str]) -> None:
    """Every run that follows another is the one that had to follow, and one had to.

    `updated` are the workflow ids that updates were sent to: a first task does not keep those waiting.
    """
    by_workflow: dict[str, list[RunHistory]] = {}
    for run in runs.values():
        if not run.born:
            continue
        by_workflow.setdefault(run.workflow_id, []).append(run)
        before = run.started.continued_execution_run_id
        if before and not run.copied:
            require(
                before in runs and runs[before].next_run_id == run.run_id,
                f"{run.workflow_id}: run {run.run_id} follows {before}, which names another",
            )
        _check_next(runs, run)
        if before and not run.copied and run.workflow_id not in updated:
            _check_first_task(run)
    for workflow_id, group in by_workflow.items():
        _check_one_at_a_time(workflow_id, group)


def _check_one_at_a_time(workflow_id: str, group: list[RunHistory]) -> None:
    group.sort(key=lambda run: (run.born_ms, time_ms(run.events[-1])))
    for earlier, later in itertools.pairwise(group):
        early_ms = time_ms(earlier.events[-1]) - later.born_ms
        require(
            early_ms <= 0,
            f"{workflow_id}: run {later.run_id} began {early_ms} ms before the end of {earlier.run_id}",
        )


def _check_next(runs: Runs, run: RunHistory) -> None:
    last, started = run.events[-1], run.started
    if not run.next_run_id:
        by = _due_to_follow(run)
        require(by is None, f"{run.workflow_id} {run.run_id} ended without the run that had to follow: {by}")
        return
    require(run.next_run_id in runs, f"{run.run_id} is followed by {run.next_run_id}, which never began")
    following = runs[run.next_run_id]
    what = f"{run.workflow_id}: run {following.run_id}, which follows {run.run_id},"
    after = following.started
    require(after.first_execution_run_id == started.first_execution_run_id, f"{what} is of another chain")
    require(time_ms(following.events[0]) == time_ms(last), f"{what} did not begin at its end")
    backoff_ms = ms(after.first_workflow_task_backoff)
    if last.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
        expected, attempt = BY.CONTINUE_AS_NEW_INITIATOR_WORKFLOW, 1
    elif _retry_is_due(run) and last.event_type != E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        expected, attempt = BY.CONTINUE_AS_NEW_INITIATOR_RETRY, started.attempt + 1
        interval_ms = _interval_ms(started)
        require(backoff_ms >= interval_ms, f"{what} waits {backoff_ms} ms instead of {interval_ms} ms")
    else:
        require(bool(started.cron_schedule), f"{what} should not be")
        expected, attempt = BY.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE, 1
        if not run.copied:
            _check_schedule(run, following, what)
    require(after.initiator == expected, f"{what} was started by {after.initiator}, not {expected}")
    require(after.attempt == attempt, f"{what} is attempt {after.attempt}, not {attempt}")
    as_new = expected == BY.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    # The command to continue as new names none.
    schedule = "" if as_new else started.cron_schedule
    require(after.cron_schedule == schedule, f"{what} has another schedule")


def _due_to_follow(run: RunHistory) -> str | None:
    """Why another run had to follow this one."""
    kind = run.events[-1].event_type
    failed = kind in (E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT)
    if kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
        return "continued as new"
    if kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT and _is_expired(run, 0):
        return None
    if failed and _retry_is_due(run):
        return "retried"
    if run.started.cron_schedule and (failed or kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED):
        return "scheduled"
    return None


def _retry_is_due(run: RunHistory) -> bool:
    started = run.started
    return (
        started.HasField("retry_policy")
        and started.attempt < started.retry_policy.maximum_attempts
        and not _is_expired(run, _interval_ms(started))
    )


def _interval_ms(started: Any) -> int:
    return int(ms(started.retry_policy.initial_interval) * 2 ** (started.attempt - 1))


def _is_expired(run: RunHistory, after_ms: int) -> bool:
    """Whether the chain is out of time so long after the run's end."""
    timeout_ms = ms(run.started.workflow_execution_timeout)
    if not timeout_ms:
        return False
    if run.copied:
        expires_ms = run.born_ms + timeout_ms
    else:
        expiration = run.started.workflow_execution_expiration_time
        expires_ms = expiration.seconds * 1000 + expiration.nanos // 1_000_000
    return time_ms(run.events[-1]) + after_ms > expires_ms - (0 if after_ms else 1)


def _check_schedule(run: RunHistory, following: RunHistory, what: str) -> None:
    """The next run is at the next point of the schedule, up to the next whole second."""
    schedule = run.started.cron_schedule
    every_ms = int(schedule.removeprefix("@every ").removesuffix("s")) * 1000 if "@" in schedule else 60_000
    scheduled_ms = execution_ms(run)
    if "@" in schedule:
        due_ms = scheduled_ms // 1000 * 1000 + every_ms
    else:
        due_ms = (scheduled_ms // every_ms + 1) * every_ms
    end_ms = time_ms(run.events[-1])
    if end_ms < scheduled_ms:
        due_ms = scheduled_ms
    while due_ms < end_ms:
        due_ms += every_ms
    late_ms = execution_ms(following) - max(due_ms, scheduled_ms + MIN_RUN_MS)
    require(0 <= late_ms < 1_000, f"{what} is {late_ms} ms off its schedule {schedule}")


def execution_ms(run: RunHistory) -> int:
    """When its first workflow task was due."""
    return time_ms(run.events[0]) + ms(run.started.first_workflow_task_backoff)


def _check_first_task(run: RunHistory) -> None:
    """A run that follows waits for its backoff; only a request to cancel is told at once."""
    for event in run.events:
        if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            return
        if event.event_type == E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
            early_ms = execution_ms(run) - time_ms(event)
            require(early_ms <= 0, f"{run.workflow_id} {run.run_id} had its first task {early_ms} ms early")
            return


# --- resets ---


def check_resets(runs: Runs, told: Mapping[str, tuple[str, Any]]) -> None:
    """A run that a reset made begins as its base did, and has what came after the point and had to come again."""
    exclusions = {
        request.request_id: set(request.reset_reapply_exclude_types) for _, request in told.values()
    }
    made: dict[str, list[RunHistory]] = {}
    for run in runs.values():
        if run.copied and run.born:
            failed = run.events[run.reset_index].workflow_task_failed_event_attributes
            made.setdefault(failed.failure.message, []).append(run)
            _check_copied(runs, run, runs[failed.base_run_id])
            excluded = exclusions.get(failed.failure.message)
            if excluded is not None:
                _check_reapplied(runs, run, runs[failed.base_run_id], excluded)
    for name, (run_id, request) in told.items():
        reset = runs.get(run_id)
        require(reset is not None and reset in made.get(name, ()), f"reset {name} did not make run {run_id}")
        assert reset is not None
        base = reset.events[reset.reset_index].workflow_task_failed_event_attributes.base_run_id
        require(base == request.workflow_execution.run_id, f"reset {name} has another base: {base}")
        point = request.workflow_task_finish_event_id
        require(reset.own_from == point - 1, f"reset {name} went back to {reset.own_from + 1}, not {point}")
    for name, group in made.items():
        # A repeated request is recognised by the current run: not any more when another has followed.
        group.sort(key=lambda run: run.born_ms)
        for earlier in group[:-1]:
            moved_on = earlier.next_run_id or any(
                other.workflow_id == earlier.workflow_id and other.born_ms >= earlier.born_ms
                for other in runs.values()
                if other.born and other not in group
            )
            require(bool(moved_on), f"reset {name} was carried out {len(group)} times")


def _check_copied(runs: Runs, run: RunHistory, base: RunHistory) -> None:
    between = run.events[run.own_from : run.reset_index]
    added = (E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, E.EVENT_TYPE_WORKFLOW_TASK_STARTED)
    require(
        run.own_from > 0 and all(event.event_type in added for event in between),
        f"{run.run_id} does not begin like {base.run_id}, which it was reset from",
    )


def _check_reapplied(runs: Runs, run: RunHistory, base: RunHistory, excluded: set[int]) -> None:
    expected: list[tuple[str, str]] = []
    at: RunHistory | None = base
    events = base.events[run.own_from :]
    everything = {value for value in EXCLUDE.values() if value} <= excluded
    while at is not None:
        for event in events:
            named = _comes_again(event, excluded)
            if named is not None:
                expected.append(named)
        as_new = at.events[-1].event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
        at = runs.get(at.next_run_id) if as_new and not everything else None
        events = at.events if at is not None else []
    found = list(reapplied(run))
    require(
        found == expected,
        f"the reset of {base.run_id} to {run.own_from + 1} took along {found} instead of {expected}",
    )


def _comes_again(event: HistoryEvent, excluded: set[int]) -> tuple[str, str] | None:
    if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
        if EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL not in excluded:
            return "signal", event.workflow_execution_signaled_event_attributes.signal_name
    elif EXCLUDE.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE not in excluded:
        if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
            admitted = event.workflow_execution_update_admitted_event_attributes
            return "update", admitted.request.meta.update_id
        if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            accepted = event.workflow_execution_update_accepted_event_attributes
            if accepted.HasField("accepted_request"):
                return "update", accepted.accepted_request.meta.update_id
    return None


def reapplied(run: RunHistory) -> Iterator[tuple[str, str]]:
    """The signals and updates that a reset took along: what stands between it and the task it schedules."""
    for event in run.events[run.reset_index + 1 :]:
        if event.event_type == E.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
            return
        if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            yield "signal", event.workflow_execution_signaled_event_attributes.signal_name
        elif event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
            admitted = event.workflow_execution_update_admitted_event_attributes
            yield "update", admitted.request.meta.update_id


# --- children ---


def check_children(runs: Runs) -> None:
    """A child that was open when its parent closed was treated as its parent close policy says."""
    carried_on = {
        run.events[run.reset_index].workflow_task_failed_event_attributes.base_run_id
        for run in runs.values()
        if run.copied and run.born
    }
    for child in runs.values():
        parent = runs.get(child.started.parent_workflow_execution.run_id)
        follows = child.copied or child.started.continued_execution_run_id
        if parent is not None and not follows and parent.run_id not in carried_on:
            _check_child(runs, parent, child)


def _check_child(runs: Runs, parent: RunHistory, child: RunHistory) -> None:
    initiated_event_id = child.started.parent_initiated_event_id
    initiated = parent.events[
        initiated_event_id - 1
    ].start_child_workflow_execution_initiated_event_attributes
    require(initiated.workflow_id == child.workflow_id, f"{child.run_id} is not the child that was asked for")
    chain = [child]
    while chain[-1].next_run_id:
        chain.append(runs[chain[-1].next_run_id])
    told = any(
        event.workflow_execution_cancel_requested_event_attributes.external_workflow_execution.run_id
        == parent.run_id
        and not event.workflow_execution_cancel_requested_event_attributes.external_initiated_event_id
        for run in chain
        for event in run.events
        if event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
    )
    last = chain[-1].events[-1]
    by_policy = "parent close" in last.workflow_execution_terminated_event_attributes.reason
    policy, what = initiated.parent_close_policy, f"child {child.workflow_id} {child.run_id}"
    ends = ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE
    cancels = ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL
    require(not by_policy or policy == ends, f"{what} was terminated with its parent")
    require(not told or policy == cancels, f"{what} was asked to cancel by its parent's end")
    outlived_ms = time_ms(last) - time_ms(parent.events[-1])
    if outlived_ms > GRACE_MS:
        require(policy != ends or by_policy, f"{what} outlived its parent by {outlived_ms} ms")
        require(policy != cancels or told, f"{what} was not asked to cancel in {outlived_ms} ms")


def waits_in_vain(runs: Runs, run: RunHistory) -> bool:
    """Whether a run that a reset made waits for the end of a child that somebody else was told of, or nobody.

    A child tells the run that started it, or what that was reset to last: so it is on the real server too.
    """
    started = {}
    for event in run.events:
        if event.event_type == E.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            attributes = event.child_workflow_execution_started_event_attributes
            started[attributes.initiated_event_id] = attributes.workflow_execution.run_id
        elif event.event_type in CHILD_ENDS:
            started.pop(getattr(event, str(event.WhichOneof("attributes"))).initiated_event_id, None)
    return any(_is_lost(runs, run, *child) for child in started.items())


def _is_lost(runs: Runs, run: RunHistory, initiated_event_id: int, run_id: str) -> bool:
    child = runs.get(run_id)
    while child is not None and child.closed and child.next_run_id:
        child = runs.get(child.next_run_id)
    if child is None or not child.closed:
        return False
    told: RunHistory | None = runs.get(child.started.parent_workflow_execution.run_id)
    while told is not None and told is not run:
        made = [other for other in runs.values() if _made_of(other, told.run_id)]
        told = max(made, key=lambda other: other.born_ms, default=None)
        if told is not None and told.reset_index < initiated_event_id:
            told = None
    return told is None or time_ms(child.events[-1]) <= run.born_ms


def _made_of(run: RunHistory, base_run_id: str) -> bool:
    """Whether a reset made a run of another."""
    if not (run.copied and run.born):
        return False
    return run.events[run.reset_index].workflow_task_failed_event_attributes.base_run_id == base_run_id
