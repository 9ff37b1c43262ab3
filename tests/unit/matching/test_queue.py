"""What tasks and polls do to each other in the matching processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import DoubleValue
from temporalio.api.taskqueue.v1 import TaskQueueMetadata
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueRequest

from streams.bodies import (
    AddTask,
    CancelPoll,
    DropQuery,
    GatewayLease,
    LimitsChanged,
    NumberPair,
    PollReturned,
    PollTask,
    QueueCall,
    StartTask,
    StickyUnavailable,
)
from streams.matching_processor import MatchingProcessor
from streams.runtime.context import Context
from streams.runtime.partition import Outcome
from streams.runtime.records import Correlation, Record, Reply
from streams.topology import COMMANDS
from tests.support.folding import EPOCH, GATEWAY, START_MS, Folding, emitted, replied

QUEUE = "ns/q/workflow/0"
ACTIVITIES = "ns/q/activity/0"
STICKY = "ns/worker-1/workflow/0"
POLL_MS = 60_000
IDLE_MS = 300_000


@pytest.fixture
def folding() -> Iterator[Folding]:
    """A partition whose whole log is folded again when the test is over."""
    folding = Folding(MatchingProcessor)
    yield folding
    folding.check_refold()


def task(name: str, **fields: Any) -> AddTask:
    return AddTask("ns", "q", "workflow", name, f"run-{name}", 2, 1, 0, **fields)


def add(folding: Folding, name: str, key: str = QUEUE, after_ms: int = 0, **fields: Any) -> Outcome:
    return folding.send(task(name, **fields), key, after_ms=after_ms)


def poll(folding: Folding, call_id: int, key: str = QUEUE, **fields: Any) -> Outcome:
    after_ms = fields.pop("after_ms", 0)
    wait_ms = fields.pop("wait_ms", POLL_MS)
    identity = fields.pop("identity", "worker")
    body = PollTask(
        "ns",
        "q",
        key.split("/")[2],
        identity,
        folding.now_ms + after_ms + wait_ms,
        fields.pop("request", b""),
        **fields,
    )
    return folding.send(body, key, call_id=call_id, after_ms=after_ms)


def started(outcome: Outcome) -> list[tuple[str, int]]:
    """(workflow id, call id of the poll) of every StartTask."""
    return [(body.workflow_id, body.poll.id) for body in emitted(outcome) if isinstance(body, StartTask)]


def all_started(outcomes: list[Outcome]) -> list[tuple[str, int]]:
    return [pair for outcome in outcomes for pair in started(outcome)]


def handed_back(outcome: Outcome) -> list[str]:
    return [body.workflow_id for body in emitted(outcome) if isinstance(body, StickyUnavailable)]


def test_a_task_goes_to_the_poll_that_waits(folding: Folding) -> None:
    assert emitted(poll(folding, 7)) == []
    outcome = add(folding, "a", priority=4)
    [record] = outcome.emissions
    assert (record.topic, record.key) == (COMMANDS, "ns/a")
    assert started(outcome) == [("a", 7)]
    assert record.body.poll.deadline_ms == START_MS + POLL_MS
    assert outcome.replies == []


def test_tasks_and_polls_are_served_in_order_of_arrival(folding: Folding) -> None:
    for name in "abcde":
        add(folding, name)
    assert [started(poll(folding, i)) for i in range(3)] == [[("a", 0)], [("b", 1)], [("c", 2)]]
    folding.restart()
    assert started(poll(folding, 3)) == [("d", 3)]
    poll(folding, 4)
    for i in (5, 6, 7):
        poll(folding, i)
    folding.restart()
    assert [started(add(folding, name)) for name in "fgh"] == [[("f", 5)], [("g", 6)], [("h", 7)]]


def test_at_head_goes_before_the_others(folding: Folding) -> None:
    add(folding, "a")
    add(folding, "b", at_head=True)
    add(folding, "c", at_head=True)
    folding.restart()
    assert [started(poll(folding, i)) for i in range(3)] == [[("c", 0)], [("b", 1)], [("a", 2)]]


def test_an_urgent_task_has_a_head_start_of_half_a_second(folding: Folding) -> None:
    add(folding, "oldest")
    add(folding, "old", after_ms=1)
    add(folding, "update", after_ms=500, urgent=True)
    add(folding, "query", urgent=True)
    add(folding, "back", urgent=True, at_head=True)
    order = [started(poll(folding, call_id))[0][0] for call_id in range(1, 6)]
    assert order == ["oldest", "back", "update", "query", "old"]


def test_urgent_tasks_without_end_do_not_starve_the_others(folding: Folding) -> None:
    add(folding, "plain")
    for number in range(20):
        add(folding, f"urgent-{number}", after_ms=100, urgent=True)
        add(folding, f"urgent-{number}-b", urgent=True)
        if ("plain", number) in started(poll(folding, number)):
            break
    assert number == 10


def test_queues_are_apart(folding: Folding) -> None:
    poll(folding, 1, "ns/q/activity/0")
    poll(folding, 2, "other/q/workflow/0")
    assert emitted(add(folding, "a")) == []


def test_a_poll_is_matched_at_most_once(folding: Folding) -> None:
    poll(folding, 1)
    poll(folding, 1)
    assert started(add(folding, "a")) == [("a", 1)]
    assert started(add(folding, "b")) == []


def test_a_record_appended_twice_counts_once(folding: Folding) -> None:
    add(folding, "a")
    again = folding.log[-1]
    folding.append(again)
    assert started(poll(folding, 1)) == [("a", 1)]
    assert started(poll(folding, 2)) == []


def test_a_cancelled_poll_gets_no_task(folding: Folding) -> None:
    for i in (1, 2, 3):
        poll(folding, i)
    outcome = folding.send(CancelPoll(GATEWAY, EPOCH, 2), QUEUE)
    assert outcome.replies == []
    assert [started(add(folding, name)) for name in "abc"] == [[("a", 1)], [("b", 3)], []]


def test_a_poll_lapses_with_an_empty_answer_and_not_early(folding: Folding) -> None:
    poll(folding, 1, wait_ms=1_000)
    poll(folding, 2, wait_ms=500)
    poll(folding, 3, wait_ms=POLL_MS)
    assert replied(folding.tick(after_ms=499)) == []
    assert replied(folding.tick(after_ms=100)) == [(2, Reply())]
    folding.restart()
    answers = [answer for outcome in folding.pass_time(POLL_MS) for answer in replied(outcome)]
    assert answers == [(1, Reply()), (3, Reply())]
    assert emitted(add(folding, "a")) == []


def test_a_poll_past_its_deadline_is_not_matched_before_the_tick_comes(folding: Folding) -> None:
    poll(folding, 1, wait_ms=1_000)
    poll(folding, 2)
    outcome = add(folding, "a", after_ms=1_000)
    assert started(outcome) == [("a", 2)]
    assert replied(outcome) == [(1, Reply())]
    assert replied(poll(folding, 3, wait_ms=0)) == [(3, Reply())]


def test_a_returned_poll_waits_on_ahead_of_the_others(folding: Folding) -> None:
    poll(folding, 1)
    [start] = emitted(add(folding, "a"))
    poll(folding, 2)
    folding.send(PollReturned("ns", "workflow", start.poll), QUEUE)
    folding.restart()
    assert started(add(folding, "b")) == [("b", 1)]
    assert started(add(folding, "c")) == [("c", 2)]


def test_a_returned_poll_takes_the_next_task(folding: Folding) -> None:
    add(folding, "a")
    add(folding, "b")
    [start] = emitted(poll(folding, 1))
    assert started(folding.send(PollReturned("ns", "workflow", start.poll), QUEUE)) == [("b", 1)]


def test_a_poll_cancelled_while_out_does_not_come_back(folding: Folding) -> None:
    add(folding, "a")
    [start] = emitted(poll(folding, 1))
    folding.send(CancelPoll(GATEWAY, EPOCH, 1), QUEUE)
    folding.restart()
    folding.send(PollReturned("ns", "workflow", start.poll), QUEUE)
    assert emitted(add(folding, "b")) == []


def test_a_returned_poll_past_its_deadline_is_answered(folding: Folding) -> None:
    add(folding, "a")
    [start] = emitted(poll(folding, 1, wait_ms=1_000))
    outcome = folding.send(PollReturned("ns", "workflow", start.poll), QUEUE, after_ms=1_000)
    assert replied(outcome) == [(1, Reply())]
    assert emitted(add(folding, "b")) == []


def test_cancelled_polls_are_remembered_in_bounds_and_not_for_ever(folding: Folding) -> None:
    for i in range(1_100):
        folding.send(CancelPoll(GATEWAY, EPOCH, i), QUEUE)
    entity = folding.partition.tables["queues"].entity(QUEUE)
    assert entity.count("ended") == 1_000
    folding.pass_time(IDLE_MS)
    assert folding.partition.tables["queues"].entity(QUEUE).empty


def test_polls_of_an_earlier_epoch_are_over(folding: Folding) -> None:
    poll(folding, 1)
    poll(folding, 2)
    folding.send(GatewayLease(GATEWAY, EPOCH + 1, 0), GATEWAY)
    folding.restart()
    assert emitted(add(folding, "a")) == []
    assert emitted(poll(folding, 3)) == []
    assert [outcome.replies for outcome in folding.pass_time(POLL_MS) if outcome.replies] == []


def test_a_lapsed_gateway_gets_no_task_until_it_renews(folding: Folding) -> None:
    poll(folding, 1)
    folding.send(GatewayLease(GATEWAY, EPOCH, folding.now_ms + 6_000), GATEWAY)
    assert emitted(add(folding, "a", after_ms=6_001)) == []
    assert emitted(add(folding, "b")) == []
    folding.restart()
    outcome = folding.send(GatewayLease(GATEWAY, EPOCH, folding.now_ms + 6_000), GATEWAY)
    assert started(outcome) == [("a", 1)]
    assert started(poll(folding, 2)) == [("b", 2)]


def test_another_gateway_is_served_while_one_has_lapsed(folding: Folding) -> None:
    poll(folding, 1)
    folding.send(GatewayLease(GATEWAY, EPOCH, folding.now_ms + 6_000), GATEWAY, after_ms=1)
    folding.now_ms += 7_000
    body = PollTask("ns", "q", "workflow", "worker", folding.now_ms + POLL_MS, b"")
    folding.append(
        Record(
            *("tasks", 0, QUEUE, body),
            source="gateway-2",
            origin_epoch=5,
            origin_offset=1,
            correlation=Correlation("gateway-2", 5, 9),
        )
    )
    assert started(add(folding, "a")) == [("a", 9)]
    assert replied(folding.tick(after_ms=POLL_MS))[0] == (1, Reply())


def test_expired_tasks_are_not_handed_out(folding: Folding) -> None:
    add(folding, "a", expires_ms=folding.now_ms)
    add(folding, "b", expires_ms=folding.now_ms + 1_000)
    add(folding, "c", expires_ms=folding.now_ms + 3_000)
    assert started(poll(folding, 1, after_ms=1_000)) == [("c", 1)]


def test_a_sticky_queue_without_a_worker_hands_back_at_once(folding: Folding) -> None:
    outcome = add(folding, "a", STICKY, sticky=True)
    assert handed_back(outcome) == ["a"]
    assert outcome.emissions[0].key == "ns/a"
    assert folding.partition.tables["queues"].entity(STICKY).empty


def test_a_sticky_queue_holds_tasks_for_ten_seconds(folding: Folding) -> None:
    poll(folding, 1, STICKY, sticky=True)
    assert started(add(folding, "a", STICKY, sticky=True)) == [("a", 1)]
    for name in "bc":
        assert emitted(add(folding, name, STICKY, sticky=True, after_ms=1_000)) == []
    folding.restart()
    assert all(handed_back(outcome) == [] for outcome in folding.pass_time(7_999))
    assert [names for outcome in folding.pass_time(1) if (names := handed_back(outcome))] == [["b", "c"]]
    assert handed_back(add(folding, "d", STICKY, sticky=True)) == ["d"]


def test_a_sticky_worker_that_polls_again_keeps_its_tasks(folding: Folding) -> None:
    poll(folding, 1, STICKY, sticky=True)
    for name in "abc":
        add(folding, name, STICKY, sticky=True)
    assert started(poll(folding, 2, STICKY, sticky=True, after_ms=9_000)) == [("b", 2)]
    assert all(handed_back(outcome) == [] for outcome in folding.pass_time(9_999))
    assert [names for outcome in folding.pass_time(1) if (names := handed_back(outcome))] == [["c"]]


def test_shutdown_ends_a_sticky_queue(folding: Folding) -> None:
    poll(folding, 1, STICKY, sticky=True)
    for i in range(1_500):
        add(folding, f"w{i:04d}", STICKY, sticky=True)
    poll(folding, 2, STICKY, sticky=True)
    outcome = folding.send(QueueCall("ShutdownWorker", "ns", "worker-1", "workflow", b""), STICKY, call_id=9)
    rest = folding.pass_time(0)
    names = [name for step in [outcome, *rest] for name in handed_back(step)]
    assert names == [f"w{i:04d}" for i in range(2, 1_500)]
    assert (9, Reply()) in replied(outcome)
    assert handed_back(add(folding, "x", STICKY, sticky=True)) == ["x"]


def test_shutdown_answers_waiting_polls(folding: Folding) -> None:
    poll(folding, 1, STICKY, sticky=True)
    outcome = folding.send(QueueCall("ShutdownWorker", "ns", "worker-1", "workflow", b""), STICKY, call_id=9)
    assert replied(outcome) == [(1, Reply()), (9, Reply())]
    assert folding.partition.tables["queues"].entity(STICKY).empty
    assert folding.partition.due.get(STICKY) is None


def test_polls_are_limited(folding: Folding) -> None:
    folding.send(LimitsChanged((NumberPair("odradek.waitingPolls", 3), NumberPair("other", 1))), "limits")
    for i in range(3):
        assert replied(poll(folding, i)) == []
    folding.restart()
    [(call_id, reply)] = replied(poll(folding, 3))
    assert (call_id, reply.code) == (3, 8)
    assert "too many polls" in reply.message
    folding.send(GatewayLease(GATEWAY, EPOCH + 1, 0), GATEWAY)
    body = PollTask("ns", "q", "workflow", "worker", folding.now_ms + POLL_MS, b"")
    outcome = folding.append(
        Record(
            *("tasks", 0, QUEUE, body),
            source="gateway-1",
            origin_epoch=EPOCH + 1,
            origin_offset=1,
            correlation=Correlation(GATEWAY, EPOCH + 1, 1),
        )
    )
    assert outcome.replies == []


def ask(folding: Folding, call_id: int, for_ms: int = 30_000, **fields: Any) -> Outcome:
    body = AddTask(
        *("ns", "q", "query", f"w{call_id}", "run", 0, 1, 0),
        query_id=f"query-{call_id}",
        expires_ms=folding.now_ms + for_ms,
        **fields,
    )
    return folding.send(body, QUEUE, call_id=call_id)


def all_replied(outcomes: list[Outcome]) -> list[tuple[int, int, str]]:
    return [(id, reply.code, reply.message) for outcome in outcomes for id, reply in replied(outcome)]


NO_POLLER = "no poller seen for task queue recently, worker may be down"


def test_a_query_that_no_worker_comes_for_is_answered_a_second_before_its_end(folding: Folding) -> None:
    ask(folding, 1)
    folding.restart()
    assert all_replied(folding.pass_time(28_999)) == []
    assert all_replied(folding.pass_time(1)) == [(1, 9, NO_POLLER)]
    assert started(poll(folding, 2)) == []


def test_a_query_waits_on_when_a_worker_was_there_in_the_window(folding: Folding) -> None:
    folding.send(LimitsChanged((NumberPair("matching.queryPollerUnavailableWindow", 40_000),)), "limits")
    poll(folding, 1, wait_ms=1_000)
    folding.pass_time(1_000)
    ask(folding, 2)
    ask(folding, 3, for_ms=50_000)
    assert all_replied(folding.pass_time(48_999)) == []
    assert all_replied(folding.pass_time(1)) == [(3, 9, NO_POLLER)]


def test_a_query_that_a_worker_took_is_not_given_up(folding: Folding) -> None:
    ask(folding, 1)
    assert started(poll(folding, 2)) == [("w1", 2)]
    add(folding, "a")
    assert all_replied(folding.pass_time(30_000)) == []
    assert started(poll(folding, 3)) == [("a", 3)]


def test_a_query_that_nobody_waits_for_leaves_the_queue(folding: Folding) -> None:
    for call_id in (1, 2):
        ask(folding, call_id)
    folding.restart()
    folding.send(DropQuery("query-1"), QUEUE)
    folding.send(DropQuery("query-1"), QUEUE)
    assert started(poll(folding, 3)) == [("w2", 3)]
    folding.send(DropQuery("query-2"), QUEUE)
    assert started(poll(folding, 4)) == []
    assert all_replied(folding.pass_time(30_000)) == []


def test_an_idle_queue_is_deleted_after_five_minutes(folding: Folding) -> None:
    add(folding, "a")
    poll(folding, 1)
    poll(folding, 2, wait_ms=10_000)
    folding.restart()
    folding.pass_time(10_000 + IDLE_MS - 1)
    queues = folding.partition.tables["queues"]
    assert not queues.entity(QUEUE).empty
    folding.pass_time(1)
    assert queues.entity(QUEUE).empty
    folding.store.checkpoint(folding.partition)
    assert queues.keys("") == []
    assert folding.store.dues == {"tasks/0": {}}


def test_a_backlog_stays_however_long_it_waits(folding: Folding) -> None:
    add(folding, "a")
    folding.pass_time(3 * IDLE_MS)
    folding.restart()
    assert started(poll(folding, 1)) == [("a", 1)]


def test_a_busy_queue_writes_few_wakes(folding: Folding) -> None:
    folding.tick()
    armed = set()
    for i in range(500):
        poll(folding, i, after_ms=10)
        add(folding, f"w{i}", after_ms=10)
        armed.add(folding.partition.due.get(QUEUE))
    assert len(armed) == 1


def test_tasks_go_out_at_the_rate_workers_ask_for(folding: Folding) -> None:
    slow = PollActivityTaskQueueRequest(
        identity="worker", task_queue_metadata=TaskQueueMetadata(max_tasks_per_second=DoubleValue(value=2.0))
    ).SerializeToString()
    for i in range(6):
        poll(folding, i, ACTIVITIES, request=slow)
    at_once = [started(add(folding, f"w{i}", ACTIVITIES)) for i in range(6)]
    assert at_once == [[("w0", 0)], [("w1", 1)], [], [], [], []]
    assert all_started(folding.pass_time(499)) == []
    assert all_started(folding.pass_time(1)) == [("w2", 2)]
    folding.restart()
    assert all_started(folding.pass_time(500)) == [("w3", 3)]
    assert started(poll(folding, 9, ACTIVITIES)) == [("w4", 4), ("w5", 5)], "asking for no rate lifts it"


def test_a_rate_of_zero_stops_a_queue_until_it_changes(folding: Folding) -> None:
    stop = PollActivityTaskQueueRequest(
        task_queue_metadata=TaskQueueMetadata(max_tasks_per_second=DoubleValue(value=0.0))
    ).SerializeToString()
    poll(folding, 1, ACTIVITIES, request=stop)
    add(folding, "a", ACTIVITIES)
    assert all_started(folding.pass_time(30_000)) == []
    assert started(poll(folding, 2, ACTIVITIES)) == [("a", 1)]


def test_a_bad_poll_changes_nothing_and_is_answered(folding: Folding) -> None:
    outcome = poll(folding, 1, ACTIVITIES, request=b"\xff\xff")
    assert [letter.type for letter in outcome.verdicts] == ["PollTask"]
    assert [(call_id, reply.code) for call_id, reply in replied(outcome)] == [(1, 13)]
    assert emitted(add(folding, "a", ACTIVITIES)) == []
    assert started(poll(folding, 2, ACTIVITIES)) == [("a", 2)]


def test_a_body_of_another_topic_is_a_verdict(folding: Folding) -> None:
    outcome = folding.send(StickyUnavailable("ns", "a", "r", "workflow", 1, 1, 0, ""), QUEUE)
    assert "does not belong" in outcome.verdicts[0].reason
    outcome = folding.send(QueueCall("ListWorkers", "ns", "q", "workflow", b""), QUEUE, call_id=4)
    assert "not a call about a task queue" in outcome.verdicts[0].reason


def test_a_task_survives_the_failure_of_its_step() -> None:
    class Faulty(MatchingProcessor):
        def fold(self, context: Context, record: Record) -> None:
            super().fold(context, record)
            if record.body == task("a"):
                raise ArithmeticError("planted")

    folding = Folding(Faulty)
    poll(folding, 1)
    outcome = add(folding, "a")
    assert emitted(outcome) == []
    assert "planted" in outcome.verdicts[0].reason
    assert all_started(folding.pass_time(0)) == [("a", 1)]
    poll(folding, 2)
    assert started(add(folding, "b")) == [("b", 2)]
    folding.pass_time(3 * IDLE_MS)
    assert folding.partition.tables["queues"].entity(QUEUE).empty
    folding.check_refold()


def test_a_task_that_fails_whenever_it_is_paired_waits_for_other_code() -> None:
    class Faulty(MatchingProcessor):
        def due(self, context: Context, key: str, payload: int) -> None:
            super().due(context, key, payload)
            if emissions(context):
                raise ArithmeticError("planted")

        def fold(self, context: Context, record: Record) -> None:
            super().fold(context, record)
            if emissions(context):
                raise ArithmeticError("planted")

    def emissions(context: Context) -> list[Any]:
        return [emission for emission in context.emissions if isinstance(emission[3], StartTask)]

    folding = Folding(Faulty)
    poll(folding, 1)
    assert add(folding, "a").verdicts
    assert [len(outcome.verdicts) for outcome in folding.pass_time(0)] == [1, 0]
    assert folding.partition.tables["queues"].entity(QUEUE).count("task") == 1
    folding.check_refold()
