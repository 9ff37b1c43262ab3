"""Workers: they poll, work, and answer in time, late, twice or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import CommandType, QueryResultType, TaskQueueKind
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.protocol.v1 import Message
from temporalio.api.query.v1 import WorkflowQueryResult
from temporalio.api.taskqueue.v1 import StickyExecutionAttributes, TaskQueue
from temporalio.api.update.v1 import Acceptance, Rejection, Request, Response
from temporalio.api.workflowservice import v1 as api

from gateway.errors import NOT_FOUND, ApiError
from streams.bodies import ACTIVITY_TASK, WORKFLOW_TASK, Call
from streams.runtime.records import Reply
from streams.task_token import TaskToken
from streams.topology import COMMANDS, workflow_key
from tests.simulation.judge import require
from tests.simulation.programs import NAMESPACE, QUEUE, Progress, duration, failure, payloads

if TYPE_CHECKING:
    from tests.simulation.gateways import Gateway
    from tests.simulation.world import World

START_CHILD = CommandType.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION
STICKY_TIMEOUT_MS = 5_000
CALL_TIMEOUT_MS = 4_000


class Worker:
    """One worker process with a poll of each kind, and a cache of workflows where it uses a sticky queue.

    Some rest between polls for workflow tasks, so that there are backlogs.
    """

    def __init__(self, world: World, name: str, *, sticky: bool) -> None:
        self.world = world
        self.name = name
        self.sticky_queue = f"{name}-sticky" if sticky else ""
        self.fair = False
        self._rest_ms = world.rng.choice((30, 30, 6_000))
        self._cache: dict[str, list[HistoryEvent]] = {}
        self._number = 0
        self._poll_workflow(QUEUE, False)
        if sticky:
            self._poll_workflow(self.sticky_queue, True)
        self._poll_activity()

    def _next_name(self, what: str) -> str:
        self._number += 1
        return f"{self.name}-{what}-{self._number}"

    def _gateway(self) -> Gateway:
        return self.world.rng.choice(self.world.gateways)

    # Polls

    def _wait_ms(self) -> int:
        return self.world.rng.choice((1_000, 5_000, 20_000))

    def _poll_workflow(self, queue: str, sticky: bool) -> None:
        if self.world.over:
            return
        kind = TaskQueueKind.TASK_QUEUE_KIND_STICKY if sticky else TaskQueueKind.TASK_QUEUE_KIND_NORMAL
        request = api.PollWorkflowTaskQueueRequest(
            namespace=NAMESPACE, task_queue=TaskQueue(name=queue, kind=kind), identity=self.name
        )

        def done(reply: Reply) -> None:
            if reply.body:
                response = api.PollWorkflowTaskQueueResponse.FromString(reply.body)
                self._work(response, sticky=sticky)
            self.world.at(self.world.rng.randint(0, self._rest_ms), self._poll_workflow, queue, sticky)

        self._gateway().poll(queue, WORKFLOW_TASK, request, sticky, self._wait_ms(), done)

    def _poll_activity(self) -> None:
        if self.world.over:
            return
        request = api.PollActivityTaskQueueRequest(
            namespace=NAMESPACE, task_queue=TaskQueue(name=QUEUE), identity=self.name
        )

        def done(reply: Reply) -> None:
            if reply.body:
                self._act(api.PollActivityTaskQueueResponse.FromString(reply.body))
            self.world.at(self.world.rng.randint(0, 30), self._poll_activity)

        self._gateway().poll(QUEUE, ACTIVITY_TASK, request, False, self._wait_ms(), done)

    # Workflow tasks

    def _known(self, run_id: str, events: list[HistoryEvent]) -> list[HistoryEvent] | None:
        """The whole history, None when what came does not go on from what is cached."""
        first = events[0].event_id if events else 0
        if first == 1:
            return events
        cached = self._cache.get(run_id, [])
        if not events:
            return cached or None
        return [*cached[: first - 1], *events] if 0 < first <= len(cached) + 1 else None

    def _work(self, response: api.PollWorkflowTaskQueueResponse, *, sticky: bool) -> None:
        """Get the rest of the history, page by page, then work on the task."""
        if not response.next_page_token:
            self._begin(response, list(response.history.events), sticky=sticky)
            return
        request = api.GetWorkflowExecutionHistoryRequest(
            namespace=NAMESPACE,
            execution=response.workflow_execution,
            next_page_token=response.next_page_token,
        )

        def done(page: bytes | ApiError) -> None:
            if isinstance(page, bytes):
                more = api.GetWorkflowExecutionHistoryResponse.FromString(page)
                response.history.MergeFrom(more.history)
                response.next_page_token = more.next_page_token
                self._work(response, sticky=sticky)

        self._gateway().history(request, done)

    def _begin(
        self, response: api.PollWorkflowTaskQueueResponse, came: list[HistoryEvent], *, sticky: bool
    ) -> None:
        rng = self.world.rng
        ids = [event.event_id for event in came]
        begins = ids[0] if sticky and ids else 1
        what = f"the task {response.started_event_id} of {response.workflow_execution.run_id} came with {ids}"
        require(ids == list(range(begins, begins + len(ids))) and (sticky or bool(ids)), what)
        if response.started_event_id and ids[-1:] != [response.started_event_id]:
            self._refuse(response, what)
            return
        behaviour = 1.0 if self.fair else rng.random()
        if behaviour < 0.04:
            return  # Never answers: the task times out.
        delay_ms = rng.randint(8_000, 14_000) if behaviour < 0.06 else rng.randint(0, 40)
        self.world.at(delay_ms, self._answer, response, came, behaviour)

    def _refuse(self, response: api.PollWorkflowTaskQueueResponse, what: str) -> None:
        """Fail a task whose own events are missing: it has to be over, as it can be once a page was waited for."""
        self._fail(response, lambda reply: require(reply.code == NOT_FOUND, what))

    def _fail(self, response: api.PollWorkflowTaskQueueResponse, done: Callable[[Reply], None]) -> None:
        request = api.RespondWorkflowTaskFailedRequest(
            namespace=NAMESPACE, task_token=response.task_token, identity=self.name
        )
        self._respond("RespondWorkflowTaskFailed", request, done)

    def _answer(
        self, response: api.PollWorkflowTaskQueueResponse, came: list[HistoryEvent], how: float
    ) -> None:
        run_id = response.workflow_execution.run_id
        events = self._known(run_id, came)
        if response.HasField("query"):
            self._answer_query(response)
        elif events is None:
            self._cache.pop(run_id, None)
            self._fail(response, lambda reply: None)
        elif how < 0.09:
            request = api.RespondWorkflowTaskFailedRequest(
                namespace=NAMESPACE,
                task_token=response.task_token,
                identity=self.name,
                failure=failure("a bug"),
            )
            self._respond("RespondWorkflowTaskFailed", request, lambda reply: None)
        else:
            self._complete(response, events, twice=how < 0.15)

    def _complete(
        self, response: api.PollWorkflowTaskQueueResponse, events: list[HistoryEvent], *, twice: bool
    ) -> None:
        rng, name = self.world.rng, self._next_name("task")
        commands = Progress(events, name).commands()
        request = api.RespondWorkflowTaskCompletedRequest(
            namespace=NAMESPACE,
            task_token=response.task_token,
            identity=name,
            return_new_workflow_task=rng.random() < 0.5,
        )
        for id in response.queries:
            request.query_results[id].CopyFrom(
                WorkflowQueryResult(
                    result_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED,
                    answer=payloads(response.workflow_execution.run_id),
                )
            )
        answers = [self._answer_update(request, message) for message in response.messages]
        rejected = all(answers)
        request.commands.extend(commands)
        if any(command.command_type == START_CHILD for command in commands):
            # A workflow task between a child's Initiated and its Started event is a point to reset to.
            request.force_create_new_workflow_task = rng.random() < 0.8
        if self.sticky_queue:
            request.sticky_attributes.CopyFrom(
                StickyExecutionAttributes(
                    worker_task_queue=TaskQueue(
                        name=self.sticky_queue, kind=TaskQueueKind.TASK_QUEUE_KIND_STICKY, normal_name=QUEUE
                    ),
                    schedule_to_start_timeout=duration(STICKY_TIMEOUT_MS),
                )
            )
            self._cache[response.workflow_execution.run_id] = events
        leaves_events = bool(commands) or not rejected or not response.messages

        def done(reply: Reply) -> None:
            if reply.code:
                return
            if leaves_events:
                self.world.judge.told["task"][name] = True
            answer = api.RespondWorkflowTaskCompletedResponse.FromString(reply.body)
            if answer.HasField("workflow_task"):
                self._work(answer.workflow_task, sticky=True)

        self._respond("RespondWorkflowTaskCompleted", request, done)
        if twice:
            self._respond("RespondWorkflowTaskCompleted", request, done)

    def _answer_update(self, request: api.RespondWorkflowTaskCompletedRequest, message: Message) -> bool:
        """Accept and complete an update, or reject it, as its name says; True for rejected."""
        asked = Request()
        message.body.Unpack(asked)
        update_id = asked.meta.update_id
        if "reject" in asked.input.name:
            rejection = Rejection(
                rejected_request_message_id=message.id,
                rejected_request_sequencing_event_id=message.event_id,
                rejected_request=asked,
                failure=failure("no"),
            )
            self._say(request, f"{update_id}/reject", update_id, rejection)
            return True
        acceptance = Acceptance(
            accepted_request_message_id=message.id,
            accepted_request_sequencing_event_id=message.event_id,
            accepted_request=asked,
        )
        self._say(request, f"{update_id}/accept", update_id, acceptance)
        response = Response(meta=asked.meta)
        response.outcome.success.CopyFrom(payloads(update_id))
        self._say(request, f"{update_id}/complete", update_id, response)
        return False

    def _say(self, request: Any, id: str, update_id: str, body: Any) -> None:
        message = request.messages.add(id=id, protocol_instance_id=update_id)
        message.body.Pack(body)
        command = request.commands.add(command_type=CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE)
        command.protocol_message_command_attributes.message_id = id

    def _answer_query(self, response: api.PollWorkflowTaskQueueResponse) -> None:
        request = api.RespondQueryTaskCompletedRequest(
            namespace=NAMESPACE,
            task_token=response.task_token,
            completed_type=QueryResultType.QUERY_RESULT_TYPE_ANSWERED,
            query_result=payloads(response.workflow_execution.run_id),
        )
        self._respond("RespondQueryTaskCompleted", request, lambda reply: None)

    # Activities

    def _act(self, task: api.PollActivityTaskQueueResponse) -> None:
        rng = self.world.rng
        behaviour = 1.0 if self.fair else rng.random()
        if behaviour < 0.08:
            return  # Never answers.
        if behaviour < 0.16:
            self.world.at(rng.randint(1_400, 6_000), self._end_activity, task, 1.0)
        elif behaviour < 0.30:
            self.world.at(rng.randint(0, 600), self._beat, task, rng.randint(1, 3))
        else:
            self.world.at(rng.randint(0, 60), self._end_activity, task, behaviour)

    def _beat(self, task: api.PollActivityTaskQueueResponse, left: int) -> None:
        request = api.RecordActivityTaskHeartbeatRequest(
            namespace=NAMESPACE, task_token=task.task_token, identity=self.name, details=payloads(left)
        )

        def done(reply: Reply) -> None:
            if reply.code:
                return
            if api.RecordActivityTaskHeartbeatResponse.FromString(reply.body).cancel_requested:
                canceled = api.RespondActivityTaskCanceledRequest(
                    namespace=NAMESPACE, task_token=task.task_token, identity=self.name
                )
                self._respond("RespondActivityTaskCanceled", canceled, lambda reply: None)
            elif left:
                self.world.at(500, self._beat, task, left - 1)
            else:
                self._end_activity(task, 1.0)

        self._respond("RecordActivityTaskHeartbeat", request, done)

    def _end_activity(self, task: api.PollActivityTaskQueueResponse, how: float) -> None:
        name = self._next_name("activity")
        if how < 0.42:
            request = api.RespondActivityTaskFailedRequest(
                namespace=NAMESPACE,
                task_token=task.task_token,
                identity=name,
                failure=failure("failed", retryable=how < 0.40),
            )
            self._respond("RespondActivityTaskFailed", request, lambda reply: None)
            return
        completed = api.RespondActivityTaskCompletedRequest(
            namespace=NAMESPACE, task_token=task.task_token, identity=name, result=payloads(name)
        )

        def done(reply: Reply) -> None:
            if not reply.code:
                self.world.judge.told["activity"][name] = TaskToken.decode(task.task_token)

        self._respond("RespondActivityTaskCompleted", completed, done)
        if how < 0.5:
            self._respond("RespondActivityTaskCompleted", completed, done)

    # Answers

    def _respond(self, method: str, request: Any, done: Callable[[Reply], None], tries: int = 3) -> None:
        """Send an answer, again when nothing comes back."""
        token = TaskToken.decode(request.task_token)
        body = Call(method, NAMESPACE, token.workflow_id, token.run_id, request.SerializeToString())
        body = self.world.with_run_id(body)

        def answered(reply: Reply | None) -> None:
            if reply is not None:
                done(reply)
            elif tries:
                self._respond(method, request, done, tries - 1)

        key = workflow_key(NAMESPACE, token.workflow_id)
        self._gateway().call(body, COMMANDS, key, CALL_TIMEOUT_MS, answered)
