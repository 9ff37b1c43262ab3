"""Failures nested as deep as protobuf readers accept, or deeper: refused, or everything stays readable."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from temporalio.api.command.v1 import (
    Command,
    FailWorkflowExecutionCommandAttributes,
    RecordMarkerCommandAttributes,
)
from temporalio.api.common.v1 import ActivityType, WorkflowExecution
from temporalio.api.enums.v1 import CommandType, TaskQueueKind
from temporalio.api.failure.v1 import Failure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Acceptance, Input, Meta, Outcome, Request, Response
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    RespondActivityTaskFailedRequest,
    RespondWorkflowTaskCompletedRequest,
    UpdateWorkflowExecutionRequest,
)

from gateway.methods import WORKFLOW_SERVICE
from streams.history.failure_depth import CUT_OFF, MAX_CAUSES
from tests.fuzz.messages import deep_failure_data, length_delimited
from tests.fuzz.target import NAMESPACE, Target

LEVELS = [1, MAX_CAUSES, MAX_CAUSES + 1, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 200, 20_000]


@pytest.mark.parametrize("levels", LEVELS)
def test_of_activities(target: Target, levels: int) -> None:
    workflow_id = target.fresh("deep-activity")
    target.start(workflow_id, queue=workflow_id)
    command = Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    attributes = command.schedule_activity_task_command_attributes
    attributes.activity_id = "a1"
    attributes.activity_type.CopyFrom(ActivityType(name="activity"))
    attributes.task_queue.CopyFrom(TaskQueue(name=workflow_id, kind=TaskQueueKind.TASK_QUEUE_KIND_NORMAL))
    attributes.schedule_to_close_timeout.seconds = 60
    attributes.retry_policy.maximum_attempts = 2
    attributes.retry_policy.initial_interval.nanos = 1_000_000
    target.complete(target.workflow_task(workflow_id).task_token, [command])
    cause = _field(RespondActivityTaskFailedRequest.DESCRIPTOR, "failure", deep_failure_data(levels))
    kind = RespondActivityTaskFailedRequest(failure=Failure(application_failure_info={}))
    for _ in range(2):
        kind.task_token = target.activity_task(workflow_id).task_token
        assert kind.task_token
        code = _send(target, "RespondActivityTaskFailed", kind.SerializeToString() + cause)
        _assert_readable(target, workflow_id)
        if code != grpc.StatusCode.OK:
            assert levels > MAX_CAUSES
            break
    target.terminate(workflow_id)
    target.check()


@pytest.mark.parametrize("levels", LEVELS)
def test_of_workflows_their_markers_and_updates(target: Target, levels: int) -> None:
    workflow_id = target.fresh("deep-workflow")
    target.start(workflow_id, queue=workflow_id)
    update = UpdateWorkflowExecutionRequest(
        namespace=NAMESPACE,
        workflow_execution=WorkflowExecution(workflow_id=workflow_id),
        request=Request(meta=Meta(update_id="u1"), input=Input(name="update")),
    )
    method = WORKFLOW_SERVICE.methods_by_name["UpdateWorkflowExecution"]
    waiting = target.begin([(method, update.SerializeToString())])
    task = target.workflow_task(workflow_id)
    failure = deep_failure_data(levels)
    request = RespondWorkflowTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token)
    marker = Command(command_type=CommandType.COMMAND_TYPE_RECORD_MARKER)
    marker.record_marker_command_attributes.marker_name = "marker"
    fail = Command(command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
    commands = [
        _with_failure(marker, "record_marker_command_attributes", RecordMarkerCommandAttributes, failure),
        _with_failure(
            fail,
            "fail_workflow_execution_command_attributes",
            FailWorkflowExecutionCommandAttributes,
            failure,
        ),
    ]
    for message in task.messages:
        accepted = request.messages.add(id="m1", protocol_instance_id="u1")
        accepted.body.Pack(
            Acceptance(
                accepted_request_message_id=message.id,
                accepted_request_sequencing_event_id=1,
                accepted_request=update.request,
            )
        )
        completed = request.messages.add(id="m2", protocol_instance_id="u1")
        completed.body.Pack(Response(meta=update.request.meta))
        outcome = _field(Outcome.DESCRIPTOR, "failure", failure)
        completed.body.value += _field(Response.DESCRIPTOR, "outcome", outcome)
        for id in ("m1", "m2"):
            command = Command(command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
            command.protocol_message_command_attributes.message_id = id
            request.commands.append(command)
    data = request.SerializeToString() + b"".join(
        _field(RespondWorkflowTaskCompletedRequest.DESCRIPTOR, "commands", command) for command in commands
    )
    code = _send(target, "RespondWorkflowTaskCompleted", data)
    assert code == grpc.StatusCode.OK or levels > MAX_CAUSES
    target.outcomes(waiting)
    _assert_readable(target, workflow_id)
    target.terminate(workflow_id)
    target.check()


def test_what_is_cut_off_says_so(target: Target) -> None:
    workflow_id = target.fresh("deep-cut")
    target.start(workflow_id, queue=workflow_id)
    fail = Command(command_type=CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
    attributes = fail.fail_workflow_execution_command_attributes
    attributes.failure.ParseFromString(deep_failure_data(MAX_CAUSES + 5))
    target.complete(target.workflow_task(workflow_id).task_token, [fail])
    request = GetWorkflowExecutionHistoryRequest(
        namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id)
    )
    history = target.workflows.GetWorkflowExecutionHistory(request, timeout=5).history
    failure = history.events[-1].workflow_execution_failed_event_attributes.failure
    depth = 0
    while failure.HasField("cause"):
        failure, depth = failure.cause, depth + 1
    assert (depth, failure.message) == (MAX_CAUSES + 1, CUT_OFF)


def _with_failure(command: Command, name: str, attributes: type, failure: bytes) -> bytes:
    """An encoded command whose attributes have a failure that may be too deep for this library."""
    inner = getattr(command, name).SerializeToString() + _field(attributes.DESCRIPTOR, "failure", failure)  # type: ignore[attr-defined]
    command.ClearField(name)  # type: ignore[arg-type]
    return command.SerializeToString() + _field(Command.DESCRIPTOR, name, inner)


def _field(descriptor: Descriptor, name: str, data: bytes) -> bytes:
    return length_delimited(descriptor.fields_by_name[name].number, data)


def _send(target: Target, name: str, data: bytes) -> grpc.StatusCode:
    return target.send([(WORKFLOW_SERVICE.methods_by_name[name], data)])[0]


def _assert_readable(target: Target, workflow_id: str) -> None:
    execution = WorkflowExecution(workflow_id=workflow_id)
    target.workflows.DescribeWorkflowExecution(
        DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=execution), timeout=5
    )
    target.workflows.GetWorkflowExecutionHistory(
        GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, execution=execution), timeout=5
    )
