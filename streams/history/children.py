"""Child workflows as their parent sees them: initiated, started, closed.

The child's side is in `child_runs`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.message import Message
from temporalio.api.command.v1 import StartChildWorkflowExecutionCommandAttributes
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import (
    CommandType,
    EventType,
    ParentClosePolicy,
    WorkflowIdReusePolicy,
    WorkflowTaskFailedCause,
)
from temporalio.api.history.v1 import (
    ChildWorkflowExecutionCanceledEventAttributes,
    ChildWorkflowExecutionCompletedEventAttributes,
    ChildWorkflowExecutionFailedEventAttributes,
    ChildWorkflowExecutionStartedEventAttributes,
    ChildWorkflowExecutionTerminatedEventAttributes,
    ChildWorkflowExecutionTimedOutEventAttributes,
    HistoryEvent,
    StartChildWorkflowExecutionFailedEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes,
    WorkflowExecutionStartedEventAttributes,
)

from streams import attribute_values, bodies
from streams.attribute_values import InvalidSearchAttributes
from streams.history import closing, command_checks, cron, opening, priorities, state, workflow_tasks
from streams.history.calls import handles_body, handles_command
from streams.history.commands import Commands
from streams.history.errors import BadCommand
from streams.history.evolve import applies, emits
from streams.history.opening import MAX_TASK_TIMEOUT_MS
from streams.history.run import Run
from streams.history.state import CHILD, Child, number_id
from streams.history.step import Step
from streams.history.values import copy_fields, duration_ms, to_duration
from streams.limits import Limits
from streams.topology import COMMANDS, workflow_key

CAUSE = WorkflowTaskFailedCause
BAD_START = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_CHILD_EXECUTION_ATTRIBUTES
BAD_SEARCH = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES

Attributes = StartChildWorkflowExecutionCommandAttributes
Initiated = StartChildWorkflowExecutionInitiatedEventAttributes

_START = "StartChildWorkflowExecutionCommand"

_MAX_RESETS = 100
"""Resets of a parent that a message to it follows."""


# --- the command ---


@handles_command(
    CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
    "start_child_workflow_execution_command_attributes",
)
def start_child(commands: Commands, attributes: Attributes) -> None:
    """Initiate a child. Its own partition decides whether it starts."""
    run, limits = commands.run, commands.step.limits
    commands.require_attributes("StartChildWorkflowExecution", BAD_START)
    config = command_checks.target_namespace(commands, attributes.namespace)
    attributes.namespace = attributes.namespace or config.name
    _check_names(attributes, config)
    _validate(commands, attributes, config)
    _complete(commands, attributes)
    if attributes.inherit_build_id and attributes.task_queue.name != run.core.task_queue:
        raise BadCommand(
            BAD_START,
            "StartChildWorkflowExecution with UseCompatibleVersion cannot run on different task queue.",
        )
    message = "StartChildWorkflowExecutionCommandAttributes. Input exceeds size limit."
    commands.check_size(attributes.input.ByteSize(), BAD_START, message)
    message = "StartChildWorkflowExecutionCommandAttributes.Memo exceeds size limit."
    command_checks.check_memo_size(commands, attributes.memo, BAD_START, message)
    command_checks.check_attribute_sizes(attributes.search_attributes, limits, BAD_START)
    command_checks.check_pending(
        run.entity.count(CHILD),
        limits.pending_children,
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED,
        "pending child workflow executions",
    )
    run.record(
        EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED,
        _initiated_attributes(attributes, config, commands.completed_event_id),
        **commands.event_extra,
    )


def _check_names(attributes: Attributes, config: bodies.NamespaceConfig) -> None:
    try:
        types = command_checks.attribute_types(config)
        attribute_values.check_names(attributes.search_attributes, config.name, types)
    except InvalidSearchAttributes as error:
        raise BadCommand(BAD_SEARCH, str(error)) from error


def _validate(commands: Commands, attributes: Attributes, config: bodies.NamespaceConfig) -> None:
    """Refuse what the real server refuses, in its order."""
    limits = commands.step.limits
    workflow_id, workflow_type = attributes.workflow_id, attributes.workflow_type.name
    suffix = f" WorkflowId={workflow_id} WorkflowType={workflow_type} Namespace={attributes.namespace}"
    _check_ids(attributes, limits.id_length)
    for name, duration in (
        ("WorkflowExecutionTimeout", attributes.workflow_execution_timeout),
        ("WorkflowRunTimeout", attributes.workflow_run_timeout),
        ("WorkflowTaskTimeout", attributes.workflow_task_timeout),
    ):
        if wrong := command_checks.cap_duration(duration):
            raise BadCommand(BAD_START, f"Invalid {name} on {_START}: {wrong}.{suffix}")
    if attributes.HasField("retry_policy"):
        wrong = command_checks.complete_retry_policy(attributes.retry_policy)
        command_checks.reject(f"invalid WorkflowRetryPolicy on {_START}", wrong, suffix)
    wrong = _wrong_schedule(attributes.cron_schedule)
    command_checks.reject(f"invalid CronSchedule on {_START}", wrong, suffix)
    wrong = _wrong_values(attributes, config, limits)
    command_checks.reject("invalid SearchAttributes on StartChildWorkflowCommand", wrong, suffix)
    command_checks.check_priority(attributes.priority, BAD_START)
    default = commands.run.core.task_queue
    wrong = command_checks.complete_task_queue(attributes.task_queue, default, limits.id_length)
    queue = f'name:"{attributes.task_queue.name}" kind:TASK_QUEUE_KIND_NORMAL'
    command_checks.reject(f"invalid TaskQueue on {_START}", wrong, f"{suffix} TaskQueue={queue}")


def _check_ids(attributes: Attributes, limit: int) -> None:
    workflow_id, workflow_type = attributes.workflow_id, attributes.workflow_type.name
    namespace = f"Namespace={attributes.namespace}"
    if not workflow_id:
        missing = f"Required field WorkflowId is not set on {_START}."
        raise BadCommand(BAD_START, f"{missing} WorkflowType={workflow_type} {namespace}")
    if not workflow_type:
        missing = f"Required field WorkflowType is not set on {_START}."
        raise BadCommand(BAD_START, f"{missing} WorkflowId={workflow_id} {namespace}")
    long = f"on {_START} exceeds length limit. WorkflowId={workflow_id}"
    type_ = f"WorkflowType={workflow_type}"
    if length := command_checks.too_long(workflow_id, limit):
        raise BadCommand(BAD_START, f"WorkflowId {long} Length={length} Limit={limit} {type_} {namespace}")
    if length := command_checks.too_long(workflow_type, limit):
        raise BadCommand(BAD_START, f"WorkflowType {long} {type_} Length={length} Limit={limit} {namespace}")


def _wrong_schedule(schedule: str) -> str:
    if schedule:
        try:
            cron.parse(schedule)
        except cron.InvalidScheduleError:
            return "invalid CronSchedule."
    return ""


def _wrong_values(attributes: Attributes, config: bodies.NamespaceConfig, limits: Limits) -> str:
    try:
        types = command_checks.attribute_types(config)
        attribute_values.check_values(attributes.search_attributes, types, limits)
    except InvalidSearchAttributes as error:
        return str(error)
    return ""


def _complete(commands: Commands, attributes: Attributes) -> None:
    """Fill in what the event always has: timeouts within each other, and policies."""
    execution_ms = duration_ms(attributes.workflow_execution_timeout)
    run_ms = duration_ms(attributes.workflow_run_timeout)
    if execution_ms:
        run_ms = min(run_ms or execution_ms, execution_ms)
    task_ms = duration_ms(attributes.workflow_task_timeout) or commands.step.limits.workflow_task_timeout_ms
    task_ms = min(task_ms, MAX_TASK_TIMEOUT_MS, run_ms or MAX_TASK_TIMEOUT_MS)
    attributes.workflow_run_timeout.CopyFrom(to_duration(run_ms))
    attributes.workflow_task_timeout.CopyFrom(to_duration(task_ms))
    if not attributes.parent_close_policy:
        attributes.parent_close_policy = ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE
    if not attributes.workflow_id_reuse_policy:
        attributes.workflow_id_reuse_policy = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE


def _initiated_attributes(
    attributes: Attributes, config: bodies.NamespaceConfig, completed_event_id: int
) -> Initiated:
    initiated = Initiated(
        namespace=attributes.namespace,
        namespace_id=config.id,
        workflow_id=attributes.workflow_id,
        parent_close_policy=attributes.parent_close_policy,
        control=attributes.control,
        workflow_task_completed_event_id=completed_event_id,
        workflow_id_reuse_policy=attributes.workflow_id_reuse_policy,
        cron_schedule=attributes.cron_schedule,
        inherit_build_id=attributes.inherit_build_id,
    )
    copy_fields(
        attributes,
        initiated,
        "workflow_type",
        "task_queue",
        "input",
        "workflow_execution_timeout",
        "workflow_run_timeout",
        "workflow_task_timeout",
        "retry_policy",
        "header",
        "memo",
        "search_attributes",
        "priority",
    )
    attribute_values.mark_types(initiated.search_attributes, command_checks.attribute_types(config))
    if not attributes.HasField("search_attributes"):
        initiated.ClearField("search_attributes")
    return initiated


@applies(EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED)
def _initiated(run: Run, event: HistoryEvent) -> None:
    attributes = event.start_child_workflow_execution_initiated_event_attributes
    run.put(
        CHILD,
        number_id(event.event_id),
        Child(
            initiated_event_id=event.event_id,
            initiated=attributes.SerializeToString(deterministic=True),
            namespace=attributes.namespace,
            workflow_id=attributes.workflow_id,
            workflow_type=attributes.workflow_type.name,
            parent_close_policy=attributes.parent_close_policy,
            user_metadata=event.user_metadata.SerializeToString(deterministic=True),
        ),
    )


@emits(EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED)
def _ask_to_start(run: Run, event: HistoryEvent) -> None:
    """Ask the child's partition to start it; a parent that closed with the same task never starts it.

    After a reset the answer to the base run may have come again meanwhile.
    """
    child = _find(run, event.event_id)
    if child is None or child.started:
        return
    if not run.is_open:
        run.set_part(CHILD, number_id(event.event_id), None)
        return
    _ask(run, child, find=event.event_id <= run.core.copied_event_id)


def _ask(run: Run, child: Child, *, find: bool) -> None:
    core, attributes = run.core, Initiated.FromString(child.initiated)
    run.step.context.emit(
        COMMANDS,
        workflow_key(attributes.namespace, attributes.workflow_id),
        bodies.StartChild(
            namespace=attributes.namespace,
            workflow_id=attributes.workflow_id,
            new_run_id=run.step.derived_id("child", core.run_id, child.initiated_event_id),
            parent_namespace=core.namespace,
            parent_workflow_id=core.workflow_id,
            parent_run_id=core.run_id,
            initiated_event_id=child.initiated_event_id,
            reuse_policy=attributes.workflow_id_reuse_policy,
            attributes=child.initiated,
            start=_start_attributes(run, child.initiated_event_id, attributes).SerializeToString(
                deterministic=True
            ),
            user_metadata=child.user_metadata,
            find=find,
        ),
    )


def _start_attributes(
    run: Run, initiated_event_id: int, attributes: Initiated
) -> WorkflowExecutionStartedEventAttributes:
    """What the child's first event takes from its parent."""
    core, config = run.core, run.step.namespace_config()
    start = WorkflowExecutionStartedEventAttributes(
        parent_workflow_namespace=core.namespace,
        parent_workflow_namespace_id=config.id if config else "",
        parent_workflow_execution=WorkflowExecution(workflow_id=core.workflow_id, run_id=core.run_id),
        parent_initiated_event_id=initiated_event_id,
        root_workflow_execution=WorkflowExecution(workflow_id=core.root_workflow_id, run_id=core.root_run_id),
        cron_schedule=attributes.cron_schedule,
    )
    copy_fields(
        attributes,
        start,
        "workflow_type",
        "task_queue",
        "input",
        "workflow_execution_timeout",
        "workflow_run_timeout",
        "workflow_task_timeout",
        "retry_policy",
        "header",
        "memo",
        "search_attributes",
    )
    priority = priorities.of(run, attributes)
    if priority is not None:
        start.priority.CopyFrom(priority)
    if attributes.cron_schedule:
        start.initiator = cron.CRON_INITIATOR
    return start


# --- what the child's side tells ---


def _heir(step: Step, run_id: str, initiated_event_id: int) -> Run | None:
    """The open run that a child belongs to: the one that started it, or what a reset made of that.

    A run that begins with less than the child's Initiated event knows nothing of it.
    """
    for _ in range(_MAX_RESETS):
        run = step.run(run_id)
        if not run.exists:
            return None
        if run.is_open:
            return run
        run_id = run.core.reset_run_id
        if not run_id or not step.run(run_id).exists:
            return None
        if initiated_event_id > step.run(run_id).core.copied_event_id:
            return None
    return None


def _find(run: Run, initiated_event_id: int) -> Child | None:
    child: Child | None = run.entity.get(CHILD, number_id(initiated_event_id))
    return child


@handles_body(bodies.ChildStarted)
def child_started(step: Step, body: bodies.ChildStarted) -> None:
    """The child runs. A parent that closed meanwhile applies its close policy now, unless a reset goes on with it."""
    run = step.run(body.run_id)
    child = _find(run, body.initiated_event_id) if run.exists else None
    if child is None or child.started or child.workflow_id != body.child_workflow_id:
        return
    if run.is_open:
        _record_started(run, child, body.child_run_id)
        workflow_tasks.schedule_if_none(run)
    elif _heir(step, body.run_id, body.initiated_event_id) is None:
        closing.close_child(run, msgspec.structs.replace(child, run_id=body.child_run_id))
        run.set_part(CHILD, number_id(body.initiated_event_id), msgspec.structs.replace(child, started=True))


def _record_started(run: Run, child: Child, run_id: str) -> None:
    initiated = Initiated.FromString(child.initiated)
    attributes = ChildWorkflowExecutionStartedEventAttributes(
        namespace=initiated.namespace,
        namespace_id=initiated.namespace_id,
        initiated_event_id=child.initiated_event_id,
        workflow_execution=WorkflowExecution(workflow_id=child.workflow_id, run_id=run_id),
    )
    copy_fields(initiated, attributes, "workflow_type", "header")
    run.record(EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED, attributes)


@handles_body(bodies.ChildFound)
def child_found(step: Step, body: bodies.ChildFound) -> None:
    """A run that a reset made asked for its child, and the id has one: it goes on with that, or asks for its own."""
    run = step.run(body.run_id)
    child = _find(run, body.initiated_event_id) if run.exists and run.is_open else None
    if child is None or child.started:
        return
    if _is_related(run, body):
        _record_started(run, child, body.child_run_id)
        workflow_tasks.schedule_if_none(run)
    else:
        _ask(run, child, find=False)


def _is_related(run: Run, body: bodies.ChildFound) -> bool:
    """Whether the run that started a child was reset from the same first run as `run` was.

    The real server does not let a child begin whose parent closed before it was told of the start. Ours may have run
    to its end by then: to find that would be to wait for ever.
    """
    starter = run.step.run(body.child_parent_run_id)
    if not starter.exists:
        return False
    known = _find(starter, body.initiated_event_id)
    if body.closed and known is not None and known.started and not known.run_id:
        return False
    original = opening.start_attributes(starter).original_execution_run_id
    return original == opening.start_attributes(run).original_execution_run_id


@applies(EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
def _started(run: Run, event: HistoryEvent) -> None:
    """The child runs; the id of an event that waits in the buffer follows when that is flushed."""
    attributes = event.child_workflow_execution_started_event_attributes
    child = _find(run, attributes.initiated_event_id)
    if child is not None:
        started = msgspec.structs.replace(
            child,
            run_id=attributes.workflow_execution.run_id,
            started=True,
            started_event_id=event.event_id,
        )
        run.put(CHILD, number_id(attributes.initiated_event_id), started)


@handles_body(bodies.ChildStartFailed)
def child_start_failed(step: Step, body: bodies.ChildStartFailed) -> None:
    """The child could not be started."""
    run = step.run(body.run_id)
    child = _find(run, body.initiated_event_id) if run.exists else None
    if child is None or child.started:
        return
    if not run.is_open:
        run.set_part(CHILD, number_id(body.initiated_event_id), None)
        return
    initiated = Initiated.FromString(child.initiated)
    attributes = StartChildWorkflowExecutionFailedEventAttributes(
        namespace=initiated.namespace,
        namespace_id=initiated.namespace_id,
        workflow_id=initiated.workflow_id,
        cause=body.cause,  # type: ignore[arg-type]
        control=initiated.control,
        initiated_event_id=body.initiated_event_id,
    )
    copy_fields(initiated, attributes, "workflow_type")
    run.record(EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED, attributes)
    workflow_tasks.schedule_if_none(run)


_ENDS: dict[int, tuple[EventType.ValueType, type[Message], tuple[str, ...]]] = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: (
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
        ChildWorkflowExecutionCompletedEventAttributes,
        ("result",),
    ),
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: (
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
        ChildWorkflowExecutionFailedEventAttributes,
        ("failure",),
    ),
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: (
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
        ChildWorkflowExecutionCanceledEventAttributes,
        ("details",),
    ),
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT: (
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
        ChildWorkflowExecutionTimedOutEventAttributes,
        (),
    ),
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED: (
        EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
        ChildWorkflowExecutionTerminatedEventAttributes,
        (),
    ),
}
"""How a child's close event becomes its parent's: the type, the attributes, and the messages they share."""

_WITH_RETRY_STATE = (
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
)


@handles_body(bodies.ChildClosed)
def child_closed(step: Step, body: bodies.ChildClosed) -> None:
    """The child closed for good."""
    run = _heir(step, body.run_id, body.initiated_event_id)
    child = _find(run, body.initiated_event_id) if run is not None else None
    if run is None or child is None or child.workflow_id != body.child_workflow_id:
        return
    if not child.started:  # A reset cut its start off, and asks for it.
        _record_started(run, child, body.child_first_run_id)
        child = _find(run, body.initiated_event_id)
    if child is None or child.run_id != body.child_first_run_id:
        return
    event = HistoryEvent.FromString(body.event)
    source: Any = getattr(event, str(event.WhichOneof("attributes")))
    event_type, cls, fields = _ENDS[event.event_type]
    attributes: Any = cls()
    attributes.namespace = child.namespace
    attributes.namespace_id = Initiated.FromString(child.initiated).namespace_id
    attributes.workflow_execution.workflow_id = body.child_workflow_id
    attributes.workflow_execution.run_id = body.child_run_id
    attributes.workflow_type.CopyFrom(WorkflowType(name=child.workflow_type))
    attributes.initiated_event_id = body.initiated_event_id
    attributes.started_event_id = child.started_event_id
    copy_fields(source, attributes, *fields)
    if event.event_type in _WITH_RETRY_STATE:
        attributes.retry_state = source.retry_state
    run.record(event_type, attributes)
    workflow_tasks.schedule_if_none(run)


@applies(
    EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
)
def _ended(run: Run, event: HistoryEvent) -> None:
    attributes: Any = getattr(event, str(event.WhichOneof("attributes")))
    run.put(state.CHILD, number_id(attributes.initiated_event_id), None)
