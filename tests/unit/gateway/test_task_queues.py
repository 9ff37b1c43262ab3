"""DescribeTaskQueue in enhanced mode, as the CLI asks for it."""

from __future__ import annotations

import grpc
import pytest
from temporalio.api.enums.v1 import BuildIdTaskReachability, DescribeTaskQueueMode, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest

from tests.unit.gateway.conftest import NAMESPACE, Served, refusal

WORKFLOW = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
ACTIVITY = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


def enhanced(**fields: object) -> DescribeTaskQueueRequest:
    return DescribeTaskQueueRequest(
        namespace=NAMESPACE,
        task_queue=TaskQueue(name="q"),
        api_mode=DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED,
        **fields,
    )


async def test_all_types_of_a_queue_are_in_one_answer(served: Served) -> None:
    await served.start("w1")
    await served.start("w2")
    request = enhanced(report_stats=True, report_pollers=True, report_task_reachability=True)
    described = await served.workflows.DescribeTaskQueue(request)
    assert list(described.versions_info) == [""]
    info = described.versions_info[""]
    assert info.task_reachability == BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_REACHABLE
    backlogs = {type_: each.stats.approximate_backlog_count for type_, each in info.types_info.items()}
    assert backlogs == {WORKFLOW: 2, ACTIVITY: 0}


@pytest.mark.parametrize("type_", [WORKFLOW, ACTIVITY])
async def test_only_the_types_asked_for_are_described(served: Served, type_: TaskQueueType.ValueType) -> None:
    described = await served.workflows.DescribeTaskQueue(enhanced(task_queue_types=[type_, type_]))
    assert list(described.versions_info[""].types_info) == [type_]


async def test_types_without_workers_here_are_empty(served: Served) -> None:
    request = enhanced(task_queue_types=[TaskQueueType.TASK_QUEUE_TYPE_NEXUS], report_pollers=True)
    described = await served.workflows.DescribeTaskQueue(request)
    assert not described.versions_info[""].types_info[TaskQueueType.TASK_QUEUE_TYPE_NEXUS].pollers


async def test_reachability_of_too_many_build_ids_is_refused(served: Served) -> None:
    request = enhanced(report_task_reachability=True)
    request.versions.build_ids.extend(f"build-{number}" for number in range(6))
    assert await refusal(served.workflows.DescribeTaskQueue(request)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Too many build ids queried at once with ReportTaskReachability==true, limit: 5",
    )
