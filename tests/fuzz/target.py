"""The server under attack: sends requests, and tells whether the server is unharmed."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, OperatorServiceStub
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    SignalWithStartWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
    WorkflowServiceStub,
)

from gateway.methods import LONG, SERVICES, WORKFLOW_SERVICE
from streams import avro
from streams.runtime.partition import DeadLetter
from tests.fuzz.messages import Pool
from tests.support.processes import ServerProcess

NAMESPACE = "fuzz"
QUEUE = "fuzz-queue"
LONG_S = 0.05
"""How long a call that may wait is waited for, before its client goes away."""
SHORT_S = 15
"""How long any other call may take: more than this is stuck."""
POLL_S = 10
WORKFLOWS = 3
FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
)

KEPT_TOKENS = 30
ATTRIBUTES = {
    name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{name.upper()}")
    for name in ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "Keyword_List")
}
QUERIES = (
    "",
    "WorkflowId = 'w0'",
    "ExecutionStatus = 'Running' ORDER BY StartTime DESC",
    "StartTime > '2020-01-01T00:00:00Z' AND (WorkflowType STARTS_WITH 'f' OR NOT CloseTime IS NULL)",
    "HistoryLength BETWEEN 1 AND 99999999999999999999999",
    "RunId IN ('a', 'b') GROUP BY ExecutionStatus",
    "ExecutionDuration > '1h' OR ExecutionTime < 5",
    "(" * 200 + "WorkflowId = 'a'" + ")" * 200,
    "WorkflowId = 'a'" + " OR WorkflowId = 'a'" * 2_000,
)

Request = tuple[MethodDescriptor, bytes]
Call = tuple[MethodDescriptor, bytes, Any]


class Target:
    """A server process, a client of it, and the ids, tokens and names to make requests of."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._channel = grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)])
        self.workflows = WorkflowServiceStub(self._channel)
        self._database = sqlite3.connect(f"file:{server.path}?mode=ro", uri=True)
        self._numbers = itertools.count()
        self._letters = 0
        run_ids = tuple(self.start(f"w{number}") for number in range(WORKFLOWS))
        task = self.workflow_task()
        self.methods = self._implemented()
        attributes = AddSearchAttributesRequest(namespace=NAMESPACE, search_attributes=ATTRIBUTES)
        OperatorServiceStub(self._channel).AddSearchAttributes(attributes, timeout=SHORT_S)
        self.pool = Pool(
            {
                "": ("w0", "w1", QUEUE, "u1", "a1", "t1", "fuzz-type"),
                "namespace": (NAMESPACE,),
                "workflow_namespace": (NAMESPACE,),
                "workflow_id": tuple(f"w{number}" for number in range(WORKFLOWS)),
                "run_id": ("", *run_ids),
                "query": QUERIES,
                "cron_schedule": ("", "* * * * *", "@every 1s", "@hourly", "0 0 30 2 *"),
                "protocol_instance_id": ("u1", "u2"),
                "update_id": ("u1", "u2"),
                "name": (QUEUE, "fuzz-type"),
                "id": ("m1", "m1", "w0"),
                "message_id": ("m1",),
                "accepted_request_message_id": ("m1", "u1/request"),
                "request_id": ("r1", "r2", "r3"),
                "key": ("encoding", *ATTRIBUTES),
                "sequencing_id": ("event_id:1",),
                "timer_id": ("t1", "t2"),
                "activity_id": ("a1", "a2"),
                "identity": ("fuzz",),
            },
            [task.task_token, b"", b"w0"],
        )

    def close(self) -> None:
        """Close the client."""
        self._channel.close()
        self._database.close()

    def _implemented(self) -> list[MethodDescriptor]:
        """The methods that do more than to say that they are not supported."""
        implemented = []
        for method in (method for service in SERVICES for method in service.methods):
            call = self._call(method, b"")
            if call.code() != grpc.StatusCode.UNIMPLEMENTED:
                implemented.append(method)
        assert len(implemented) > 40
        return implemented

    # Sound calls

    def start(self, workflow_id: str, namespace: str = NAMESPACE, queue: str = QUEUE) -> str:
        """Start a workflow and return its run id."""
        request = StartWorkflowExecutionRequest(
            namespace=namespace,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="fuzz-type"),
            task_queue=TaskQueue(name=queue),
        )
        return str(self.workflows.StartWorkflowExecution(request, timeout=SHORT_S).run_id)

    def revive(self, workflow_id: str, commands: Iterable[Command] | None) -> None:
        """Have a run of the workflow open, with a workflow task completed by `commands` if there are any."""
        request = SignalWithStartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="fuzz-type"),
            task_queue=TaskQueue(name=QUEUE),
            signal_name="s",
        )
        self.workflows.SignalWithStartWorkflowExecution(request, timeout=SHORT_S)
        if commands is None:
            return
        task = self.workflow_task(timeout_s=2.2)
        if task.task_token:
            request = RespondWorkflowTaskCompletedRequest(
                namespace=NAMESPACE, task_token=task.task_token, commands=commands
            )
            method = WORKFLOW_SERVICE.methods_by_name["RespondWorkflowTaskCompleted"]
            self.send([(method, request.SerializeToString())])

    def terminate(self, workflow_id: str) -> None:
        """Terminate a workflow that may be gone already."""
        request = TerminateWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id=workflow_id)
        )
        self.send([(_method("TerminateWorkflowExecution"), request.SerializeToString())])

    def workflow_task(
        self, queue: str = QUEUE, namespace: str = NAMESPACE, timeout_s: float = POLL_S
    ) -> PollWorkflowTaskQueueResponse:
        """A workflow task; an empty one if there is none."""
        request = PollWorkflowTaskQueueRequest(namespace=namespace, task_queue=TaskQueue(name=queue))
        return self.workflows.PollWorkflowTaskQueue(request, timeout=timeout_s)  # type: ignore[no-any-return]

    def activity_task(self, queue: str = QUEUE) -> PollActivityTaskQueueResponse:
        """An activity task; an empty one if there is none."""
        request = PollActivityTaskQueueRequest(namespace=NAMESPACE, task_queue=TaskQueue(name=queue))
        return self.workflows.PollActivityTaskQueue(request, timeout=POLL_S)  # type: ignore[no-any-return]

    def complete(self, task_token: bytes, commands: Iterable[Command], namespace: str = NAMESPACE) -> None:
        """Complete a workflow task."""
        request = RespondWorkflowTaskCompletedRequest(
            namespace=namespace, task_token=task_token, commands=commands
        )
        self.workflows.RespondWorkflowTaskCompleted(request, timeout=SHORT_S)

    def fresh(self, prefix: str) -> str:
        """A name not used before."""
        return f"{prefix}-{next(self._numbers)}"

    # Hostile calls

    def send(self, requests: Iterable[Request]) -> list[grpc.StatusCode]:
        """Send requests at the same moment. Returns their codes; fails on those that blame the server."""
        return self.outcomes(self.begin(requests))

    def begin(self, requests: Iterable[Request]) -> list[Call]:
        """Send requests and wait for nothing."""
        return [(method, data, self._call(method, data)) for method, data in requests]

    def outcomes(self, calls: list[Call]) -> list[grpc.StatusCode]:
        """The codes of calls, which end now if they still wait; fails on those that blame the server."""
        ends_s = time.monotonic() + LONG_S
        names = [method.name for method, _, _ in calls]
        # A history may go while it is read, which its reader may ask for again.
        tolerated = (grpc.StatusCode.UNAVAILABLE,) if "DeleteWorkflowExecution" in names else ()
        return [self._outcome(method, data, call, ends_s, tolerated) for method, data, call in calls]

    def _call(self, method: MethodDescriptor, data: bytes) -> Any:
        path = f"/{method.containing_service.full_name}/{method.name}"
        timeout_s = 3.0 if method.name in LONG else SHORT_S
        return self._channel.unary_unary(path).future(data, timeout=timeout_s)

    def _outcome(
        self,
        method: MethodDescriptor,
        data: bytes,
        call: Any,
        ends_s: float,
        tolerated: Sequence[grpc.StatusCode],
    ) -> grpc.StatusCode:
        if method.name in LONG:
            try:
                call.result(max(ends_s - time.monotonic(), 0.001))
            except grpc.FutureTimeoutError:
                call.cancel()
                return grpc.StatusCode.CANCELLED
            except grpc.RpcError:
                pass
        code: grpc.StatusCode = call.code()
        stuck = code == grpc.StatusCode.DEADLINE_EXCEEDED and method.name not in LONG
        if (code in FAULTS and code not in tolerated) or stuck:
            raise AssertionError(
                f"{method.name}: {code.name} {call.details()}\n{shown(method, data)}\n{self.server.output()}"
            )
        if code == grpc.StatusCode.OK:
            self._collect_token(method, call.result())
        return code

    def _collect_token(self, method: MethodDescriptor, data: bytes) -> None:
        """Have page tokens and task tokens to send again, to whom they were not meant for."""
        response = GetMessageClass(method.output_type).FromString(data)
        for name in ("next_page_token", "task_token"):
            token = getattr(response, name, b"")
            if token:
                self.pool.tokens.append(token)
                del self.pool.tokens[:-KEPT_TOKENS]

    # Judging

    def check(self) -> None:
        """The process lives, no record was set aside, and a workflow still runs from start to end."""
        assert self.server.poll() is None, self.server.output()
        queue = self.fresh("healthy")
        self.start(queue, "default", queue)
        task = self.workflow_task(queue, "default")
        assert task.task_token, f"no workflow task: a partition is stuck\n{self.server.output()}"
        command = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
        command.complete_workflow_execution_command_attributes.SetInParent()
        self.complete(task.task_token, [command], "default")
        letters = self._database.execute("SELECT letter FROM dead_letters ORDER BY offset").fetchall()
        new = [avro.decode(DeadLetter, data) for (data,) in letters[self._letters :]]
        self._letters = len(letters)
        assert not new, f"the state machine raised: {[(one.type, one.key, one.reason) for one in new]}"


def shown(method: MethodDescriptor, data: bytes) -> str:
    """A request for a person to read."""
    try:
        return str(GetMessageClass(method.input_type).FromString(data))[:6000]
    except Exception as error:
        return f"{error}: {data[:300]!r}"


def _method(name: str) -> MethodDescriptor:
    return WORKFLOW_SERVICE.methods_by_name[name]
