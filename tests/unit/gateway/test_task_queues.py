"""Task queues are described in both modes of the API."""

from __future__ import annotations

import grpc
from temporalio.api.enums.v1 import DescribeTaskQueueMode, TaskQueueKind, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueVersionSelection
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    ListTaskQueuePartitionsRequest,
    PollActivityTaskQueueRequest,
    ShutdownWorkerRequest,
)

from tests.unit.gateway.conftest import NAMESPACE, Served, refusal

ENHANCED = DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
WORKFLOW = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
QUEUE = TaskQueue(name="q")


async def test_both_modes_tell_of_backlog_and_pollers(served: Served) -> None:
    await served.start()
    poll = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=QUEUE, identity="worker")
    waiting = served.workflows.PollActivityTaskQueue(poll, timeout=60)
    await served.signal()  # by its end the poll has arrived
    plain = await served.workflows.DescribeTaskQueue(
        DescribeTaskQueueRequest(namespace=NAMESPACE, task_queue=QUEUE, report_stats=True)
    )
    assert plain.stats.approximate_backlog_count == 1
    enhanced = await served.workflows.DescribeTaskQueue(
        DescribeTaskQueueRequest(
            namespace=NAMESPACE, task_queue=QUEUE, api_mode=ENHANCED, report_stats=True, report_pollers=True
        )
    )
    types = enhanced.versions_info[""].types_info
    assert types[WORKFLOW].stats.approximate_backlog_count == 1
    assert [poller.identity for poller in types[ACTIVITY].pollers] == ["worker"]
    waiting.cancel()


async def test_versions_that_are_asked_for_are_told_of(served: Served) -> None:
    response = await served.workflows.DescribeTaskQueue(
        DescribeTaskQueueRequest(
            namespace=NAMESPACE,
            task_queue=QUEUE,
            api_mode=ENHANCED,
            versions=TaskQueueVersionSelection(build_ids=["one", "two"]),
            task_queue_types=[ACTIVITY],
        )
    )
    assert {id: list(info.types_info) for id, info in response.versions_info.items()} == {
        "one": [ACTIVITY],
        "two": [ACTIVITY],
    }


async def test_types_without_task_queues_are_refused(served: Served) -> None:
    nexus = TaskQueueType.TASK_QUEUE_TYPE_NEXUS
    request = DescribeTaskQueueRequest(
        namespace=NAMESPACE, task_queue=QUEUE, api_mode=ENHANCED, task_queue_types=[nexus]
    )
    assert await refusal(served.workflows.DescribeTaskQueue(request)) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "This server has task queues for workflows and activities only.",
    )


async def test_reachability_of_too_many_build_ids_is_refused(served: Served) -> None:
    request = DescribeTaskQueueRequest(
        namespace=NAMESPACE,
        task_queue=QUEUE,
        api_mode=ENHANCED,
        report_task_reachability=True,
        versions=TaskQueueVersionSelection(build_ids=[f"build-{number}" for number in range(6)]),
    )
    assert await refusal(served.workflows.DescribeTaskQueue(request)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Too many build ids queried at once with ReportTaskReachability==true, limit: 5",
    )


async def test_sticky_queue_has_no_enhanced_description(served: Served) -> None:
    sticky = TaskQueue(name="s", kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY)
    request = DescribeTaskQueueRequest(namespace=NAMESPACE, task_queue=sticky, api_mode=ENHANCED)
    code, _ = await refusal(served.workflows.DescribeTaskQueue(request))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_queue_has_one_partition(served: Served) -> None:
    response = await served.workflows.ListTaskQueuePartitions(
        ListTaskQueuePartitionsRequest(namespace=NAMESPACE, task_queue=QUEUE)
    )
    assert [partition.key for partition in response.workflow_task_queue_partitions] == ["q"]
    assert [partition.key for partition in response.activity_task_queue_partitions] == ["q"]


async def test_worker_shuts_down_with_and_without_a_sticky_queue(served: Served) -> None:
    for sticky in ("", "sticky"):
        request = ShutdownWorkerRequest(namespace=NAMESPACE, sticky_task_queue=sticky)
        await served.workflows.ShutdownWorker(request)
