"""Whatever a client sends: never INTERNAL, never a crash, never a stuck partition."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueRequest,
    RespondWorkflowTaskCompletedRequest,
)

from gateway.methods import SERVICES
from streams.task_token import TaskToken
from tests.unit.gateway.conftest import NAMESPACE, Serve, Served

METHODS = [method for service in SERVICES for method in service.methods]
BAD = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
TIMEOUT_S = 2.5
RUN = "2b0cf4b1-4f9d-4a3c-8f4e-1d2a3b4c5d6e"
TEXTS = [
    "",
    "w",
    "w2",
    "q",
    RUN,
    "a" * 1001,
    "é" * 40,
    "a\x1fb",
    "/",
    "\0",
    "* * * * *",
    "WorkflowId = 'w'",
    "u",
]
NUMBERS = [0, 1, -1, 2, 3, 5, 7, 1000, 2**31 - 1, -(2**31)]
TOKENS = [
    TaskToken(NAMESPACE, "w", RUN, kind, 2, 1, started_event_id=3, activity_id="a", query_id="q", queue="q")
    for kind in ("workflow", "activity", "query")
]
EXPECTED = {
    "namespace",
    "workflow_id",
    "workflow_execution",
    "execution",
    "task_queue",
    "task_token",
    "name",
} | {
    *(
        "workflow_type",
        "signal_name",
        "request_id",
        "activity_id",
        "query",
        "query_type",
        "update_ref",
        "meta",
    ),
    *("input", "request", "update_id", "operations"),
}
_MAX_DEPTH = 5
COMMAND_TYPES = frozenset(CommandType.keys())
_ATTRIBUTES = [
    field
    for field in Command.DESCRIPTOR.fields
    if f"COMMAND_TYPE_{field.name.removesuffix('_command_attributes').upper()}" in COMMAND_TYPES
]


class Maker:
    """Makes up messages: a share of their fields is set, to what other requests may have named before."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._share = self._random.choice([0.1, 0.3, 0.6])

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """A message with fields made up."""
        made: Any = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if field.name in EXPECTED or self._random.random() < self._share:
                self._set(made, field, depth)
        return made  # type: ignore[no-any-return]

    def completion(self, task_token: bytes) -> RespondWorkflowTaskCompletedRequest:
        """An answer to a workflow task, with a command or two."""
        request = self.message(RespondWorkflowTaskCompletedRequest.DESCRIPTOR)
        assert isinstance(request, RespondWorkflowTaskCompletedRequest)
        for field in (
            "commands",
            "worker_version_stamp",
            "intermediate_page",
            "sticky_attributes",
            "identity",
        ):
            request.ClearField(field)  # type: ignore[arg-type]
        if self._random.random() < 0.7:
            request.ClearField("messages")
        request.task_token, request.namespace = task_token, NAMESPACE
        for _ in range(self._random.choice([0, 1, 1, 1, 2])):
            field = self._random.choice(_ATTRIBUTES)
            command = request.commands.add()
            name = field.name.removesuffix("_command_attributes").upper()
            command.command_type = CommandType.Value(f"COMMAND_TYPE_{name}")
            getattr(command, field.name).CopyFrom(self.message(field.message_type, 1))
        return request

    def _set(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            target = getattr(made, field.name)
            key = self._text(field) if field.message_type.fields_by_name["key"].cpp_type == 9 else 1
            if value.message_type is not None:
                if depth < _MAX_DEPTH:
                    target[key].CopyFrom(self.message(value.message_type, depth + 1))
            else:
                target[key] = self._value(value)
        elif field.is_repeated:
            for _ in range(self._random.randrange(3)):
                if field.message_type is None:
                    getattr(made, field.name).append(self._value(field))
                elif depth < _MAX_DEPTH:
                    getattr(made, field.name).append(self.message(field.message_type, depth + 1))
        elif field.message_type is None:
            setattr(made, field.name, self._value(field))
        elif depth < _MAX_DEPTH:
            getattr(made, field.name).CopyFrom(self.message(field.message_type, depth + 1))

    def _value(self, field: FieldDescriptor) -> Any:
        choose = self._random
        if field.enum_type is not None:
            return choose.choice([*field.enum_type.values_by_number, 99])
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                garbage = [b"", b"x", choose.randbytes(20), b'"json"', b"[1]"]
                return choose.choice([token.encode() for token in TOKENS] + garbage)
            case FieldDescriptor.CPPTYPE_STRING:
                return self._text(field)
            case FieldDescriptor.CPPTYPE_BOOL:
                return choose.random() < 0.5
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return choose.choice([0.0, 1.0, -1.0, 2.5, float("nan"), float("inf")])
            case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
                return choose.choice([0, 1, 7, 2**32 - 1])
            case FieldDescriptor.CPPTYPE_INT64:
                return choose.choice([*NUMBERS, 2**63 - 1, -(2**63)])
            case _:
                return choose.choice(NUMBERS)

    def _text(self, field: FieldDescriptor) -> str:
        if field.name in ("namespace", "workflow_namespace") and self._random.random() < 0.9:
            return NAMESPACE
        if field.name == "workflow_id" and self._random.random() < 0.6:
            return "w"
        if field.name == "run_id" and self._random.random() < 0.6:
            return ""
        return self._random.choice(TEXTS)


async def send(served: Served, method: MethodDescriptor, data: bytes) -> None:
    """Sends a request and lets it fail in any way that blames its sender."""
    call = served.channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
    try:
        await call(data, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        if error.code() in BAD:
            request = GetMessageClass(method.input_type).FromString(data)
            pytest.fail(f"{method.name}: {error.code().name} {error.details()}\n{request}")


async def in_flight(jobs: Iterable[Awaitable[None]]) -> None:
    """Runs jobs, no more than some at a time."""
    gate = asyncio.Semaphore(50)

    async def gated(job: Awaitable[None]) -> None:
        async with gate:
            await job

    await asyncio.gather(*map(gated, jobs))


async def works(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Checks that nothing is stuck, and that no record was set aside."""
    await served.start("after")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_requests_made_up(
    serve: Serve, caplog: pytest.LogCaptureFixture, method: MethodDescriptor
) -> None:
    served = await serve(history_poll_ms=50)
    await served.start("w")
    requests = (Maker(seed).message(method.input_type) for seed in range(12))
    if method.name == "DeleteNamespace":
        requests = (request for request in requests if request.namespace != NAMESPACE)
    await in_flight(send(served, method, request.SerializeToString()) for request in requests)
    await works(served, caplog)


@pytest.mark.parametrize("seeds", [range(start, start + 30) for start in range(0, 150, 30)], ids=str)
async def test_task_completions_made_up(
    served: Served, caplog: pytest.LogCaptureFixture, seeds: range
) -> None:
    await in_flight(_complete_tasks(served, seed) for seed in seeds)
    await works(served, caplog)


async def _complete_tasks(served: Served, seed: int) -> None:
    """Answers the tasks of a workflow with commands and messages made up."""
    maker, workflow_id = Maker(seed), f"worked-{seed}"
    await served.start(workflow_id, queue=workflow_id)
    method = SERVICES[0].methods_by_name["RespondWorkflowTaskCompleted"]
    for _ in range(3):
        request = PollWorkflowTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name=workflow_id))
        task = await served.workflows.PollWorkflowTaskQueue(request, timeout=3)
        if not task.task_token:
            return
        await send(served, method, maker.completion(task.task_token).SerializeToString())
