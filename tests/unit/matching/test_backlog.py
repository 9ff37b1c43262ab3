"""What the gauges of task queues are made of."""

from __future__ import annotations

from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest

from gateway.metrics import Registry
from gateway.service_metrics import ServiceMetrics
from streams.matching.backlog import QueueBacklog, backlogs
from streams.matching_processor import MatchingProcessor
from tests.support.folding import START_MS, Folding
from tests.unit.matching.test_queue import ACTIVITIES, QUEUE, STICKY, add, poll


def test_backlogs_count_what_waits_and_since_when() -> None:
    folding = Folding(MatchingProcessor, cache_parts=1_000)
    sticky = PollWorkflowTaskQueueRequest(
        task_queue=TaskQueue(name="worker-1", kind="TASK_QUEUE_KIND_STICKY")
    )
    poll(folding, 1, STICKY, request=sticky.SerializeToString())
    add(folding, "a", QUEUE)
    add(folding, "b", QUEUE, after_ms=5)
    add(folding, "c", ACTIVITIES)
    poll(folding, 2, ACTIVITIES)
    assert sorted(
        backlogs(folding.partition.tables["queues"]), key=lambda one: one.queue + str(one.count)
    ) == [
        QueueBacklog("ns", "q", True, 0, False, 0, 0),
        QueueBacklog("ns", "q", False, 0, False, 2, START_MS),
        QueueBacklog("ns", "worker-1", False, 0, True, 0, 0),
    ]


def test_gauges_have_the_real_servers_names_and_labels() -> None:
    registry = Registry()
    metrics = ServiceMetrics(registry, "0")
    waiting = QueueBacklog("default", "orders", False, 0, False, 3, 0)
    metrics.add_backlogs(lambda: [waiting])
    labels = (
        'service_name="matching",operation="TaskQueueMgr",namespace="default",taskqueue="orders",'
        'task_type="Workflow",partition="0",worker_build_id="__unversioned__"'
    )
    text = registry.render()
    assert f"approximate_backlog_count{{{labels}}} 3\n" in text
    assert f"approximate_backlog_age_seconds{{{labels}}} " in text
