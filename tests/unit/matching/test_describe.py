"""DescribeTaskQueue, as the real server 1.29.1 answers it with one partition a queue."""

from __future__ import annotations

import pytest
from google.protobuf.text_format import Parse
from google.protobuf.wrappers_pb2 import DoubleValue
from temporalio.api.common.v1 import WorkerVersionCapabilities
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueMetadata, TaskQueueVersionSelection
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    PollActivityTaskQueueRequest,
)

from streams.bodies import AddTask, PollTask, QueueCall
from streams.matching.describe import merged
from streams.matching_processor import MatchingProcessor
from streams.runtime.records import Reply
from tests.support.folding import START_MS, Folding, replied

SECOND = START_MS // 1000


@pytest.fixture
def folding() -> Folding:
    return Folding(MatchingProcessor)


def call(folding: Folding, kind: str = "workflow", **fields: object) -> Reply:
    request = DescribeTaskQueueRequest(namespace="ns", **fields)
    body = QueueCall("DescribeTaskQueue", "ns", "q", kind, request.SerializeToString())
    [(_, reply)] = replied(folding.send(body, f"ns/q/{kind}/0", call_id=99))
    return reply


def described(folding: Folding, kind: str = "workflow", **fields: object) -> DescribeTaskQueueResponse:
    reply = call(folding, kind, **fields)
    assert reply.code == 0
    return DescribeTaskQueueResponse.FromString(reply.body)


def add(folding: Folding, name: str, after_ms: int = 0) -> None:
    folding.send(AddTask("ns", "q", "workflow", name, "r", 1, 1, 0), "ns/q/workflow/0", after_ms=after_ms)


def poll(folding: Folding, identity: str, kind: str = "workflow", request: bytes = b"") -> None:
    body = PollTask("ns", "q", kind, identity, folding.now_ms + 60_000, request)
    folding.send(body, f"ns/q/{kind}/0", call_id=len(folding.log))


def test_an_unknown_queue_is_empty_and_stays_unknown(folding: Folding) -> None:
    expected = """
        versioning_info { current_version: "__unversioned__" }
        effective_rate_limit { requests_per_second: 4000 rate_limit_source: RATE_LIMIT_SOURCE_SYSTEM }
    """
    assert described(folding) == Parse(expected, DescribeTaskQueueResponse())
    folding.store.checkpoint(folding.partition)
    assert folding.store.rows == {}


def test_status_and_stats_of_an_unknown_queue(folding: Folding) -> None:
    expected = """
        task_queue_status { rate_per_second: 4000 task_id_block { start_id: 1 end_id: 100000 } }
        versioning_info { current_version: "__unversioned__" }
        stats { approximate_backlog_age {} }
        effective_rate_limit { requests_per_second: 4000 rate_limit_source: RATE_LIMIT_SOURCE_SYSTEM }
        stats_by_priority_key { key: 3 value { approximate_backlog_age {} } }
    """
    response = described(folding, include_task_queue_status=True, report_stats=True)
    assert response == Parse(expected, DescribeTaskQueueResponse())


def test_backlog_count_and_age(folding: Folding) -> None:
    add(folding, "a")
    add(folding, "b", after_ms=1_500)
    add(folding, "c", after_ms=500)
    response = described(folding, include_task_queue_status=True, report_stats=True)
    assert response.task_queue_status.backlog_count_hint == 3
    assert response.stats.approximate_backlog_count == 3
    assert response.stats.approximate_backlog_age.ToMilliseconds() == 2_000
    poll(folding, "w")
    assert described(folding, report_stats=True).stats.approximate_backlog_age.ToMilliseconds() == 500


def test_rates_are_over_the_last_thirty_seconds(folding: Folding) -> None:
    for i in range(20):
        add(folding, f"w{i}", after_ms=500)
    for _ in range(10):
        poll(folding, "w")
    stats = described(folding, report_stats=True).stats
    assert stats.tasks_add_rate == pytest.approx(20 / 9.5)
    assert stats.tasks_dispatch_rate == 0, "no time has passed since the first"
    folding.now_ms += 10_000
    stats = described(folding, report_stats=True).stats
    assert stats.tasks_add_rate == pytest.approx(20 / 19.5)
    assert stats.tasks_dispatch_rate == pytest.approx(1)
    folding.now_ms += 60_000
    stats = described(folding, report_stats=True).stats
    assert (stats.tasks_add_rate, stats.tasks_dispatch_rate) == (0, 0)


def test_pollers_of_the_last_five_minutes(folding: Folding) -> None:
    poll(folding, "one")
    poll(folding, "")
    folding.now_ms += 200_000
    poll(folding, "two")
    seen = [(info.identity, info.last_access_time.seconds) for info in described(folding).pollers]
    assert seen == [("one", SECOND), ("two", SECOND + 200)]
    assert [info.rate_per_second for info in described(folding).pollers] == [100_000, 100_000]
    folding.now_ms += 200_000
    assert [info.identity for info in described(folding).pollers] == ["two"]


def test_what_an_activity_worker_asks_for_is_shown(folding: Folding) -> None:
    request = PollActivityTaskQueueRequest(
        task_queue_metadata=TaskQueueMetadata(max_tasks_per_second=DoubleValue(value=5.0)),
        worker_version_capabilities=WorkerVersionCapabilities(build_id="b1"),
    )
    poll(folding, "act", "activity", request.SerializeToString())
    response = described(folding, "activity", include_task_queue_status=True)
    expected = f"""
        pollers {{
          last_access_time {{ seconds: {SECOND} }}
          identity: "act"
          rate_per_second: 5
          worker_version_capabilities {{ build_id: "b1" }}
        }}
        task_queue_status {{ rate_per_second: 5 task_id_block {{ start_id: 1 end_id: 100000 }} }}
        versioning_info {{ current_version: "__unversioned__" }}
        effective_rate_limit {{ requests_per_second: 5 rate_limit_source: RATE_LIMIT_SOURCE_WORKER }}
    """
    assert response == Parse(expected, DescribeTaskQueueResponse())


def test_enhanced_mode_shows_each_type_and_merges(folding: Folding) -> None:
    poll(folding, "w")
    poll(folding, "act", "activity")
    fields = {"api_mode": 1, "report_pollers": True, "report_stats": True, "report_task_reachability": True}
    both = [call(folding, kind, **fields).body for kind in ("workflow", "activity")]
    response = DescribeTaskQueueResponse.FromString(merged(both))
    info = response.versions_info[""]
    assert info.task_reachability == 1
    assert [(number, [p.identity for p in info.types_info[number].pollers]) for number in (1, 2)] == [
        (1, ["w"]),
        (2, ["act"]),
    ]
    assert all(info.types_info[number].HasField("stats") for number in (1, 2))


def test_enhanced_mode_of_chosen_versions(folding: Folding) -> None:
    poll(folding, "w")
    versions = TaskQueueVersionSelection(build_ids=["a"])
    response = described(folding, api_mode=1, report_pollers=True, versions=versions)
    expected = """
        versions_info { key: "a" value { types_info { key: 1 value {} } } }
    """
    assert response == Parse(expected, DescribeTaskQueueResponse())
    versions = TaskQueueVersionSelection(unversioned=True)
    assert list(described(folding, api_mode=1, versions=versions).versions_info) == [""]


def test_a_sticky_queue_has_no_stats_and_no_versions(folding: Folding) -> None:
    sticky = TaskQueue(name="q", kind=2, normal_name="n")
    expected = """
        effective_rate_limit { requests_per_second: 4000 rate_limit_source: RATE_LIMIT_SOURCE_SYSTEM }
    """
    assert described(folding, task_queue=sticky) == Parse(expected, DescribeTaskQueueResponse())
    stats = call(folding, task_queue=sticky, report_stats=True)
    assert (stats.code, stats.message) == (
        3,
        "DescribeTaskQueue stats are only supported for the root partition",
    )
    enhanced = call(folding, task_queue=sticky, api_mode=1)
    assert enhanced.code == 3
    assert "not valid for a sticky queue" in enhanced.message
