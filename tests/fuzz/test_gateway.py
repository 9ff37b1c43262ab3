"""Whatever a client or worker sends: never INTERNAL, never a crash, never a stuck partition, no dead letter.

ODRADEK_TEST_FUZZ=N runs N times as many examples, other ones each time.
"""

from __future__ import annotations

import os
import random
import socket

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import ActivityType, WorkflowExecution
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.update.v1 import Input, Meta
from temporalio.api.update.v1 import Request as UpdateRequest
from temporalio.api.workflowservice.v1 import (
    QueryWorkflowRequest,
    RespondWorkflowTaskCompletedRequest,
    SignalWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)

from gateway.methods import WORKFLOW_SERVICE
from tests.fuzz.messages import Maker, Pool
from tests.fuzz.target import NAMESPACE, QUEUE, WORKFLOWS, Request, Target

TIMES = int(os.environ.get("ODRADEK_TEST_FUZZ", "0"))
DESTRUCTIVE = frozenset({"DeleteNamespace", "UpdateNamespace", "DeprecateNamespace"})
"""Methods that may not be aimed at the namespace that the others need."""
ATTRIBUTES = [field for field in Command.DESCRIPTOR.fields if field.name.endswith("_command_attributes")]
ACTIVITY_ANSWERS = [
    WORKFLOW_SERVICE.methods_by_name[name]
    for name in (
        "RecordActivityTaskHeartbeat",
        "RespondActivityTaskCompleted",
        "RespondActivityTaskFailed",
        "RespondActivityTaskCanceled",
        "RecordActivityTaskHeartbeatById",
        "RespondActivityTaskCompletedById",
        "RespondActivityTaskFailedById",
        "RespondActivityTaskCanceledById",
    )
]


def _fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples * max(TIMES, 1),
        deadline=None,
        derandomize=not TIMES,
        database=None,
        # The server remembers what it was sent, so a smaller request may not fail again.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def _pool(target: Target, method: MethodDescriptor) -> Pool:
    if method.name not in DESTRUCTIVE:
        return target.pool
    return Pool({"": ("doomed", "doomed-2")}, target.pool.tokens)


@pytest.mark.timeout(0 if TIMES else 300)
@_fuzz(300)
@given(chance=st.randoms(use_true_random=True))
def test_requests_of_any_content(target: Target, chance: random.Random) -> None:
    workflow_id = f"w{chance.randrange(WORKFLOWS)}"
    target.revive(workflow_id, [_activity(QUEUE)] if chance.random() < 0.2 else None)
    requests = []
    for _ in range(chance.randint(1, 8)):
        method = chance.choice(target.methods)
        requests.append((method, Maker(chance, _pool(target, method)).encoding(method.input_type)))
    target.send(requests)
    target.check()


def _command(maker: Maker) -> Command:
    """A command, nearly always of the type that its attributes are for."""
    field = maker.chance.choice(ATTRIBUTES)
    name = "COMMAND_TYPE_" + field.name.removesuffix("_command_attributes").upper()
    command = Command(command_type=CommandType.Value(name))
    getattr(command, field.name).CopyFrom(maker.message(field.message_type))
    if maker.chance.random() < maker.hostility / 4:
        command.command_type = maker.chance.choice((*CommandType.values(), 99))  # type: ignore[assignment]
    return command


@pytest.mark.timeout(0 if TIMES else 300)
@_fuzz(300)
@given(chance=st.randoms(use_true_random=True))
def test_workers_that_answer_workflow_tasks_with_anything(target: Target, chance: random.Random) -> None:
    workflow_id = target.fresh("victim")
    target.start(workflow_id, queue=workflow_id)
    waiting = target.begin(_disturbances(chance, workflow_id))
    try:
        task = target.workflow_task(workflow_id)
        assert task.task_token
        maker = Maker(chance, target.pool)
        request = RespondWorkflowTaskCompletedRequest()
        if chance.random() < 0.5:
            request.CopyFrom(maker.message(RespondWorkflowTaskCompletedRequest.DESCRIPTOR))
            del request.messages[:]
        del request.commands[:]
        request.namespace, request.task_token = NAMESPACE, task.task_token
        request.commands.extend(_command(maker) for _ in range(chance.randrange(5)))
        for message in task.messages:
            answer = request.messages.add(id="m1", protocol_instance_id=message.protocol_instance_id)
            maker.pack(answer.body)
        target.send(
            [(WORKFLOW_SERVICE.methods_by_name["RespondWorkflowTaskCompleted"], request.SerializeToString())]
        )
        target.outcomes(waiting)
        target.check()
    finally:
        target.terminate(workflow_id)


def _disturbances(chance: random.Random, workflow_id: str) -> list[Request]:
    """Signals, queries and updates that are around with a task."""
    execution = WorkflowExecution(workflow_id=workflow_id)
    requests: list[Request] = []
    if chance.random() < 0.3:
        signal = SignalWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=execution, signal_name="s"
        )
        requests.append(
            (WORKFLOW_SERVICE.methods_by_name["SignalWorkflowExecution"], signal.SerializeToString())
        )
    if chance.random() < 0.3:
        query = QueryWorkflowRequest(namespace=NAMESPACE, execution=execution)
        query.query.query_type = "q"
        requests.append((WORKFLOW_SERVICE.methods_by_name["QueryWorkflow"], query.SerializeToString()))
    if chance.random() < 0.5:
        update = UpdateWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_execution=execution,
            request=UpdateRequest(meta=Meta(update_id="u1"), input=Input(name="update")),
        )
        method = WORKFLOW_SERVICE.methods_by_name["UpdateWorkflowExecution"]
        requests.append((method, update.SerializeToString()))
    return requests


@pytest.mark.timeout(0 if TIMES else 300)
@_fuzz(200)
@given(chance=st.randoms(use_true_random=True))
def test_workers_that_answer_activities_with_anything(target: Target, chance: random.Random) -> None:
    workflow_id = target.fresh("active")
    target.start(workflow_id, queue=workflow_id)
    try:
        target.complete(target.workflow_task(workflow_id).task_token, [_activity(workflow_id)])
        token = target.activity_task(workflow_id).task_token
        assert token
        requests = []
        for _ in range(chance.randint(1, 4)):
            method = chance.choice(ACTIVITY_ANSWERS)
            request = Maker(chance, target.pool).message(method.input_type)
            request.namespace = NAMESPACE
            if "task_token" in method.input_type.fields_by_name:
                request.task_token = token
            else:
                request.workflow_id, request.run_id, request.activity_id = workflow_id, "", "a1"
            requests.append((method, request.SerializeToString()))
        target.send(requests)
        target.check()
    finally:
        target.terminate(workflow_id)


@pytest.mark.timeout(0 if TIMES else 300)
@_fuzz(120)
@given(chance=st.randoms(use_true_random=True))
def test_workers_that_answer_queries_with_anything(target: Target, chance: random.Random) -> None:
    workflow_id = target.fresh("asked")
    target.start(workflow_id, queue=workflow_id)
    try:
        target.complete(target.workflow_task(workflow_id).task_token, [])
        query = QueryWorkflowRequest(
            namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id)
        )
        query.query.query_type = "q"
        waiting = target.begin(
            [(WORKFLOW_SERVICE.methods_by_name["QueryWorkflow"], query.SerializeToString())]
        )
        task = target.workflow_task(workflow_id)
        assert task.HasField("query")
        method = WORKFLOW_SERVICE.methods_by_name["RespondQueryTaskCompleted"]
        answer = Maker(chance, target.pool).message(method.input_type)
        answer.namespace, answer.task_token = NAMESPACE, task.task_token
        target.send([(method, answer.SerializeToString())] * chance.randint(1, 2))
        target.outcomes(waiting)
        target.check()
    finally:
        target.terminate(workflow_id)


def _activity(queue: str) -> Command:
    command = Command(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    attributes = command.schedule_activity_task_command_attributes
    attributes.activity_id = "a1"
    attributes.activity_type.CopyFrom(ActivityType(name="fuzz-activity"))
    attributes.task_queue.CopyFrom(TaskQueue(name=queue))
    attributes.start_to_close_timeout.CopyFrom(Duration(seconds=60))
    return command


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x7f" * 500,
    ],
    ids=["http1", "zeros", "broken-frames", "tls"],
)
def test_connections_that_do_not_speak_grpc(target: Target, data: bytes) -> None:
    host, _, port = target.server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
        except OSError:
            pass  # the server hung up, as it may
    target.check()
