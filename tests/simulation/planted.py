"""Bugs to be found: each a small edit of the engine that breaks one rule of `fold.md` (or of the design)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from gateway.errors import ApiError
from gateway.histories import Histories
from streams import bodies
from streams.history import (
    activities,
    activity_results,
    arming,
    closing,
    continuing,
    cron,
    evolve,
    facts,
    reset,
    signals,
    state,
    telling,
)
from streams.history.calls import BODIES
from streams.history.lookup import find_open_run
from streams.history.run import Run
from streams.history.step import Step
from streams.matching import leases
from streams.runtime import local_store, takeover
from streams.runtime.due import DueIndex
from streams.runtime.logic import Logic, LogicMarker, UnsupportedLogicError
from streams.runtime.owner import Owner
from streams.runtime.partition import Partition
from streams.runtime.records import Record
from streams.runtime.tables import Entity
from streams.stores.materializers import HistorySink, VisibilitySink
from streams.task_token import TaskToken

Bug = Callable[[ExitStack], None]
BUGS: dict[str, Bug] = {}


def bug(function: Bug) -> Bug:
    """Register a bug under its function's name."""
    BUGS[function.__name__] = function
    return function


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The engine with a bug, or as it is when `name` is empty."""
    with ExitStack() as stack:
        if name:
            BUGS[name](stack)
        yield


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.enter_context(patch.object(owner, name, value))


# --- input ---


@bug
def time_steps_back(stack: ExitStack) -> None:
    """Rule 2: `now` follows the record's append time, also when that steps back."""
    step = Partition.step

    def planted_step(self: Partition, record: Record) -> Any:
        self.now_ms = 0
        return step(self, record)

    _set(stack, Partition, "step", planted_step)


@bug
def timers_fire_early(stack: ExitStack) -> None:
    """Rule 2: a tick takes for due what is due soon."""
    _set(stack, state.Timer, "deadline_ms", lambda self: self.due_ms - 100)


@bug
def stored_dues_forgotten(stack: ExitStack) -> None:
    """Rule 2: what falls due is not kept in state: a new owner knows nothing of it."""

    def extend(self: DueIndex, now_ms: int) -> None:
        store = self._store
        self._store = _NoDues()
        try:
            real_extend(self, now_ms)
        finally:
            self._store = store

    real_extend = DueIndex._extend
    _set(stack, DueIndex, "_extend", extend)


class _NoDues:
    def load_due(self, *args: Any) -> list[Any]:
        return []


@bug
def truncated_log_accepted(stack: ExitStack) -> None:
    """Rule 3: restore does not hold the position against the log's start, end and epochs."""
    _set(stack, takeover, "check_log", lambda name, position, log: None)


@bug
def leader_epoch_unchecked(stack: ExitStack) -> None:
    """Rule 3: restore does not see that the log lost records and got others."""
    check = takeover.check_log

    def planted_check(name: str, position: Any, log: Any) -> None:
        if position is not None and position.offset < log.end:
            position = msgspec.structs.replace(position, leader_epoch=log.leader_epoch(position.offset))
        check(name, position, log)

    _set(stack, takeover, "check_log", planted_check)


@bug
def deletes_up_to_the_fold(stack: ExitStack) -> None:
    """Rule 4: the owner deletes what it has folded, rather than what its checkpoint covers."""
    _set(
        stack,
        Owner,
        "deletable_below",
        lambda self, materialised, safety_span: max(0, self.partition.offset + 1 - safety_span),
    )


@bug
def gateway_duplicates_applied(stack: ExitStack) -> None:
    """Rule 5: what a gateway appended twice is applied twice."""
    is_next = Partition._is_next
    _set(stack, Partition, "_is_next", lambda self, record: record.from_gateway or is_next(self, record))


# --- step ---


@bug
def ids_are_random(stack: ExitStack) -> None:
    """Rule 6: an id comes from nowhere instead of from the record."""
    _set(stack, Step, "derived_id", lambda self, *parts: str(uuid.uuid4()))


@bug
def overlay_kept(stack: ExitStack) -> None:
    """Rule 7: a step that fails leaves behind what it had changed."""
    _set(stack, Entity, "revert", lambda self: self.keep())


@bug
def verdict_leaves_at_once(stack: ExitStack) -> None:
    """Rule 7: a verdict is told before a checkpoint covers it, and may be another after a crash."""

    def fold(self: Owner, record: Record, leader_epoch: int = 0) -> None:
        try:
            outcome = self.partition.step(record)
        except UnsupportedLogicError as error:
            self.leaving = error
            return
        self._leader_epoch = leader_epoch
        self.letters.extend(outcome.verdicts)
        self._unsent_letters.extend(outcome.verdicts)
        self._release(outcome.emissions, outcome.replies)

    _set(stack, Owner, "fold", fold)


@bug
def logic_version_not_in_checkpoint(stack: ExitStack) -> None:
    """Rule 9: a checkpoint does not keep the version, so that the tail is folded by the oldest logic again."""
    position = Partition.position

    def planted_position(self: Partition, *args: Any) -> Any:
        return msgspec.structs.replace(position(self, *args), logic_version=0)

    _set(stack, Partition, "position", planted_position)


@bug
def marker_lowers_the_logic(stack: ExitStack) -> None:
    """Rule 9: a marker that comes late takes the logic back."""
    take = Logic.take

    def planted_take(self: Logic, record: Record) -> bool:
        marker = take(self, record)
        if isinstance(record.body, LogicMarker):
            self.version = record.body.version
        return marker

    _set(stack, Logic, "take", planted_take)


@bug
def outdated_member_folds_on(stack: ExitStack) -> None:
    """Rule 9: a member that lacks the logic in force folds by what it has."""
    _set(stack, Logic, "_check_version", lambda self, version: None)


@bug
def outdated_member_takes_over(stack: ExitStack) -> None:
    """Rule 9: a member that lacks the logic of a checkpoint folds on from there by what it has."""

    def restore(self: Logic, version: int, parked: Any) -> None:
        self.version = version

    _set(stack, Logic, "restore", restore)


@bug
def newer_record_set_aside(stack: ExitStack) -> None:
    """Rule 9: a record of a type that its reader does not know becomes a dead letter."""
    _set(stack, Logic, "_check_type", lambda self, record: None)


# --- emission ---


@bug
def duplicates_applied(stack: ExitStack) -> None:
    """Rule 10: a re-emission is applied again."""
    is_next = Partition._is_next

    def planted_is_next(self: Partition, record: Record) -> bool:
        last = self._applied.get(record.source)
        origin = (record.origin_epoch, record.origin_offset, record.index)
        return (last is not None and origin == last) or is_next(self, record)

    _set(stack, Partition, "_is_next", planted_is_next)


@bug
def gaps_skipped(stack: ExitStack) -> None:
    """Rule 10: a record behind a gap is applied, and what fills the gap is then taken for a duplicate."""

    def is_next(self: Partition, record: Record) -> bool:
        last = self._applied.get(record.source)
        return last is None or (record.origin_epoch, record.origin_offset, record.index) > last

    _set(stack, Partition, "_is_next", is_next)


@bug
def links_forgotten(stack: ExitStack) -> None:
    """Rule 10: the origin of the last emission on a channel is not restored."""
    restore = Partition.restore

    def planted_restore(self: Partition, position: Any, parked: Any = ()) -> None:
        restore(self, msgspec.structs.replace(position, links=()), parked)

    _set(stack, Partition, "restore", planted_restore)


@bug
def fire_does_not_rearm(stack: ExitStack) -> None:
    """Rule 12: a fire of the armed version does not count as a timer used up."""
    change_core = Run.change_core

    def planted_change(self: Run, **changes: Any) -> None:
        if changes != {"armed_due_ms": 0}:
            change_core(self, **changes)

    _set(stack, Run, "change_core", planted_change)


@bug
def arms_once(stack: ExitStack) -> None:
    """Rule 12: an earlier deadline than the armed one is not armed."""
    arm = arming.arm
    _set(stack, arming, "arm", lambda run: None if run.core.armed_due_ms and run.is_open else arm(run))


@bug
def untold_events_are_forgotten(stack: ExitStack) -> None:
    """Rule 5: events that waited for the next ones are not written with them."""
    untold = telling._untold

    def planted_untold(run: Run) -> Any:
        found = untold(run)
        return msgspec.structs.replace(found, events=()) if len(found.events) == 1 else found

    _set(stack, telling, "_untold", planted_untold)


# --- checkpoint and takeover ---


@bug
def checkpoint_before_acknowledgement(stack: ExitStack) -> None:
    """Rule 13: a checkpoint is written while emissions up to it are in flight."""
    _set(stack, Owner, "writable", lambda self: self._cut)


@bug
def position_of_the_write(stack: ExitStack) -> None:
    """Rule 13: the position is that of the moment of writing, the rows are of the cut."""
    writable = Owner.writable

    def planted_writable(self: Owner) -> Any:
        checkpoint = writable(self)
        if checkpoint is None:
            return None
        old, now = checkpoint.position, self.partition.position()
        changes = {
            name: getattr(now, name)
            for name in ("offset", "now_ms", "logic_version", "applied", "links", "parked")
        }
        position = msgspec.structs.replace(old, leader_epoch=self._leader_epoch, **changes)
        return msgspec.structs.replace(checkpoint, position=position)

    _set(stack, Owner, "writable", planted_writable)


@bug
def torn_checkpoint_accepted(stack: ExitStack) -> None:
    """Rule 14: count and checksum are not verified."""
    _set(stack, takeover, "check_rows", lambda name, committed: None)


def _take_over(*, fence: bool, wait: bool) -> Any:
    real = takeover.take_over

    def planted_take_over(name: str, changelog: Any, log: Any, codec: Any, partition: Any) -> Owner:
        if not fence:
            changelog.fence = lambda: None
        if not wait:
            changelog.high_watermark = changelog.last_stable_offset
        return real(name, changelog, log, codec, partition)

    return planted_take_over


@bug
def takeover_without_fence(stack: ExitStack) -> None:
    """Rule 15: a former owner may go on writing checkpoints."""
    _set(stack, takeover, "take_over", _take_over(fence=False, wait=True))


@bug
def hanging_transaction_ignored(stack: ExitStack) -> None:
    """Rule 15: restore does not wait until the last stable offset is the high watermark."""
    _set(stack, takeover, "take_over", _take_over(fence=True, wait=False))


@bug
def any_local_store_used(stack: ExitStack) -> None:
    """Rule 16: a local store of another lineage, or ahead of the changelog, is not wiped."""
    _set(stack, local_store, "reason_to_wipe", lambda head, **facts: "")


# --- gateways, matching ---


@bug
def lapsed_gateway_matched(stack: ExitStack) -> None:
    """Rule 19: polls of a gateway whose lease has lapsed are matched."""
    _set(stack, leases, "lapsed", lambda lease, now_ms: False)


@bug
def starts_past_the_deadline(stack: ExitStack) -> None:
    """Rule 19: history starts a task for a poll that has ended."""
    start = BODIES[bodies.StartTask]

    def planted_start(step: Step, body: bodies.StartTask) -> None:
        poll = msgspec.structs.replace(body.poll, deadline_ms=1 << 60)
        start(step, msgspec.structs.replace(body, poll=poll))

    stack.enter_context(patch.dict(BODIES, {bodies.StartTask: planted_start}))


@bug
def found_child_ignored(stack: ExitStack) -> None:
    """Rule 23: a run that a reset made does not go on with a child whose start was cut off."""
    stack.enter_context(patch.dict(BODIES, {bodies.ChildFound: lambda step, body: None}))


@bug
def undelivered_task_kept(stack: ExitStack) -> None:
    """Rule 19: a started task that reached nobody is left to time out."""
    stack.enter_context(patch.dict(BODIES, {bodies.TaskUndelivered: lambda step, body: None}))


@bug
def poll_not_returned(stack: ExitStack) -> None:
    """Rule 20: a poll that met an obsolete task is not given back to matching."""
    start = BODIES[bodies.StartTask]

    def planted_start(step: Step, body: bodies.StartTask) -> None:
        start(step, body)
        emissions = step.context.emissions
        step.context.emissions = [e for e in emissions if not isinstance(e[3], bodies.PollReturned)]

    stack.enter_context(patch.dict(BODIES, {bodies.StartTask: planted_start}))


# --- rules of the design ---


@bug
def state_without_facts(stack: ExitStack) -> None:
    """Design rule 2: state is changed without a fact."""
    _set(stack, Run, "change_core", lambda self, **changes: self.set_core(**changes))


@bug
def signals_not_recognised(stack: ExitStack) -> None:
    """Design rule 3: a signal that a client repeats is applied again."""
    record_signal = signals.record_signal

    def planted_record(run: Run, **fields: Any) -> bool:
        return record_signal(run, **{**fields, "request_id": ""})

    _set(stack, signals, "record_signal", planted_record)


@bug
def any_attempt_completes(stack: ExitStack) -> None:
    """Design rule 3: a late completion of an earlier attempt ends the activity."""

    def by_token(step: Step, request: Any) -> Any:
        token = TaskToken.decode(request.task_token)
        run = find_open_run(step, token.run_id)
        activity = activities.find(run, token.scheduled_event_id)
        if activity is None or not activity.started_ms:
            raise activity_results._missing()
        return activity_results.Attempt(run, activity, request.identity)

    _set(stack, activity_results, "_by_token", by_token)


@bug
def event_id_used_twice(stack: ExitStack) -> None:
    """Design rule 5: after a flush of buffered events an id is used again."""
    flushed = evolve._fact_appliers[facts.BufferFlushed]

    def planted_flushed(run: Run, fact: Any) -> None:
        flushed(run, fact)
        run.set_core(next_event_id=run.core.next_event_id - 1)

    stack.enter_context(patch.dict(evolve._fact_appliers, {facts.BufferFlushed: planted_flushed}))


# --- readers, stores, resets ---


@bug
def page_not_awaited(stack: ExitStack) -> None:
    """Rule 21: what is not in the store yet is left out of a page."""
    read = Histories._read

    async def planted_read(self: Histories, *args: Any) -> Any:
        try:
            return await read(self, *args)
        except ApiError:
            return [], args[2]

    _set(stack, Histories, "_read", planted_read)


@bug
def memory_ahead_of_the_store(stack: ExitStack) -> None:
    """Rule 21: a page goes on with events in memory though some before them are not there."""

    def recent(self: HistorySink, run_id: str, first_id: int, last_id: int) -> tuple[int, list[bytes]]:
        held = self._recent.get(run_id)
        return (first_id, held.events) if held is not None else (last_id + 1, [])

    _set(stack, HistorySink, "recent", recent)


@bug
def store_forgets_origins(stack: ExitStack) -> None:
    """Rule 22: what writes the stores does not keep the highest origins beside its position."""
    restore = Partition.restore

    def planted_restore(self: Partition, position: Any, parked: Any = ()) -> None:
        if self.processor.name == "reader":
            position = msgspec.structs.replace(position, applied=())
        restore(self, position, parked)

    _set(stack, Partition, "restore", planted_restore)


@bug
def events_lost_while_writing(stack: ExitStack) -> None:
    """Rule 22: events that come while others are written go with those, though they were not."""
    written = HistorySink.written

    def planted_written(self: HistorySink) -> None:
        self._pending = []
        written(self)

    _set(stack, HistorySink, "written", planted_written)


@bug
def older_row_stands(stack: ExitStack) -> None:
    """Rule 22: of two rows of a run that are written together the older one stands."""
    prepare = VisibilitySink._prepare
    _set(
        stack,
        VisibilitySink,
        "_prepare",
        lambda self, deletions, group: prepare(self, deletions, group[::-1]),
    )


@bug
def reset_overlooks_events(stack: ExitStack) -> None:
    """Rule 23: a reset does not verify that it was prepared from all events there are by now."""

    class AsExpected(int):
        __hash__ = int.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    _set(stack, reset, "_next_event_id", lambda step, run_id: AsExpected())


# --- chains of runs, children ---


@bug
def retried_once_too_often(stack: ExitStack) -> None:
    """Workflows: a retry policy is asked about the attempt before."""
    retry = continuing._retry

    def planted_retry(run: Run, policy: Any, failure: Any) -> Any:
        if policy.maximum_attempts:
            policy.maximum_attempts += 1
        return retry(run, policy, failure)

    _set(stack, continuing, "_retry", planted_retry)


@bug
def schedule_counts_from_now(stack: ExitStack) -> None:
    """Workflows: the next run of a schedule is worked out from the end of the run before, not from its time."""
    backoff_ms = cron.backoff_ms
    _set(stack, cron, "backoff_ms", lambda text, scheduled_ms, now_ms: backoff_ms(text, now_ms, now_ms))


@bug
def children_outlive_their_parent(stack: ExitStack) -> None:
    """Workflows: the parent close policy is not carried out."""
    _set(stack, closing, "close_child", lambda run, child: None)
