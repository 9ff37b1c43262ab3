"""Requests that may open a run, checked and completed as the real server's frontend does."""

from __future__ import annotations

import time
import uuid
from typing import Final

from temporalio.api.common.v1 import SearchAttributes
from temporalio.api.enums.v1 import WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
)

from gateway import errors
from gateway.sizes import check_blob, check_memo
from gateway.validation import (
    check_durations,
    check_links,
    check_priority,
    check_request_id,
    check_retry_policy,
    check_task_queue,
    check_workflow_id,
    too_long,
)
from streams import attribute_values
from streams.bodies import NamespaceConfig
from streams.history import cron
from streams.history.command_checks import cap_duration
from streams.limits import Limits

Start = StartWorkflowExecutionRequest
SignalWithStart = SignalWithStartWorkflowExecutionRequest
Reuse = WorkflowIdReusePolicy
Conflict = WorkflowIdConflictPolicy

_REUSE_POLICIES: Final = frozenset(Reuse.values())
_CONFLICT_POLICIES: Final = frozenset(Conflict.values())
_TIMEOUTS: Final = (
    ("workflow_execution_timeout", "WorkflowExecutionTimeoutSeconds"),
    ("workflow_run_timeout", "WorkflowRunTimeoutSeconds"),
    ("workflow_task_timeout", "WorkflowTaskTimeoutSeconds"),
)


def complete_start(request: Start, namespace: NamespaceConfig, limits: Limits) -> None:
    """Check a StartWorkflowExecutionRequest and fill in its defaults. Raises ApiError."""
    check_workflow_id(request.workflow_id, limits)
    if request.HasField("retry_policy"):
        check_retry_policy(request.retry_policy)
    _check_start_delay(request)
    _check_cron(request.cron_schedule)
    check_workflow_type(request, limits)
    check_task_queue(request.task_queue, request.HasField("task_queue"), limits)
    check_durations(request, _TIMEOUTS)
    _complete_request_id(request, limits)
    _check_policies(request)
    _complete_policies(request, Conflict.WORKFLOW_ID_CONFLICT_POLICY_FAIL)
    if request.on_conflict_options.attach_completion_callbacks and not (
        request.on_conflict_options.attach_request_id
    ):
        raise errors.invalid("attaching request ID is required for attaching completion callbacks")
    _check_attributes(request.search_attributes, namespace, limits)
    if request.HasField("priority"):
        check_priority(request.priority)
    if request.completion_callbacks:
        raise errors.invalid("attaching workflow callbacks is disabled for this namespace")
    check_links(request.links, limits)
    _check_versioning_override(request)
    _check_sizes(request, limits)


def complete_signal_with_start(request: SignalWithStart, namespace: NamespaceConfig, limits: Limits) -> None:
    """Check a SignalWithStartWorkflowExecutionRequest and fill in its defaults. Raises ApiError."""
    check_workflow_id(request.workflow_id, limits)
    check_signal_name(request.signal_name, limits)
    check_workflow_type(request, limits)
    check_task_queue(request.task_queue, request.HasField("task_queue"), limits)
    _complete_request_id(request, limits)
    check_durations(request, _TIMEOUTS)
    if request.HasField("retry_policy"):
        check_retry_policy(request.retry_policy)
    _check_start_delay(request)
    _check_policies(request)
    if request.workflow_id_conflict_policy == Conflict.WORKFLOW_ID_CONFLICT_POLICY_FAIL:
        raise errors.invalid(
            "Invalid WorkflowIDConflictPolicy: WORKFLOW_ID_CONFLICT_POLICY_FAIL is not supported for this "
            "operation."
        )
    _complete_policies(request, Conflict.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING)
    _check_cron(request.cron_schedule)
    _check_attributes(request.search_attributes, namespace, limits)
    if request.HasField("priority"):
        check_priority(request.priority)
    check_links(request.links, limits)
    _check_versioning_override(request)
    _check_sizes(request, limits)
    check_blob(request.signal_input, limits, request.namespace, request.workflow_id)


def check_signal_name(name: str, limits: Limits) -> None:
    """The name of a signal."""
    if not name:
        raise errors.invalid("SignalName is not set on request.")
    if too_long(name, limits):
        raise errors.invalid("SignalName length exceeds limit.")


def check_workflow_type(request: Start | SignalWithStart, limits: Limits) -> None:
    """The type of a workflow to start."""
    if not request.workflow_type.name:
        raise errors.invalid("WorkflowType is not set on request.")
    if too_long(request.workflow_type.name, limits):
        raise errors.invalid("WorkflowType length exceeds limit.")


def _check_start_delay(request: Start | SignalWithStart) -> None:
    if not request.HasField("workflow_start_delay"):
        return
    if request.cron_schedule:
        raise errors.invalid("CronSchedule and WorkflowStartDelay may not be used together.")
    wrong = cap_duration(request.workflow_start_delay)
    if wrong:
        raise errors.invalid(f"An invalid WorkflowStartDelaySeconds is set on request. cause: {wrong}")


def _check_cron(schedule: str) -> None:
    if not schedule:
        return
    now_ms = int(time.time() * 1000)
    try:
        due_ms = cron.next_ms(schedule, now_ms, now_ms)
    except cron.InvalidScheduleError:
        raise errors.invalid("invalid CronSchedule.") from None
    if not due_ms:
        raise errors.invalid("invalid CronSchedule, no time can be found to satisfy the schedule")


def _complete_request_id(request: Start | SignalWithStart, limits: Limits) -> None:
    if request.request_id:
        check_request_id(request.request_id, limits)
    else:
        request.request_id = str(uuid.uuid4())


def _check_policies(request: Start | SignalWithStart) -> None:
    reuse, conflict = request.workflow_id_reuse_policy, request.workflow_id_conflict_policy
    if reuse not in _REUSE_POLICIES:
        raise errors.invalid(f"Invalid WorkflowIDReusePolicy: {reuse}")
    if conflict not in _CONFLICT_POLICIES:
        raise errors.invalid(f"Invalid WorkflowIDConflictPolicy: {conflict}")
    if (
        conflict != Conflict.WORKFLOW_ID_CONFLICT_POLICY_UNSPECIFIED
        and reuse == Reuse.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    ):
        raise errors.invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING cannot be used "
            "together with a WorkflowIDConflictPolicy"
        )
    if (
        conflict == Conflict.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
        and reuse == Reuse.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
    ):
        raise errors.invalid(
            "Invalid WorkflowIDReusePolicy: WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE cannot be used "
            "together with WorkflowIdConflictPolicy WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"
        )


def _complete_policies(
    request: Start | SignalWithStart, conflict: WorkflowIdConflictPolicy.ValueType
) -> None:
    if request.workflow_id_reuse_policy == Reuse.WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED:
        request.workflow_id_reuse_policy = Reuse.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
    if request.workflow_id_conflict_policy == Conflict.WORKFLOW_ID_CONFLICT_POLICY_UNSPECIFIED:
        request.workflow_id_conflict_policy = conflict


def _check_attributes(attributes: SearchAttributes, namespace: NamespaceConfig, limits: Limits) -> None:
    if attributes.indexed_fields:
        custom = {pair.key: pair.value for pair in namespace.attributes}
        try:
            attribute_values.check(attributes, namespace.name, custom, limits)
        except attribute_values.InvalidSearchAttributes as error:
            raise errors.invalid(str(error)) from None


def _check_versioning_override(request: Start | SignalWithStart) -> None:
    if request.HasField("versioning_override"):
        raise errors.denied("Worker Deployment Versions are disabled on this namespace.")


def _check_sizes(request: Start | SignalWithStart, limits: Limits) -> None:
    check_blob(request.input, limits, request.namespace, request.workflow_id)
    check_memo(request.memo, limits, request.namespace, request.workflow_id)
