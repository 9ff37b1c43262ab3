"""Clients that wait: calls whose answers come later, queries, updates, and what workers say about them."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message as ProtobufMessage
from temporalio.api.common.v1 import GrpcStatus, WorkflowExecution
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage as Stage
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Outcome, Rejection, Response
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from streams.runtime.partition import Outcome as StepOutcome
from streams.runtime.records import Reply
from tests.unit.history.support import (
    NAMESPACE,
    CallError,
    Workflows,
    application_failure,
    command,
    payloads,
    seconds,
)

UNSPECIFIED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_UNSPECIFIED
ADMITTED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ADMITTED
ACCEPTED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
COMPLETED = Stage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED

WAIT_MS = 20_000


class DetailedError(CallError):
    """A call was answered with an error that has the API's details."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.code, reply.message)
        self.status = GrpcStatus.FromString(reply.body)

    def detail(self, kind: type[ProtobufMessage]) -> Any:
        """The first detail, which is of this kind."""
        found = kind()
        assert self.status.details[0].Unpack(found), self.status.details[0].type_url
        return found


class Waiting:
    """A call that was made."""

    def __init__(self, clients: Clients, id: int, method: str) -> None:
        self._clients = clients
        self.id = id
        self._method = method

    @property
    def answered(self) -> bool:
        """Whether there is an answer."""
        return self.id in self._clients.replies

    def answer(self) -> Any:
        """The response. Raises DetailedError; a call without an answer fails the test."""
        replies = self._clients.replies[self.id]
        assert len(replies) == 1
        if replies[0].code:
            raise DetailedError(replies[0])
        return getattr(api, f"{self._method}Response").FromString(replies[0].body)


class Clients(Workflows):
    """Workflows whose replies are all kept, by call."""

    def __init__(self, **limits: int) -> None:
        self.replies: dict[int, list[Reply]] = {}
        super().__init__(**limits)

    def send(self, body: Any, call_id: int | None = None) -> StepOutcome:
        """Fold a record and keep what it answers."""
        outcome = super().send(body, call_id)
        for where, reply in outcome.replies:
            self.replies.setdefault(where.id, []).append(reply)
        return outcome

    def ask(self, request: ProtobufMessage, run_id: str = "", new_run_id: str = "") -> Waiting:
        """Make an API call about `wf` and do not wait for its answer."""
        method = type(request).__name__.removesuffix("Request")
        self.calls += 1
        id = self.calls
        self.send(
            bodies.Call(
                method,
                NAMESPACE,
                "wf",
                run_id,
                request.SerializeToString(),
                new_run_id,
                self.fold.now_ms + WAIT_MS,
            ),
            id,
        )
        return Waiting(self, id, method)

    # Queries

    def query(self, run_id: str = "", **fields: Any) -> Waiting:
        """Ask a question."""
        request = api.QueryWorkflowRequest(namespace=NAMESPACE, **fields)
        request.query.query_type = "question"
        return self.ask(request, run_id)

    def poll_query(self, queue: str = "tq") -> api.PollWorkflowTaskQueueResponse:
        """Start the next query task of a queue."""
        data = self.deliver(self.take(bodies.QUERY_TASK, queue))
        assert data is not None
        return api.PollWorkflowTaskQueueResponse.FromString(data)

    def respond_query(self, task: api.PollWorkflowTaskQueueResponse, **fields: Any) -> Any:
        """Answer a query task."""
        fields = fields or {"completed_type": 1, "query_result": payloads("answer")}
        request = api.RespondQueryTaskCompletedRequest(
            namespace=NAMESPACE, task_token=task.task_token, **fields
        )
        return self.ask(request, task.workflow_execution.run_id).answer()

    # Updates

    def update(self, update_id: str = "u1", stage: int = COMPLETED, **fields: Any) -> Waiting:
        """Send an update."""
        return self.ask(update_request(update_id, stage, **fields))

    def poll_update(self, update_id: str = "u1", stage: int = UNSPECIFIED) -> Waiting:
        """Ask what became of an update."""
        request = api.PollWorkflowExecutionUpdateRequest(namespace=NAMESPACE)
        request.update_ref.update_id = update_id
        request.wait_policy.lifecycle_stage = stage  # type: ignore[assignment]
        return self.ask(request)

    def idle(self, **fields: Any) -> str:
        """Start a workflow whose first task is done; its run id."""
        run_id = self.start(**fields)
        self.step()
        return run_id


def update_request(update_id: str, stage: int, **fields: Any) -> api.UpdateWorkflowExecutionRequest:
    """An UpdateWorkflowExecutionRequest about `wf`."""
    request = api.UpdateWorkflowExecutionRequest(
        namespace=NAMESPACE, workflow_execution=WorkflowExecution(workflow_id="wf"), **fields
    )
    request.wait_policy.lifecycle_stage = stage  # type: ignore[assignment]
    request.request.meta.update_id = update_id
    request.request.input.name = "change"
    return request


def _message(body: ProtobufMessage, update_id: str, what: str) -> Message:
    message = Message(id=f"{update_id}/{what}", protocol_instance_id=update_id)
    message.body.Pack(body)
    return message


def accept(message: Message) -> Message:
    """A worker accepts the update that a message brought."""
    body = Acceptance(
        accepted_request_message_id=message.id, accepted_request_sequencing_event_id=message.event_id
    )
    return _message(body, message.protocol_instance_id, "accept")


def reject(message: Message, text: str = "no") -> Message:
    """A worker rejects the update that a message brought."""
    body = Rejection(rejected_request_message_id=message.id, failure=application_failure(text))
    return _message(body, message.protocol_instance_id, "reject")


def respond(update_id: str = "u1", text: str = "out") -> Message:
    """A worker completes an update."""
    body = Response(outcome=Outcome(success=payloads(text)))
    body.meta.update_id = update_id
    return _message(body, update_id, "complete")


def place(message: Message) -> Any:
    """The command that gives a message its place."""
    return command("PROTOCOL_MESSAGE", message_id=message.id)


def sticky(queue: str = "sticky") -> dict[str, Any]:
    """What a worker says with a completed task to get the next one on a queue of its own."""
    return {
        "worker_task_queue": {"name": queue},
        "schedule_to_start_timeout": seconds(5),
    }
