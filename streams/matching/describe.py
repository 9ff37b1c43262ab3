"""What DescribeTaskQueue shows of a queue, as the real server 1.29.1 shows it."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import (
    BuildIdTaskReachability,
    DescribeTaskQueueMode,
    RateLimitSource,
    TaskQueueKind,
    TaskQueueType,
)
from temporalio.api.taskqueue.v1 import PollerInfo, TaskIdBlock, TaskQueueStats, TaskQueueStatus
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    PollActivityTaskQueueRequest,
    PollWorkflowTaskQueueRequest,
)

from streams.bodies import ACTIVITY_TASK, QueueCall
from streams.history.errors import invalid
from streams.matching import rates
from streams.matching.queue import ADDED, DISPATCHED, Queue
from streams.matching.state import IDLE_KEY, PACE, POLLER, TALLY, TASK, Pace

SYSTEM_RATE_PER_SECOND = 4000.0
"""What the real server shows for a queue whose workers ask for no rate."""

WORKER_RATE_PER_SECOND = 100_000.0
"""What the real server shows for a worker that asks for no rate."""

TASK_ID_BLOCK_END = 100_000
DEFAULT_PRIORITY = 3
UNVERSIONED = "__unversioned__"


def describe(queue: Queue, call: QueueCall) -> bytes:
    """The encoded DescribeTaskQueueResponse for this queue.

    In enhanced mode only the call's own type is in it: see `merged`. Raises Rejected.
    """
    request = DescribeTaskQueueRequest.FromString(call.request)
    sticky = request.task_queue.kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY
    enhanced = request.api_mode == DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
    if sticky and enhanced:
        raise invalid(
            "Enhanced DescribeTaskQueue is not valid for a sticky queue, "
            "use api_mode=UNSPECIFIED or a normal queue."
        )
    if sticky and request.report_stats:
        raise invalid("DescribeTaskQueue stats are only supported for the root partition")
    response = _enhanced(queue, call, request) if enhanced else _plain(queue, call, request, sticky)
    return _encoded(response)


def merged(responses: Sequence[bytes]) -> bytes:
    """One enhanced answer out of the encoded answers of a queue's types."""
    whole = DescribeTaskQueueResponse()
    for response in responses:
        for build_id, info in DescribeTaskQueueResponse.FromString(response).versions_info.items():
            whole.versions_info[build_id].MergeFrom(info)
    return _encoded(whole)


def _plain(
    queue: Queue, call: QueueCall, request: DescribeTaskQueueRequest, sticky: bool
) -> DescribeTaskQueueResponse:
    response = DescribeTaskQueueResponse(pollers=_pollers(queue, call))
    rate, source = _rate(queue)
    response.effective_rate_limit.requests_per_second = rate
    response.effective_rate_limit.rate_limit_source = source
    if not sticky:
        response.versioning_info.current_version = UNVERSIONED
    if request.include_task_queue_status:
        response.task_queue_status.CopyFrom(_status(queue, rate))
    if request.report_stats:
        stats = _stats(queue)
        response.stats.CopyFrom(stats)
        response.stats_by_priority_key[DEFAULT_PRIORITY].CopyFrom(stats)
    return response


def _enhanced(queue: Queue, call: QueueCall, request: DescribeTaskQueueRequest) -> DescribeTaskQueueResponse:
    own_type = (
        TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
        if call.task_kind == ACTIVITY_TASK
        else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    )
    response = DescribeTaskQueueResponse()
    for build_id in _build_ids(request):
        info = response.versions_info[build_id]
        type_info = info.types_info[own_type]
        if build_id == "":
            if request.report_pollers:
                type_info.pollers.extend(_pollers(queue, call))
            if request.report_stats:
                type_info.stats.CopyFrom(_stats(queue))
        if request.report_task_reachability:
            info.task_reachability = (
                BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_UNREACHABLE
                if build_id
                else BuildIdTaskReachability.BUILD_ID_TASK_REACHABILITY_REACHABLE
            )
    return response


def _build_ids(request: DescribeTaskQueueRequest) -> list[str]:
    if not request.HasField("versions"):
        return [""]
    found = set(request.versions.build_ids)
    if request.versions.unversioned or request.versions.all_active:
        found.add("")
    return sorted(found)


def _pollers(queue: Queue, call: QueueCall) -> list[PollerInfo]:
    """Workers seen within the idle time; one without an identity is not shown."""
    since_ms = queue.context.now_ms - queue.limit(IDLE_KEY)
    activity = call.task_kind == ACTIVITY_TASK
    found = []
    for identity, poller in queue.entity.items(POLLER):
        if not identity or poller.last_ms < since_ms:
            continue
        request = (PollActivityTaskQueueRequest if activity else PollWorkflowTaskQueueRequest).FromString(
            poller.request
        )
        info = PollerInfo(
            last_access_time=Timestamp(
                seconds=poller.last_ms // 1000, nanos=poller.last_ms % 1000 * 1_000_000
            ),
            identity=identity,
            rate_per_second=WORKER_RATE_PER_SECOND
            if poller.rate_uhz == rates.NO_RATE
            else poller.rate_uhz / 1_000_000,
        )
        for field in ("worker_version_capabilities", "deployment_options"):
            if request.HasField(field):
                getattr(info, field).CopyFrom(getattr(request, field))
        found.append(info)
    return found


def _rate(queue: Queue) -> tuple[float, RateLimitSource.ValueType]:
    pace: Pace | None = queue.entity.get(PACE)
    if pace is None or pace.rate_uhz >= SYSTEM_RATE_PER_SECOND * 1_000_000:
        return SYSTEM_RATE_PER_SECOND, RateLimitSource.RATE_LIMIT_SOURCE_SYSTEM
    return pace.rate_uhz / 1_000_000, RateLimitSource.RATE_LIMIT_SOURCE_WORKER


def _status(queue: Queue, rate: float) -> TaskQueueStatus:
    """Tasks of a backlog count as read and not acknowledged."""
    backlog = queue.entity.count(TASK)
    return TaskQueueStatus(
        backlog_count_hint=backlog,
        read_level=backlog,
        ack_level=0,
        rate_per_second=rate,
        task_id_block=TaskIdBlock(start_id=1, end_id=TASK_ID_BLOCK_END),
    )


def _stats(queue: Queue) -> TaskQueueStats:
    now_ms = queue.context.now_ms
    entity = queue.entity
    backlog = queue.view.tasks
    age_ms = max(0, now_ms - backlog.oldest_ms) if backlog else 0
    stats = TaskQueueStats(
        approximate_backlog_count=entity.count(TASK),
        tasks_add_rate=rates.per_second(entity.get(TALLY, ADDED), now_ms),
        tasks_dispatch_rate=rates.per_second(entity.get(TALLY, DISPATCHED), now_ms),
    )
    stats.approximate_backlog_age.FromMilliseconds(age_ms)
    return stats


def _encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
