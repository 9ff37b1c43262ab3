"""How much waits in the task queues that are in memory, for an operator's gauges."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest

from streams.bodies import ACTIVITY_TASK
from streams.matching.state import POLLER, TASK
from streams.matching.view import QueueView
from streams.runtime.tables import Entity, Table


class QueueBacklog(msgspec.Struct, frozen=True):
    """What waits in one partition of a queue. `oldest_ms` is when the oldest task came, in ms since 1970, or 0."""

    namespace: str
    queue: str
    activities: bool
    partition: int
    sticky: bool
    count: int
    oldest_ms: int


def backlogs(queues: Table) -> Iterator[QueueBacklog]:
    """The backlog of each queue in memory. One that nobody touched for long may be on disk only."""
    for entity in queues.loaded():
        if not entity.empty:
            rest, kind, number = entity.key.rsplit("/", 2)
            namespace, _, queue = rest.partition("/")
            tasks = entity.group(TASK)
            oldest_ms = _oldest_ms(entity) if tasks else 0
            activities = kind == ACTIVITY_TASK
            sticky = not activities and _is_sticky(entity)
            yield QueueBacklog(namespace, queue, activities, int(number), sticky, len(tasks), oldest_ms)


def _oldest_ms(entity: Entity) -> int:
    """When the task came that has waited longest."""
    view: QueueView | None = entity.view
    if view is not None:
        return view.tasks.oldest_ms
    return min(int(queued.added_ms) for queued in entity.group(TASK).values())


def _is_sticky(entity: Entity) -> bool:
    """Whether the queue is a worker's own, as its tasks or its pollers say."""
    for queued in entity.group(TASK).values():
        return bool(queued.task.sticky)
    for poller in entity.group(POLLER).values():
        kind = PollWorkflowTaskQueueRequest.FromString(poller.request).task_queue.kind
        return kind == TaskQueueKind.TASK_QUEUE_KIND_STICKY
    return False
