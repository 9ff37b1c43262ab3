"""The judge: what clients were told, what the histories say, and what every fold of a record left.

Knows nothing of the engine's state: it holds answers and emissions against each other.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from temporalio.api.enums.v1 import EventType, TimeoutType, WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes

from streams import bodies
from streams.runtime.partition import DeadLetter, Outcome, Partition
from streams.runtime.records import Correlation, Record, Reply, Tick
from streams.stores.sqlite_history import read_events
from streams.task_token import TaskToken
from tests.simulation.chains import (
    CHILD_ENDS,
    check_chains,
    check_children,
    check_resets,
    reapplied,
    require,
    reset_at,
    time_ms,
)
from tests.simulation.log import encode

E = EventType
STATUS = {
    E.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{name}"): WorkflowExecutionStatus.Value(
        f"WORKFLOW_EXECUTION_STATUS_{name}"
    )
    for name in ("COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED", "CONTINUED_AS_NEW", "CANCELED")
}
"""The status of a run by its close event."""
RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING

Key = tuple[str, int, int]

CLOCKS_MS = 2_000
"""How far a log's clock may be from true time."""


class RunHistory:
    """The history of a run as its readers got it."""

    def __init__(self, workflow_id: str, run_id: str) -> None:
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.events: list[HistoryEvent] = []
        self.data: list[bytes] = []
        self.deleted = False
        self.copied = False
        self.reset_index = -1
        self.own_from = 0

    def add(self, data: Sequence[bytes]) -> None:
        """Events were written to it. Those of a run that a reset makes are copies at first."""
        self.data.extend(data)
        for event in map(HistoryEvent.FromString, data):
            if not self.events:
                original = event.workflow_execution_started_event_attributes.original_execution_run_id
                self.copied = original != self.run_id
            if self.copied and self.reset_index < 0 and reset_at(self.run_id, event):
                self.reset_index = len(self.events)
            self.events.append(event)

    @property
    def started(self) -> WorkflowExecutionStartedEventAttributes:
        """Its first event."""
        return self.events[0].workflow_execution_started_event_attributes

    @property
    def born(self) -> bool:
        """Whether it has begun: copies alone are no run yet, and may never be."""
        return not self.copied or self.reset_index >= 0

    @property
    def born_ms(self) -> int:
        """When it began."""
        return time_ms(self.events[max(self.reset_index, 0)])

    @property
    def next_run_id(self) -> str:
        """The run that follows it."""
        last = self.events[-1]
        return getattr(getattr(last, last.WhichOneof("attributes")), "new_execution_run_id", "")

    @property
    def open(self) -> bool:
        """Whether it has begun and not ended."""
        return bool(self.events) and self.born and not self.closed

    def measure_copy(self, runs: Mapping[str, RunHistory]) -> None:
        """Find out how much of a run that a reset made is its base's."""
        if self.copied and self.born:
            failed = self.events[self.reset_index].workflow_task_failed_event_attributes
            base = runs[failed.base_run_id].data
            while self.own_from < self.reset_index and self.data[self.own_from] == base[self.own_from]:
                self.own_from += 1

    @property
    def closed(self) -> bool:
        """Whether its last event is a close."""
        return bool(self.events) and self.events[-1].event_type in STATUS


class Judge:
    """Collects while a simulation runs, and judges at its end."""

    def __init__(self) -> None:
        self.runs: dict[str, RunHistory] = {}
        self.open_runs = 0
        self.steps: dict[str, dict[int, Any]] = {}
        self.verdicts: set[tuple[str, int]] = set()
        self.letters: set[tuple[str, int]] = set()
        self.answers: dict[Key, Reply] = {}
        self.held: dict[tuple[str, int], bytes] = {}
        self.queries: set[Key] = set()
        self.poll_deadlines: dict[Key, int] = {}
        self.told: dict[str, dict[str, Any]] = {
            kind: {}
            for kind in ("start", "signal", "update", "activity", "task", "cancel", "terminate", "reset")
        }
        self.poison_sent: set[str] = set()
        self.updated: set[str] = set()
        self.undelivered: dict[tuple[str, int], int] = {}
        self._leases: dict[tuple[str, str], bodies.GatewayLease] = {}
        self._bytes: dict[tuple[str, int, int], bytes] = {}
        self._uncovered: dict[Partition, tuple[int, Any, list[DeadLetter]]] = {}
        self._newest_ms: dict[str, int] = {}

    # Folds

    def encoded(self, record: Record) -> bytes:
        """The bytes of a record to be appended."""
        if not record.from_gateway and not isinstance(record.body, Tick):
            data = self._bytes.get((record.source, record.origin_offset, record.index))
            if data is not None:
                return data
        return encode(record)

    def stepped(self, partition: Partition, record: Record, outcome: Outcome) -> None:
        """A partition folded a record: every fold of it, by whomever, has to leave the same bytes."""
        name, offset = partition.name, record.offset
        left = (
            [(r.channel, r.key, encode(r)) for r in outcome.emissions],
            outcome.replies,
            bool(outcome.verdicts),
        )
        steps = self.steps.setdefault(name, {})
        known = steps.get(offset)
        if known is not None:
            if left[2] and not known[2]:
                return  # Older code, whose verdict will not be let out.
            require(
                not known[2] or left[2],
                f"{name}@{offset} was judged, and is applied by other code: {record!r}",
            )
            require(
                known == left,
                f"{name}@{offset} left something else the second time: {record!r}: {known} and then {left}",
            )
        elif left[2]:
            self._uncovered[partition] = (offset, left, outcome.verdicts)
        else:
            self._first(partition, record, outcome, left)

    def _first(self, partition: Partition, record: Record, outcome: Outcome, left: Any) -> None:
        name, offset = partition.name, record.offset
        self.steps[name][offset] = left
        body = record.body
        if isinstance(body, bodies.GatewayLease):
            known = self._leases.get((name, body.gateway))
            if known is None or known.epoch <= body.epoch:
                self._leases[name, body.gateway] = body
        for emission, (_, _, data) in zip(outcome.emissions, left[0], strict=True):
            self._bytes[name, offset, emission.index] = data
            if isinstance(emission.body, bodies.StartTask):
                self._check_lease(name, emission.body.poll, partition.now_ms)
        if isinstance(body, bodies.TaskUndelivered) and body.task_kind == bodies.WORKFLOW_TASK:
            self.undelivered.setdefault((body.run_id, body.scheduled_event_id), partition.now_ms)
        if isinstance(body, bodies.StartTask) and outcome.replies:
            self.undelivered.pop((body.run_id, body.scheduled_event_id), None)  # On its way again.
        for correlation, reply in outcome.replies:
            if reply.kind.startswith("poll-"):
                deadline_ms = self.poll_deadlines[key_of(correlation)]
                require(
                    partition.now_ms <= deadline_ms,
                    f"{name}@{offset} started a task for a poll that ended {partition.now_ms - deadline_ms} ms ago",
                )

    def _check_lease(self, name: str, poll: bodies.Poll, now_ms: int) -> None:
        lease = self._leases.get((name, poll.gateway))
        if lease is not None and lease.epoch == poll.epoch and lease.expires_ms:
            require(lease.expires_ms >= now_ms, f"{name}: a poll of a lapsed gateway was matched")
        if lease is not None:
            require(lease.epoch <= poll.epoch, f"{name}: a poll of a gateway's former epoch was matched")

    def covered(self, partition: Partition, offset: int) -> None:
        """A checkpoint up to `offset` is committed: verdicts up to it stand."""
        waiting = self._uncovered.get(partition)
        if waiting is not None and waiting[0] <= offset:
            del self._uncovered[partition]
            at, left, letters = waiting
            known = self.steps[partition.name].setdefault(at, left)
            require(known == left, f"{partition.name}@{at} was applied, and then judged by a checkpoint")
            # A record that waited behind a gap is judged in the step of the one that filled it.
            self.verdicts.update((letter.source, letter.offset) for letter in letters)

    def lettered(self, letter: DeadLetter) -> None:
        """A dead letter left."""
        require(
            (letter.source, letter.offset) in self.verdicts, f"a letter left before its checkpoint: {letter}"
        )
        self.letters.add((letter.source, letter.offset))

    def answered(self, correlation: Correlation, reply: Reply) -> None:
        """A reply left: every reply to a call has to be the same."""
        for event_id, event in enumerate(reply.held, reply.held_first_id):
            known_event = self.held.setdefault((reply.attach_run, event_id), event)
            require(known_event == event, f"{reply.attach_run}: event {event_id} was shown otherwise before")
        key = key_of(correlation)
        if key in self.queries:
            return  # Matching and a worker may both answer; the first one is taken.
        known = self.answers.setdefault(key, reply)
        require(known == reply, f"call {key} was answered {known} and then {reply}")

    # Histories

    def wrote(self, source: str, batch: bodies.HistoryBatch) -> None:
        """A batch of events was materialised."""
        newest_ms = self._newest_ms.get(source, 0)
        require(batch.time_ms >= newest_ms, f"{source}: time ran back by {newest_ms - batch.time_ms} ms")
        self._newest_ms[source] = batch.time_ms
        run = self.runs.get(batch.run_id)
        if run is None:
            run = self.runs[batch.run_id] = RunHistory(batch.workflow_id, batch.run_id)
        require(not run.closed, f"{batch.workflow_id} {batch.run_id}: events after the close")
        was_open, length = run.open, len(run.events)
        run.add(batch.events)
        ids = [event.event_id for event in run.events[length:]]
        expected = list(range(length + 1, len(run.events) + 1))
        require(ids == expected, f"{batch.workflow_id}: event ids {ids}, expected {expected}")
        require((batch.first_event_id, batch.last_event_id) == (ids[0], ids[-1]), "a batch's ids are wrong")
        self.open_runs += run.open - was_open

    def deleted(self, run_id: str) -> None:
        """A run was deleted."""
        if run_id in self.runs:
            run = self.runs[run_id]
            run.deleted = True

    # The end

    def conclude(self) -> None:
        """Hold what clients were told against the histories, once everything has come to rest."""
        for (run_id, event_id), event in self.held.items():
            shown = self.runs[run_id].data[event_id - 1 : event_id]
            require(shown == [event], f"{run_id}: event {event_id} was shown, and its history has another")
        for run in self.runs.values():
            run.measure_copy(self.runs)
        index = Index(self.runs.values())
        for kind, function in (
            ("start", self._check_start),
            ("signal", self._check_signal),
            ("update", self._check_update),
            ("activity", self._check_activity),
            ("task", self._check_task),
            ("cancel", self._check_cancel),
            ("terminate", self._check_terminate),
        ):
            for name, detail in self.told[kind].items():
                function(index, name, detail)
        for name in self.poison_sent:
            count = index.signals[name]
            require(count <= 1, f"signal {name} took effect {count} times")
        for name, count in index.sent.items():
            most = 1 + index.resent[name]
            require(count <= most, f"signal {name} was sent {most} times and took effect {count} times")
        for counter, what in (
            (index.starts, "start"),
            (index.signals, "signal"),
            (index.accepted, "update"),
            (index.completed, "update"),
            (index.activities, "activity completion"),
            (index.tasks, "workflow task completion"),
        ):
            for name, count in counter.items():
                require(count == 1, f"{what} {name} took effect {count} times")
        require(self.verdicts == self.letters, f"dead letters are missing: {self.verdicts - self.letters}")
        for run in self.runs.values():
            if run.born:
                check_run(run)
                self._check_undelivered(run)
        check_chains(self.runs, self.updated)
        check_resets(self.runs, self.told["reset"])
        check_children(self.runs)

    def _check_undelivered(self, run: RunHistory) -> None:
        for event in run.events:
            timed_out = event.workflow_task_timed_out_event_attributes
            if timed_out.timeout_type == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE:
                since_ms = self.undelivered.get((run.run_id, timed_out.scheduled_event_id))
                waited_ms = 0 if since_ms is None else time_ms(event) - since_ms
                require(waited_ms <= 0, f"{run.run_id}: an undelivered task was held for {waited_ms} ms more")

    def _check_start(self, index: Index, name: str, run_id: str) -> None:
        require(index.starts[name] == 1, f"start {name} was accepted and opened {index.starts[name]} runs")
        require(index.started_run[name] == run_id, f"start {name} was told run {run_id}")

    def _check_signal(self, index: Index, name: str, detail: bool) -> None:
        expected = 1 if detail else 0
        require(
            index.signals[name] == expected,
            f"signal {name}: told {detail}, in history {index.signals[name]} times",
        )

    def _check_update(self, index: Index, name: str, completed: bool) -> None:
        require(index.accepted[name] == 1, f"update {name} was accepted {index.accepted[name]} times")
        require(
            not completed or index.completed[name] == 1,
            f"update {name} was completed {index.completed[name]} times",
        )

    def _check_activity(self, index: Index, name: str, token: TaskToken) -> None:
        require(
            index.activities[name] == 1,
            f"completion {name} was accepted, in history {index.activities[name]} times",
        )
        attempt = index.attempts[name]
        require(
            attempt == token.attempt, f"completion {name} of attempt {token.attempt} ended attempt {attempt}"
        )

    def _check_task(self, index: Index, name: str, detail: Any) -> None:
        require(
            index.tasks[name] == 1, f"workflow task {name} was accepted, in history {index.tasks[name]} times"
        )

    def _check_cancel(self, index: Index, name: str, detail: tuple[str, str, int]) -> None:
        workflow_id, run_id, told_ms = detail
        runs = [run for run in self.runs.values() if run.workflow_id == workflow_id and run.born]
        if run_id:
            runs = [self.runs[run_id]]
        count = sum(index.cancels[run.run_id] for run in runs)
        closed_ms = min(time_ms(run.events[-1]) for run in runs)
        require(
            count == 1 or (count > 1 and not run_id) or (not count and closed_ms <= told_ms + CLOCKS_MS),
            f"cancel of {workflow_id} {run_id} was accepted, in history {count} times",
        )

    def _check_terminate(self, index: Index, name: str, detail: tuple[str, str]) -> None:
        workflow_id, run_id = detail
        runs = [run for run in self.runs.values() if run.workflow_id == workflow_id]
        if run_id:
            runs = [self.runs[run_id]]
        reasons = {
            run.events[-1].workflow_execution_terminated_event_attributes.reason for run in runs if run.closed
        }
        require(name in reasons, f"termination {name} was accepted; the run ended otherwise: {reasons!r}")

    # Stores

    def check_page(self, run_id: str, first: int, page: Sequence[tuple[int, bytes]]) -> None:
        """A reader got these events: they have to be there, without a gap (fold.md rule 21)."""
        ids = [event_id for event_id, _ in page]
        require(
            ids == list(range(first, first + len(ids))), f"{run_id}: a page from {first} has events {ids}"
        )
        if page:
            facts = self.runs[run_id].data[first - 1 : first - 1 + len(page)]
            require([data for _, data in page] == facts, f"{run_id}: a page from {first} has other events")

    def check_stores(self, database: sqlite3.Connection) -> None:
        """The stores hold what there was to write of every run that is not deleted, and nothing else."""
        stored = {run_id for (run_id,) in database.execute("SELECT DISTINCT run_id FROM history")}
        rows = {
            run_id: (status, close_time_ns, length)
            for run_id, status, close_time_ns, length in database.execute(
                "SELECT run_id, status, close_time_ns, history_length FROM visibility"
            )
        }
        left = {run_id: run for run_id, run in self.runs.items() if not run.deleted}
        require(stored == set(left), f"histories in the store and not, or vice versa: {stored ^ set(left)}")
        born = {run_id for run_id, run in left.items() if run.born}
        require(set(rows) == born, f"rows of runs that are not there, or vice versa: {set(rows) ^ born}")
        for run_id, run in left.items():
            page = read_events(database, run_id, 1, 1 << 30, 1 << 40)
            require([data for _, data in page] == run.data, f"the store has another history of {run_id}")
            if run.born:
                closed = run.closed
                expected = (
                    STATUS.get(run.events[-1].event_type, RUNNING),
                    time_ms(run.events[-1]) * 1_000_000 if closed else None,
                    len(run.events) if closed else None,
                )
                require(rows[run_id] == expected, f"the row of {run_id} is {rows[run_id]}, not {expected}")


class Index:
    """What the histories hold, by what clients know it by."""

    def __init__(self, runs: Any) -> None:
        self.starts: Counter[str] = Counter()
        self.started_run: dict[str, str] = {}
        self.signals: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.completed: Counter[str] = Counter()
        self.activities: Counter[str] = Counter()
        self.attempts: dict[str, int] = {}
        self.tasks: Counter[str] = Counter()
        self.cancels: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.resent: Counter[str] = Counter()
        for run in runs:
            if run.born:
                self._add_run(run)

    def _add_run(self, run: RunHistory) -> None:
        """Its own events: neither those that a reset copied nor those it took along."""
        attempts: dict[int, int] = {}
        taken_along = Counter(reapplied(run)) if run.copied else Counter()
        for number, event in enumerate(run.events):
            attributes = getattr(event, event.WhichOneof("attributes"))
            if event.event_type == E.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                attempts[attributes.scheduled_event_id] = attributes.attempt
            elif event.event_type == E.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
                self.cancels[run.run_id] += 1
            if number >= run.own_from:
                self._add(run, event, attempts, taken_along)
            elif event.event_type == E.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                self.resent[attributes.signal_name] += 1

    def _add(
        self, run: RunHistory, event: HistoryEvent, attempts: dict[int, int], taken_along: Counter[Any]
    ) -> None:
        kind = event.event_type
        if kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            started = event.workflow_execution_started_event_attributes
            if started.identity and not started.continued_execution_run_id:
                self.starts[started.identity] += 1
                self.started_run[started.identity] = run.run_id
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            name = event.workflow_execution_signaled_event_attributes.signal_name
            if taken_along["signal", name]:
                taken_along["signal", name] -= 1
            elif event.workflow_execution_signaled_event_attributes.external_workflow_execution.run_id:
                self.sent[name] += 1
            else:
                self.signals[name] += 1
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            accepted = event.workflow_execution_update_accepted_event_attributes
            name = accepted.protocol_instance_id
            require(
                accepted.HasField("accepted_request") != bool(taken_along["update", name]),
                f"update {name} was accepted in {run.run_id} without a request, or with a second one",
            )
            if accepted.HasField("accepted_request"):
                self.accepted[name] += 1
        elif kind == E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
            completed = event.workflow_execution_update_completed_event_attributes
            if not taken_along["update", completed.meta.update_id]:
                self.completed[completed.meta.update_id] += 1
        elif kind == E.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            ended = event.activity_task_completed_event_attributes
            self.activities[ended.identity] += 1
            self.attempts[ended.identity] = attempts[ended.scheduled_event_id]
        elif kind == E.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            self.tasks[event.workflow_task_completed_event_attributes.identity] += 1


def key_of(correlation: Correlation) -> Key:
    """The identity of a call."""
    return (correlation.gateway, correlation.epoch, correlation.id)


def name_of(event: HistoryEvent) -> str:
    """Its type in short."""
    return E.Name(event.event_type).removeprefix("EVENT_TYPE_")


def check_run(run: RunHistory) -> None:
    """What holds of every history by itself: nothing ends twice, no timer fires early."""
    require(run.closed, f"{run.workflow_id} {run.run_id} never closed: last event {name_of(run.events[-1])}")
    timers: dict[int, int] = {}
    pending: dict[str, set[int]] = {"activity": set(), "child": set(), "timer": set(), "external": set()}

    def end(kind: str, started_event_id: int) -> None:
        require(started_event_id in pending[kind], f"{run.run_id}: {kind} {started_event_id} ended twice")
        pending[kind].discard(started_event_id)

    for event in run.events:
        attributes = getattr(event, event.WhichOneof("attributes"))
        kind = event.event_type
        if kind == E.EVENT_TYPE_TIMER_STARTED:
            pending["timer"].add(event.event_id)
            timeout = attributes.start_to_fire_timeout
            timers[event.event_id] = time_ms(event) + timeout.seconds * 1000 + timeout.nanos // 1_000_000
        elif kind == E.EVENT_TYPE_TIMER_FIRED:
            end("timer", attributes.started_event_id)
            early_ms = timers[attributes.started_event_id] - time_ms(event)
            require(early_ms <= 0, f"{run.run_id}: timer {attributes.timer_id} fired {early_ms} ms early")
        elif kind == E.EVENT_TYPE_TIMER_CANCELED:
            end("timer", attributes.started_event_id)
        elif kind == E.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            pending["activity"].add(event.event_id)
        elif kind in _ACTIVITY_ENDS:
            end("activity", attributes.scheduled_event_id)
        elif kind == E.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
            pending["child"].add(event.event_id)
        elif kind in CHILD_ENDS:
            end("child", attributes.initiated_event_id)
        elif kind in _EXTERNAL_STARTS:
            pending["external"].add(event.event_id)
        elif kind in _EXTERNAL_ENDS:
            end("external", attributes.initiated_event_id)


def _numbers(names: str) -> set[int]:
    return {E.Value(f"EVENT_TYPE_{name}") for name in names.split()}


_ACTIVITY_ENDS = _numbers(
    "ACTIVITY_TASK_COMPLETED ACTIVITY_TASK_FAILED ACTIVITY_TASK_TIMED_OUT ACTIVITY_TASK_CANCELED"
)
_EXTERNAL_STARTS = _numbers(
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED"
)
_EXTERNAL_ENDS = _numbers(
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED EXTERNAL_WORKFLOW_EXECUTION_SIGNALED "
    "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED"
)
