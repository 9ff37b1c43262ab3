"""Commands by which a workflow ends its run: complete, fail, cancel, continue as new."""

from __future__ import annotations

from temporalio.api.command.v1 import (
    CancelWorkflowExecutionCommandAttributes,
    CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes,
    FailWorkflowExecutionCommandAttributes,
)
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCompletedEventAttributes,
    WorkflowExecutionContinuedAsNewEventAttributes,
    WorkflowExecutionFailedEventAttributes,
    WorkflowExecutionStartedEventAttributes,
)

from streams import attribute_values
from streams.history import closing, command_checks, continuing, task_events
from streams.history.calls import handles_command
from streams.history.commands import Commands
from streams.history.continuing import INITIATOR, Successor
from streams.history.errors import BadCommand
from streams.history.failure_depth import cut_causes
from streams.history.opening import start_attributes
from streams.history.values import duration_ms, to_duration

CAUSE = WorkflowTaskFailedCause

_CONTINUE = "ContinueAsNewWorkflowExecutionCommand"


@handles_command(
    CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION, "complete_workflow_execution_command_attributes"
)
def complete(commands: Commands, attributes: CompleteWorkflowExecutionCommandAttributes) -> None:
    """The workflow returned; a cron workflow runs again."""
    commands.require_attributes(
        "CompleteWorkflowExecution",
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_COMPLETE_WORKFLOW_EXECUTION_ATTRIBUTES,
    )
    commands.check_size(
        attributes.result.ByteSize(),
        CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES,
        "CompleteWorkflowExecutionCommandAttributes.Result exceeds size limit.",
    )
    run = commands.run
    successor = continuing.by_cron(run)
    event = WorkflowExecutionCompletedEventAttributes(
        workflow_task_completed_event_id=commands.completed_event_id,
        new_execution_run_id=successor.run_id if successor else "",
    )
    if attributes.HasField("result"):
        event.result.CopyFrom(attributes.result)
    closing.close(run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, event, **commands.event_extra)
    if successor:
        continuing.follow(run, successor, result=attributes.result if attributes.HasField("result") else None)


@handles_command(
    CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION, "fail_workflow_execution_command_attributes"
)
def fail(commands: Commands, attributes: FailWorkflowExecutionCommandAttributes) -> None:
    """The workflow failed; its retry policy or cron schedule may run it again."""
    bad = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_FAIL_WORKFLOW_EXECUTION_ATTRIBUTES
    commands.require_attributes("FailWorkflowExecution", bad)
    if not attributes.HasField("failure"):
        raise BadCommand(bad, "Failure is not set on FailWorkflowExecutionCommand.")
    commands.check_size(
        attributes.failure.ByteSize(),
        bad,
        "FailWorkflowExecutionCommandAttributes.Failure exceeds size limit.",
    )
    cut_causes(attributes.failure)
    run = commands.run
    successor, retry_state = continuing.after_failure(run, attributes.failure)
    event = WorkflowExecutionFailedEventAttributes(
        failure=attributes.failure,
        retry_state=retry_state,
        workflow_task_completed_event_id=commands.completed_event_id,
        new_execution_run_id=successor.run_id if successor else "",
    )
    closing.close(run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, event, **commands.event_extra)
    if successor:
        continuing.follow(run, successor, failure=attributes.failure)


@handles_command(
    CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION, "cancel_workflow_execution_command_attributes"
)
def cancel(commands: Commands, attributes: CancelWorkflowExecutionCommandAttributes) -> None:
    """The workflow ends as canceled."""
    commands.require_attributes(
        "CancelWorkflowExecution", CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_WORKFLOW_EXECUTION_ATTRIBUTES
    )
    event = WorkflowExecutionCanceledEventAttributes(
        workflow_task_completed_event_id=commands.completed_event_id
    )
    if attributes.HasField("details"):
        event.details.CopyFrom(attributes.details)
    closing.close(
        commands.run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED, event, **commands.event_extra
    )


@handles_command(
    CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    "continue_as_new_workflow_execution_command_attributes",
)
def continue_as_new(commands: Commands, attributes: ContinueAsNewWorkflowExecutionCommandAttributes) -> None:
    """The workflow goes on in a new run with an empty history."""
    _check_names(commands, attributes)
    _complete_attributes(commands, attributes)
    run = commands.run
    initiator = attributes.initiator or INITIATOR.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    successor = Successor(
        run.step.derived_id("next run", run.core.run_id),
        duration_ms(attributes.backoff_start_interval),
        initiator,
    )
    event = WorkflowExecutionContinuedAsNewEventAttributes(
        new_execution_run_id=successor.run_id,
        workflow_type=attributes.workflow_type,
        task_queue=attributes.task_queue,
        workflow_run_timeout=attributes.workflow_run_timeout,
        workflow_task_timeout=attributes.workflow_task_timeout,
        workflow_task_completed_event_id=commands.completed_event_id,
        backoff_start_interval=attributes.backoff_start_interval
        if attributes.HasField("backoff_start_interval")
        else None,
        initiator=attributes.initiator,
        inherit_build_id=attributes.inherit_build_id,
    )
    started = WorkflowExecutionStartedEventAttributes(
        workflow_type=attributes.workflow_type,
        task_queue=attributes.task_queue,
        workflow_run_timeout=attributes.workflow_run_timeout,
        workflow_task_timeout=attributes.workflow_task_timeout,
        cron_schedule=attributes.cron_schedule,
        attempt=run.core.attempt + 1 if initiator == INITIATOR.CONTINUE_AS_NEW_INITIATOR_RETRY else 1,
    )
    for field in ("input", "header", "memo", "search_attributes", "last_completion_result"):
        if attributes.HasField(field):
            getattr(event, field).CopyFrom(getattr(attributes, field))
            getattr(started, field).CopyFrom(getattr(attributes, field))
    if attributes.HasField("failure"):
        cut_causes(attributes.failure)
        event.failure.CopyFrom(attributes.failure)
        started.continued_failure.CopyFrom(attributes.failure)
    if attributes.HasField("retry_policy"):
        started.retry_policy.CopyFrom(attributes.retry_policy)
    _inherit(commands, started)
    closing.close(
        run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW, event, **commands.event_extra
    )
    continuing.open_next(run, started, successor)


def _check_names(commands: Commands, attributes: ContinueAsNewWorkflowExecutionCommandAttributes) -> None:
    types = command_checks.attribute_types(command_checks.target_namespace(commands, ""))
    try:
        attribute_values.check_names(attributes.search_attributes, commands.run.core.namespace, types)
    except attribute_values.InvalidSearchAttributes as error:
        bad = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
        raise BadCommand(bad, str(error)) from error


def _complete_attributes(
    commands: Commands, attributes: ContinueAsNewWorkflowExecutionCommandAttributes
) -> None:
    """Fill in what the command leaves to the run that it continues, and refuse what cannot be."""
    core = commands.run.core
    bad = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES
    commands.require_attributes("ContinueAsNewWorkflowExecution", bad)
    attributes.workflow_type.name = attributes.workflow_type.name or core.workflow_type
    commands.check_id(
        attributes.workflow_type.name, bad, "WorkflowType on ContinueAsNewWorkflowExecutionCommand"
    )
    queue = attributes.task_queue.name or core.task_queue
    attributes.task_queue.CopyFrom(task_events.task_queue_message(queue, False, ""))
    _check(commands, attributes, bad)
    run_ms = duration_ms(attributes.workflow_run_timeout) or core.run_timeout_ms
    if core.execution_timeout_ms and (not run_ms or run_ms > core.execution_timeout_ms):
        run_ms = core.execution_timeout_ms
    task_ms = duration_ms(attributes.workflow_task_timeout) or core.task_timeout_ms
    if run_ms and task_ms > run_ms:
        task_ms = run_ms
    attributes.workflow_run_timeout.CopyFrom(to_duration(run_ms))
    attributes.workflow_task_timeout.CopyFrom(to_duration(task_ms))
    of = "ContinueAsNewWorkflowExecutionCommandAttributes."
    commands.check_size(attributes.input.ByteSize(), bad, f"{of} Input exceeds size limit.")
    command_checks.check_memo_size(commands, attributes.memo, bad, f"{of} Memo exceeds size limit.")
    command_checks.check_attribute_sizes(attributes.search_attributes, commands.step.limits, bad)


def _check(
    commands: Commands,
    attributes: ContinueAsNewWorkflowExecutionCommandAttributes,
    bad: WorkflowTaskFailedCause.ValueType,
) -> None:
    """Refuse timeouts, policies and search attributes that no run can have, and complete the retry policy."""
    limits = commands.step.limits
    queue = f'name:"{attributes.task_queue.name}" kind:TASK_QUEUE_KIND_NORMAL'
    suffix = f" WorkflowType={attributes.workflow_type.name} TaskQueue={queue}"
    wrong = command_checks.complete_task_queue(attributes.task_queue, "", limits.id_length)
    command_checks.reject(f"error validating {_CONTINUE} TaskQueue", wrong, suffix)
    for field in ("workflow_run_timeout", "workflow_task_timeout", "backoff_start_interval"):
        if wrong := command_checks.cap_duration(getattr(attributes, field)):
            name = "".join(part.capitalize() for part in field.split("_"))
            raise BadCommand(bad, f"Invalid {name} on {_CONTINUE}: {wrong}.{suffix}")
    if attributes.HasField("retry_policy"):
        wrong = command_checks.complete_retry_policy(attributes.retry_policy)
        command_checks.reject(f"invalid WorkflowRetryPolicy on {_CONTINUE}", wrong, suffix)
    if attributes.HasField("search_attributes"):
        config = command_checks.target_namespace(commands, "")
        types = command_checks.attribute_types(config)
        try:
            attribute_values.check_values(attributes.search_attributes, types, limits)
        except attribute_values.InvalidSearchAttributes as error:
            command_checks.reject(f"invalid SearchAttributes on {_CONTINUE}", str(error), suffix)
        attribute_values.mark_types(attributes.search_attributes, types)


def _inherit(commands: Commands, started: WorkflowExecutionStartedEventAttributes) -> None:
    """What the new run has from the first one whatever the command says."""
    first = start_attributes(commands.run)
    for field in (
        "workflow_execution_timeout",
        "parent_workflow_execution",
        "root_workflow_execution",
        "priority",
    ):
        if first.HasField(field):
            getattr(started, field).CopyFrom(getattr(first, field))
    started.parent_workflow_namespace = first.parent_workflow_namespace
    started.parent_workflow_namespace_id = first.parent_workflow_namespace_id
    started.parent_initiated_event_id = first.parent_initiated_event_id
    started.parent_initiated_event_version = first.parent_initiated_event_version
