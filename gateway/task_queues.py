"""Calls about task queues, answered by the matching processor that owns them."""

from __future__ import annotations

import asyncio
from typing import Final

from temporalio.api.enums.v1 import DescribeTaskQueueMode, TaskQueueKind, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueuePartitionMetadata
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    ListTaskQueuePartitionsRequest,
    ListTaskQueuePartitionsResponse,
    ShutdownWorkerRequest,
    ShutdownWorkerResponse,
)

from gateway import errors
from gateway.backend import CALL_TIMEOUT_S, Backend, Context
from gateway.validation import RESERVED_QUEUE_PREFIX, check_task_queue
from streams.bodies import ACTIVITY_TASK, WORKFLOW_TASK, QueueCall
from streams.matching.describe import merged
from streams.topology import TASKS, queue_key

_ENHANCED: Final = DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
_STICKY: Final = TaskQueueKind.TASK_QUEUE_KIND_STICKY
_ACTIVITY: Final = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
_TASK_KINDS: Final = {TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW: WORKFLOW_TASK, _ACTIVITY: ACTIVITY_TASK}
_MAX_BUILD_IDS: Final = 5
_SHUT_DOWN: Final = ShutdownWorkerResponse().SerializeToString()


class TaskQueues:
    """Handlers of methods about task queues."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def describe(self, request: DescribeTaskQueueRequest, data: bytes, context: Context) -> bytes:
        """DescribeTaskQueue, of one type of the queue or, in enhanced mode, of several."""
        self._backend.namespace(request.namespace)
        queue = request.task_queue
        check_task_queue(
            queue,
            request.HasField("task_queue"),
            self._backend.limits,
            partition=request.api_mode != _ENHANCED,
        )
        if request.api_mode == _ENHANCED:
            if queue.kind == _STICKY:
                raise errors.invalid(
                    "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED "
                    "or a normal queue."
                )
            return await self._describe_types(request, data)
        kind = ACTIVITY_TASK if request.task_queue_type == _ACTIVITY else WORKFLOW_TASK
        return await self._ask("DescribeTaskQueue", request.namespace, queue.name, kind, data)

    async def _describe_types(self, request: DescribeTaskQueueRequest, data: bytes) -> bytes:
        """Each type of a queue has an owner of its own: ask them all and put their answers together."""
        if request.report_task_reachability and len(request.versions.build_ids) > _MAX_BUILD_IDS:
            raise errors.invalid(
                "Too many build ids queried at once with ReportTaskReachability==true, "
                f"limit: {_MAX_BUILD_IDS}"
            )
        types = dict.fromkeys(request.task_queue_types or _TASK_KINDS)
        for type_ in types:
            if type_ not in _TASK_KINDS:
                raise errors.unimplemented("This server has task queues for workflows and activities only.")
        name = request.task_queue.name
        return merged(
            await asyncio.gather(
                *(
                    self._ask("DescribeTaskQueue", request.namespace, name, _TASK_KINDS[type_], data)
                    for type_ in types
                )
            )
        )

    async def list_partitions(
        self, request: ListTaskQueuePartitionsRequest, data: bytes, context: Context
    ) -> bytes:
        """ListTaskQueuePartitions: a queue has one of each kind."""
        self._backend.namespace(request.namespace)
        check_task_queue(request.task_queue, request.HasField("task_queue"), self._backend.limits)
        partition = TaskQueuePartitionMetadata(
            key=request.task_queue.name, owner_host_name=self._backend.name
        )
        return ListTaskQueuePartitionsResponse(
            activity_task_queue_partitions=[partition], workflow_task_queue_partitions=[partition]
        ).SerializeToString()

    async def shutdown_worker(self, request: ShutdownWorkerRequest, data: bytes, context: Context) -> bytes:
        """ShutdownWorker: the tasks of its sticky queue go back to their normal queues."""
        self._backend.namespace(request.namespace)
        sticky = request.sticky_task_queue
        if sticky and not sticky.startswith(RESERVED_QUEUE_PREFIX):
            await self._ask("ShutdownWorker", request.namespace, sticky, WORKFLOW_TASK, data)
        return _SHUT_DOWN

    async def _ask(self, method: str, namespace: str, queue: str, task_kind: str, data: bytes) -> bytes:
        body = QueueCall(method, namespace, queue, task_kind, data)
        try:
            reply = await self._backend.ask(
                TASKS, queue_key(namespace, queue, task_kind), body, CALL_TIMEOUT_S
            )
        except TimeoutError:
            raise errors.unavailable("The owner of the task queue did not answer in time.") from None
        return reply.body
