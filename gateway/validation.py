"""Checks of requests that need no workflow's state, in the order and words of the real server's frontend.

Source: service/frontend/workflow_handler.go, common/tqid, common/retrypolicy, common/priorities.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final, Protocol

from google.protobuf.message import Message
from temporalio.api.common.v1 import Link, Priority, RetryPolicy, WorkflowExecution
from temporalio.api.enums.v1 import EventType, TaskQueueKind
from temporalio.api.taskqueue.v1 import TaskQueue

from gateway import errors
from streams.history.command_checks import cap_duration, complete_retry_policy
from streams.history.step import SEPARATOR
from streams.limits import Limits

RESERVED_QUEUE_PREFIX: Final = "/_sys/"
FAIRNESS_KEY_BYTES: Final = 64
_STICKY: Final = TaskQueueKind.TASK_QUEUE_KIND_STICKY


def too_long(text: str, limits: Limits) -> bool:
    """Whether an id or name has more bytes than allowed."""
    # UTF-8 takes at most 4 bytes a character, so that encoding is rarely needed.
    return len(text) * 4 > limits.id_length and len(text.encode()) > limits.id_length


def check_execution(execution: WorkflowExecution, is_set: bool) -> None:
    """A request's workflow and run id."""
    if not is_set:
        raise errors.invalid("Execution is not set on request.")
    check_known_workflow_id(execution.workflow_id)
    check_run_id(execution.run_id)


def check_known_workflow_id(workflow_id: str) -> None:
    """The id of a workflow that exists."""
    if not workflow_id:
        raise errors.invalid("WorkflowId is not set on request.")
    if SEPARATOR in workflow_id:
        raise errors.invalid("WorkflowId contains the unit separator, a character that ids cannot have.")


def check_run_id(run_id: str, message: str = "Invalid RunId.") -> None:
    """A run id, which may be empty; `message` is the error's."""
    if run_id:
        try:
            uuid.UUID(run_id)
        except ValueError:
            raise errors.invalid(message) from None


def check_workflow_id(workflow_id: str, limits: Limits) -> None:
    """The id of a workflow to start."""
    check_known_workflow_id(workflow_id)
    if too_long(workflow_id, limits):
        raise errors.invalid("WorkflowId length exceeds limit.")


def check_identity(identity: str, limits: Limits) -> None:
    """Who calls."""
    if too_long(identity, limits):
        raise errors.invalid("Identity length exceeds limit.")


def check_request_id(request_id: str, limits: Limits) -> None:
    """A request id, which may be empty."""
    if too_long(request_id, limits):
        raise errors.invalid("RequestId length exceeds limit.")


def check_task_queue(queue: TaskQueue, is_set: bool, limits: Limits, *, partition: bool = False) -> None:
    """A task queue; `partition` allows the name of one of its partitions."""
    if not is_set:
        raise errors.invalid("taskQueue is not set")
    if not queue.name:
        raise errors.invalid("missing task queue name")
    _check_queue_name(queue.name, limits, partition=partition)
    if queue.kind == _STICKY and queue.normal_name:
        _check_queue_name(queue.normal_name, limits, partition=True)


def _check_queue_name(name: str, limits: Limits, *, partition: bool) -> None:
    if too_long(name, limits):
        raise errors.invalid("taskQueue length exceeds limit")
    if not partition and name.startswith(RESERVED_QUEUE_PREFIX):
        raise errors.invalid(f"task queue name cannot start with reserved prefix {RESERVED_QUEUE_PREFIX}")


def check_durations(request: Message, names: Sequence[tuple[str, str]]) -> None:
    """Durations of a request, as pairs of its field and the name in the error; capped in place."""
    for field, name in names:
        if request.HasField(field):
            wrong = cap_duration(getattr(request, field))
            if wrong:
                raise errors.invalid(f"An invalid {name} is set on request. cause: {wrong}")


def check_retry_policy(policy: RetryPolicy) -> None:
    """A workflow's retry policy, whose unset fields get their defaults."""
    if wrong := complete_retry_policy(policy):
        raise errors.invalid(wrong)


def check_priority(priority: Priority) -> None:
    """A priority."""
    if priority.priority_key < 0:
        raise errors.invalid("PriorityKey can't be negative")
    if len(priority.fairness_key.encode()) > FAIRNESS_KEY_BYTES:
        raise errors.invalid("FairnessKey length exceeds limit")
    if priority.fairness_weight < 0:
        raise errors.invalid("FairnessWeight can't be negative")


def check_links(links: Sequence[Link], limits: Limits) -> None:
    """Links that a request carries."""
    if not links:
        return
    if len(links) > limits.links_per_request:
        raise errors.invalid(
            f"cannot attach more than {limits.links_per_request} links per request, got {len(links)}"
        )
    for link in links:
        if link.ByteSize() > limits.link_bytes:
            raise errors.invalid(f"link exceeds allowed size of {limits.link_bytes}, got {link.ByteSize()}")
        match link.WhichOneof("variant"):
            case "workflow_event":
                _check_event_link(link.workflow_event)
            case "batch_job":
                if not link.batch_job.job_id:
                    raise errors.invalid("batch job link must not have an empty job ID")
            case _:
                raise errors.invalid("unsupported link variant")


def _check_event_link(link: Link.WorkflowEvent) -> None:
    named = {"namespace": link.namespace, "workflow ID": link.workflow_id, "run ID": link.run_id}
    for name, value in named.items():
        if not value:
            raise errors.invalid(f"workflow event link must not have an empty {name} field")
    ref = link.event_ref
    if ref.event_type == EventType.EVENT_TYPE_UNSPECIFIED and ref.event_id:
        raise errors.invalid(
            "workflow event link ref cannot have an unspecified event type and a non-zero event ID"
        )


class BuildId(Protocol):
    """What requests of versioned workers carry."""

    @property
    def build_id(self) -> str: ...
    @property
    def use_versioning(self) -> bool: ...


def check_versioning(stamp: BuildId, limits: Limits) -> None:
    """Versioning by build id is not supported; the id itself is carried."""
    if stamp.use_versioning:
        raise errors.denied("Worker versioning in workflow progress APIs is disabled on this namespace.")
    if len(stamp.build_id.encode()) > limits.worker_build_id_bytes:
        raise errors.invalid("Build ID exceeds configured limit.workerBuildIdSize, use a shorter build ID.")
