"""The guarantees of `fold.md` about gateways, tasks, pages, stores and resets, a test each, named after them.

Rules 1 to 17 are in `test_rules`, rule 9 in `test_upgrades`. Left out: what rule 18 says of reply partitions and
rule 22 of PostgreSQL and Cassandra, which are of the log on Kafka; rules 24 (ingress topics) and 25 (task topics).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueResponse

from gateway.errors import UNAVAILABLE, ApiError
from gateway.histories import Histories
from streams import bodies
from streams.bodies import (
    ACTIVITY_TASK,
    WORKFLOW_TASK,
    AddTask,
    Call,
    GatewayLease,
    Poll,
    PollReturned,
    StartTask,
    TaskUndelivered,
)
from streams.embedded import EmbeddedEngine
from streams.history import errors
from streams.matching_processor import MatchingProcessor
from streams.runtime.records import Correlation, Reply
from streams.stores.materializers import HistorySink, VisibilitySink
from streams.stores.schema import create_tables
from streams.stores.sqlite_history import SqliteHistoryStore, read_events
from streams.stores.sqlite_visibility import SqliteVisibilityStore
from streams.topology import COMMANDS, workflow_key
from tests.simulation.calls import Backend, drive
from tests.simulation.materializers import Readers
from tests.simulation.world import World
from tests.support.folding import EPOCH, GATEWAY, Folding, emitted
from tests.unit.history.support import CallError, Workflows, activity
from tests.unit.history.test_reset import NEW, Preparation

OTHER_GATEWAY = "gateway-2"


class TestRule18:
    """Replies reach the epoch of a gateway that asked."""

    @staticmethod
    async def engine(path: Path) -> EmbeddedEngine:
        failures: list[BaseException] = []
        engine = EmbeddedEngine(path / "engine.db", on_failure=failures.append)
        await engine.start()
        return engine

    async def test_a_reply_for_an_earlier_epoch_is_not_delivered(self, tmp_path: Path) -> None:
        engine = await self.engine(tmp_path)
        got: list[tuple[str, int]] = []
        arrived = asyncio.Event()

        def on_reply(who: str) -> Callable[[int, Reply], None]:
            def take(id: int, reply: Reply) -> None:
                got.append((who, id))
                arrived.set()

            return take

        def ask(epoch: int, id: int) -> None:
            call = Call("ReadHistory", "nowhere", "w", "", b"")
            engine.append(COMMANDS, workflow_key("nowhere", "w"), call, Correlation(GATEWAY, epoch, id))

        former = engine.attach_gateway(GATEWAY, on_reply("former"))
        ask(former, 1)
        epoch = engine.attach_gateway(GATEWAY, on_reply("present"))
        ask(former, 2)
        ask(epoch, 1)
        await arrived.wait()
        await engine.stop()
        assert epoch > former
        assert got == [("present", 1)]

    async def test_epochs_rise_over_restarts_though_the_clock_stands(self, tmp_path: Path) -> None:
        epochs = []
        for _ in range(3):
            engine = EmbeddedEngine(tmp_path / "e.db", on_failure=lambda error: None, clock_ms=lambda: 1_000)
            await engine.start()
            epochs.append(engine.attach_gateway(GATEWAY, lambda id, reply: None))
            await engine.stop()
        assert epochs == sorted(set(epochs))


class TestRule19:
    """Nobody holds a started task that was not delivered."""

    @pytest.fixture
    def workflows(self) -> Workflows:
        workflows = Workflows()
        workflows.start()
        return workflows

    def test_a_lapsed_gateway_is_not_matched(self) -> None:
        matching = Folding(MatchingProcessor)
        lease = GatewayLease(GATEWAY, EPOCH, matching.now_ms + 6_000)
        matching.send(lease, GATEWAY)
        matching.send(bodies.PollTask("ns", "q", WORKFLOW_TASK, "i", matching.now_ms + 60_000, b""), KEY, 1)
        matching.now_ms += 6_001
        assert not emitted(matching.send(TASK, KEY))
        matching.send(msgspec.structs.replace(lease, expires_ms=matching.now_ms + 6_000), GATEWAY)
        assert StartTask in {type(body) for outcome in matching.outcomes for body in emitted(outcome)}

    def test_history_starts_nothing_past_the_polls_end(self, workflows: Workflows) -> None:
        task = workflows.take(WORKFLOW_TASK, "tq")
        body = start(task, deadline_ms=workflows.fold.now_ms - 1)
        workflows.send(body)
        assert workflows.returned == [PollReturned(task.namespace, WORKFLOW_TASK, body.poll)]
        again = workflows.take(WORKFLOW_TASK, "tq")
        assert again.at_head
        assert workflows.deliver(again) is not None

    def test_an_undelivered_workflow_task_is_another_one_at_once(self, workflows: Workflows) -> None:
        task = workflows.take(WORKFLOW_TASK, "tq")
        workflows.deliver(task)
        workflows.send(undelivered(task, workflows.calls))
        again = workflows.poll()
        assert again.attempt == 1
        workflows.respond(again, activity())
        assert workflows.kinds() == ["ACTIVITY_TASK_SCHEDULED"]

    @pytest.mark.parametrize(("logic", "at_head"), [(2, False), (3, True)])
    def test_rule_9_an_undelivered_workflow_task_goes_to_the_head_since_logic_version_3(
        self, logic: int, at_head: bool
    ) -> None:
        workflows = Workflows(logic_version=logic)
        workflows.start()
        task = workflows.take(WORKFLOW_TASK, "tq")
        workflows.deliver(task)
        workflows.send(undelivered(task, workflows.calls))
        assert workflows.take(WORKFLOW_TASK, "tq").at_head is at_head

    def test_an_undelivered_activity_task_keeps_its_attempt(self, workflows: Workflows) -> None:
        workflows.step(activity())
        task = workflows.take(ACTIVITY_TASK, "act")
        workflows.deliver(task)
        workflows.send(undelivered(task, workflows.calls))
        assert workflows.poll_activity().attempt == 1

    def test_what_comes_late_of_an_undelivered_task_changes_nothing(self, workflows: Workflows) -> None:
        task = workflows.take(WORKFLOW_TASK, "tq")
        data = workflows.deliver(task)
        assert data is not None
        workflows.send(undelivered(task, workflows.calls))
        with pytest.raises(CallError):
            workflows.respond(PollWorkflowTaskQueueResponse.FromString(data), activity())
        workflows.send(undelivered(task, workflows.calls))
        assert workflows.waiting(WORKFLOW_TASK, "tq") == 1


class TestRule20:
    """An obsolete task gives its poll back, with id and deadline; a sticky queue nobody polls its tasks."""

    def test_a_poll_that_met_an_obsolete_task_waits_on(self) -> None:
        workflows = Workflows()
        workflows.start()
        task = workflows.take(WORKFLOW_TASK, "tq")
        workflows.terminate()
        body = start(task, deadline_ms=workflows.fold.now_ms + 5_000)
        workflows.send(body)
        assert workflows.returned == [PollReturned(task.namespace, WORKFLOW_TASK, body.poll)]

    def test_a_returned_poll_gets_the_next_task(self) -> None:
        matching = Folding(MatchingProcessor)
        matching.send(bodies.PollTask("ns", "q", WORKFLOW_TASK, "i", matching.now_ms + 60_000, b""), KEY, 1)
        (first,) = emitted(matching.send(TASK, KEY))
        matching.send(PollReturned("ns", WORKFLOW_TASK, first.poll), KEY)
        (second,) = emitted(matching.send(msgspec.structs.replace(TASK, workflow_id="x"), KEY))
        assert (second.workflow_id, second.poll) == ("x", first.poll)

    def test_tasks_leave_a_sticky_queue_that_nobody_polls(self) -> None:
        matching = Folding(MatchingProcessor)
        matching.send(bodies.PollTask("ns", "q", WORKFLOW_TASK, "i", matching.now_ms + 10, b"", True), KEY, 1)
        matching.pass_time(100)
        matching.send(msgspec.structs.replace(TASK, sticky=True), KEY)
        outcomes = matching.pass_time(10_000)
        back = [type(body) for outcome in outcomes for body in emitted(outcome)]
        assert bodies.StickyUnavailable in back


class TestRule21:
    """Pages are contiguous, or waited for, or UNAVAILABLE."""

    def test_a_page_ends_where_events_are_missing(self) -> None:
        world = World(4)
        world.history.crash(wiped=True)
        got: list[Any] = []
        reply = Reply(0, "", b"", "run", 1, 3, "poll-workflow")
        drive(Histories(Backend(world, world.gateways[0])).attach(reply), got.append)  # type: ignore[arg-type]
        (error,) = got
        assert isinstance(error, ApiError)
        assert error.code == UNAVAILABLE

    def test_memory_and_store_give_one_page_without_a_gap(self) -> None:
        database = memory_database()
        sink = HistorySink(SqliteHistoryStore(Readers(database)))  # type: ignore[arg-type]
        commit(database, sink, batch(1, 2))
        fresh = HistorySink(SqliteHistoryStore(Readers(database)))  # type: ignore[arg-type]
        fresh.accept(batch(3))
        assert read(fresh, 1, 3) == [(event_id, event(event_id)) for event_id in (1, 2, 3)]
        database.execute("DELETE FROM history")
        assert read(fresh, 1, 3) == []
        assert read(fresh, 3, 3) == [(3, event(3))]


class TestRule22:
    """Stores hold what there was to write, whatever their writer went through."""

    def test_events_written_again_replace_themselves(self) -> None:
        database = memory_database()
        store = SqliteHistoryStore(Readers(database))  # type: ignore[arg-type]
        for _ in range(2):
            sink = HistorySink(store)
            commit(database, sink, batch(1, 2), batch(3))
        assert [data for _, data in read_events(database, "run", 1, 9, 1_000)] == [
            event(event_id) for event_id in (1, 2, 3)
        ]

    def test_an_older_row_does_not_stand(self) -> None:
        database = memory_database()
        store = SqliteVisibilityStore(Readers(database))  # type: ignore[arg-type]
        for version in (2, 1, 3, 2):
            sink = VisibilitySink(store, lambda namespace: {})
            commit(database, sink, row(version))
        ((stood,),) = database.execute("SELECT version FROM visibility")
        assert stood == 3

    def test_rows_and_position_go_together(self) -> None:
        """The writer of a simulation dies often, also without its stores; these are held against the facts."""
        crashes = 0
        for seed in range(3):
            world = World(seed)
            world.run()
            crashes += world.history.crashes
        assert crashes


class TestRule23:
    """A reset is prepared from stored events; history verifies it and opens the run."""

    @pytest.fixture
    def workflows(self) -> Workflows:
        workflows = Workflows()
        workflows.start()
        return workflows

    def test_the_new_run_is_what_the_stored_events_make(self, workflows: Workflows) -> None:
        workflows.step(activity())
        preparation = Preparation(workflows, 4)
        assert preparation.send(preparation.page()) == NEW
        assert [
            e.SerializeToString(deterministic=True) for e in workflows.events[NEW][:3]
        ] == preparation.events
        workflows.fold.check_refold()

    @pytest.mark.parametrize(
        ("harm", "code"),
        [
            ({"point_hash": b"another event"}, errors.INTERNAL),
            ({"seen": (bodies.NumberPair("no run", 1),)}, errors.ABORTED),
            ({"first_event_id": 2}, errors.UNAVAILABLE),
        ],
    )
    def test_what_does_not_fit_opens_no_run(
        self, workflows: Workflows, harm: dict[str, Any], code: int
    ) -> None:
        (base,) = workflows.events
        workflows.step(activity())
        preparation = Preparation(workflows, 4)
        with pytest.raises(CallError) as refused:
            preparation.send(preparation.page(**harm))
        assert refused.value.code == code
        assert not [run_id for run_id in workflows.rows if run_id != base]
        assert workflows.poll_activity().workflow_execution.run_id == base


# --- what the tests share ---

KEY = "ns/q/workflow/0"
TASK = AddTask("ns", "q", WORKFLOW_TASK, "w", "run-w", 2, 1, 0)


def start(task: AddTask, deadline_ms: int) -> StartTask:
    """A poll that ends at `deadline_ms` was matched with a task."""
    poll = Poll(OTHER_GATEWAY, EPOCH, 77, deadline_ms, "i", b"", task.queue)
    return StartTask(
        task.namespace,
        task.workflow_id,
        task.run_id,
        task.task_kind,
        task.scheduled_event_id,
        task.attempt,
        task.stamp,
        task.query_id,
        poll,
    )


def undelivered(task: AddTask, poll_id: int) -> TaskUndelivered:
    """A started task reached nobody."""
    return TaskUndelivered(
        task.namespace,
        task.workflow_id,
        task.run_id,
        task.task_kind,
        task.scheduled_event_id,
        task.attempt,
        task.stamp,
        task.query_id,
        poll_id,
    )


def memory_database() -> sqlite3.Connection:
    """A database with the tables of both stores."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(database)
    return database


def commit(database: sqlite3.Connection, sink: Any, *accepted: Any) -> None:
    """Have a sink write what it gets."""
    for body in accepted:
        sink.accept(body)
    write = sink.freeze()
    assert write is not None
    database.execute("BEGIN")
    write(database)
    database.execute("COMMIT")
    sink.written()


def read(sink: HistorySink, first: int, last: int) -> list[tuple[int, bytes]]:
    """A page of the run's events."""
    got: list[Any] = []
    drive(sink.read("run", first, last, 1_000), got.append)
    found: list[tuple[int, bytes]] = got[0]
    return found


def batch(first: int, count: int = 1) -> bodies.HistoryBatch:
    """So many events of the run, from `first` on."""
    last = first + count - 1
    events = tuple(event(event_id) for event_id in range(first, last + 1))
    return bodies.HistoryBatch("ns", "w", "run", first, last, 1_000, events)


def event(event_id: int) -> bytes:
    """An event of the run."""
    return HistoryEvent(event_id=event_id).SerializeToString()


def row(version: int) -> bodies.RunVisible:
    """What lists show of the run, at a version."""
    return bodies.RunVisible(
        namespace="ns",
        workflow_id="w",
        run_id="run",
        version=version,
        workflow_type="t",
        task_queue="q",
        status=1,
        start_time_ns=1,
        execution_time_ns=1,
        close_time_ns=0,
        history_length=0,
        history_size_bytes=0,
        state_transition_count=0,
        parent_workflow_id="",
        parent_run_id="",
        root_workflow_id="w",
        root_run_id="run",
        memo=b"",
        search_attributes=b"",
    )
