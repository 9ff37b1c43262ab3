"""Workflows driven by hand: one partition of the history processor, with what it emits carried back to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from temporalio.api.command.v1 import Command
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import CommandType, EventType, IndexedValueType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api

from streams import bodies
from streams.history.state import UNTOLD
from streams.history.step import EXECUTIONS, split_run_key
from streams.history_processor import HistoryProcessor
from streams.runtime.logic import SUPPORTED_LOGIC_VERSION, marker
from streams.runtime.partition import Outcome
from streams.topology import COMMANDS, HISTORY, TASKS, TIMERS, VISIBILITY, workflow_key
from tests.support.folding import EPOCH, GATEWAY, Folding

NAMESPACE = "default"
NAMESPACE_ID = "7d1f0ac6-1a2b-4c3d-8e4f-5a6b7c8d9e0f"
OTHER_NAMESPACE = "elsewhere"
IDENTITY = "worker"
DAY_MS = 86_400_000


class CallError(Exception):
    """A call was answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def seconds(number: float) -> Duration:
    """A protobuf duration."""
    ms = int(number * 1000)
    return Duration(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def payloads(text: str) -> Payloads:
    """One payload of JSON text."""
    return Payloads(payloads=[payload(text)])


def payload(text: str) -> Payload:
    """A payload of JSON text."""
    return Payload(metadata={"encoding": b"json/plain"}, data=f'"{text}"'.encode())


def application_failure(message: str = "broken", type_: str = "BoomError", **info: Any) -> Failure:
    """A failure as an SDK reports it."""
    return Failure(message=message, application_failure_info=ApplicationFailureInfo(type=type_, **info))


def command(kind: str, **attributes: Any) -> Command:
    """A worker command: its type without prefix, and the fields of its attributes."""
    made = Command(command_type=CommandType.Value(f"COMMAND_TYPE_{kind}"))
    field = getattr(made, f"{kind.lower()}_command_attributes")
    field.MergeFrom(type(field)(**attributes))
    return made


def activity(activity_id: str = "a1", queue: str = "act", **attributes: Any) -> Command:
    """A command that schedules an activity with ten seconds from start to close."""
    fields = {"start_to_close_timeout": seconds(10), "activity_type": {"name": "Activity"}} | attributes
    return command(
        "SCHEDULE_ACTIVITY_TASK", activity_id=activity_id, task_queue=TaskQueue(name=queue), **fields
    )


def complete() -> Command:
    """A command that completes the workflow."""
    return command("COMPLETE_WORKFLOW_EXECUTION")


class Workflows:
    """A history partition whose commands come back to it and whose deadlines fire as time passes.

    It is folded by the newest logic unless told otherwise.
    Tasks wait in `tasks` by (kind, queue) until they are polled; `events` are the histories by run id.
    """

    def __init__(self, *, logic_version: int = SUPPORTED_LOGIC_VERSION, **limits: int) -> None:
        self.fold = Folding(HistoryProcessor)
        if logic_version:
            self.fold.append(marker(COMMANDS, 0, logic_version))
        self.tasks: dict[tuple[str, str], deque[bodies.AddTask]] = {}
        self.armed: dict[str, bodies.SetTimer] = {}
        self.events: dict[str, list[HistoryEvent]] = {}
        self.rows: dict[str, bodies.RunVisible] = {}
        self.returned: list[bodies.PollReturned] = []
        self._held: list[Any] | None = None
        self.calls = 0
        for name, id in ((NAMESPACE, NAMESPACE_ID), (OTHER_NAMESPACE, NAMESPACE_ID.replace("7", "1"))):
            attributes = (
                bodies.NumberPair("Keyword", IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
                bodies.NumberPair("Int", IndexedValueType.INDEXED_VALUE_TYPE_INT),
            )
            config = bodies.NamespaceConfig(name, id, 1, DAY_MS, attributes=attributes)
            self.send(bodies.NamespaceChanged(config))
        if limits:
            pairs = tuple(bodies.NumberPair(name, limits[name]) for name in sorted(limits))
            self.send(bodies.LimitsChanged(pairs))

    # Records

    def send(self, body: Any, call_id: int | None = None) -> Outcome:
        """Fold a record, and everything that comes back because of it."""
        key = workflow_key(getattr(body, "namespace", "-"), getattr(body, "workflow_id", "-"))
        outcome = self.fold.send(body, key, call_id)
        self._carry(outcome)
        return outcome

    def _carry(self, outcome: Outcome) -> None:
        waiting = deque([outcome])
        while waiting:
            outcome = waiting.popleft()
            assert not outcome.verdicts, outcome.verdicts
            for record in outcome.emissions:
                if record.topic != COMMANDS:
                    self._keep(record.topic, record.body)
                elif self._held is None:
                    waiting.append(self.fold.append(record))
                else:
                    self._held.append(record)
            self._look_at_untold()

    def hold(self) -> None:
        """Keep back what workflows send to each other, until `release`."""
        self._held = []

    def release(self) -> None:
        """Deliver what was kept back."""
        held, self._held = self._held or [], None
        for record in held:
            self._carry(self.fold.append(record))

    def _keep(self, topic: str, body: Any) -> None:
        if topic == TASKS and isinstance(body, bodies.AddTask):
            queue = self.tasks.setdefault((body.task_kind, body.queue), deque())
            queue.appendleft(body) if body.at_head else queue.append(body)
        elif isinstance(body, bodies.DropQuery):
            for queue in self.tasks.values():
                for task in [task for task in queue if task.query_id == body.query_id]:
                    queue.remove(task)
        elif topic == TASKS:
            self.returned.append(body)
        elif topic == TIMERS:
            self.armed[body.run_id] = body
        elif isinstance(body, bodies.RunDeleted):
            if topic == HISTORY:
                del self.events[body.run_id]
            if type(body) is bodies.RunDeleted:
                self.rows.pop(body.run_id, None)
        elif topic == HISTORY:
            self._append(body.run_id, body.first_event_id, body.events)
        elif topic == VISIBILITY:
            self.rows[body.run_id] = body

    def _look_at_untold(self) -> None:
        """Take events of which no record has told yet from the state."""
        for entity in self.fold.partition.tables[EXECUTIONS].loaded():
            untold = entity.get(UNTOLD)
            if untold is not None:
                self._append(split_run_key(entity.key)[2], untold.first_event_id, untold.events)

    def _append(self, run_id: str, first_id: int, events: Sequence[bytes]) -> None:
        """Events became part of a history; those that waited before were seen in the state."""
        if events:
            history = self.events.setdefault(run_id, [])
            assert first_id <= len(history) + 1
            for number, event in enumerate(events, first_id):
                assert number > len(history) or history[number - 1] == HistoryEvent.FromString(event)
            history.extend(map(HistoryEvent.FromString, events[len(history) + 1 - first_id :]))

    def pass_time(self, for_s: float) -> None:
        """Let time pass: deadlines fire when they are due."""
        until_ms = self.fold.now_ms + int(for_s * 1000)
        while True:
            due = sorted(
                (timer.due_ms, run_id) for run_id, timer in self.armed.items() if 0 < timer.due_ms <= until_ms
            )
            near_ms = self.fold.partition.due.next_due_ms()
            if near_ms <= (due[0][0] if due else until_ms):
                self._carry(self.fold.tick(max(0, near_ms - self.fold.now_ms)))
                continue
            if not due:
                break
            timer = self.armed.pop(due[0][1])
            self.fold.now_ms = max(self.fold.now_ms, timer.due_ms)
            self.send(bodies.FireTimer(timer.namespace, timer.workflow_id, timer.run_id, timer.version))
        self.fold.now_ms = until_ms

    def near_deadline_ms(self) -> int:
        """When the only run there is falls due by itself."""
        (run,) = self.fold.partition.tables[EXECUTIONS].loaded()
        due = self.fold.partition.due.get(run.key)
        assert due is not None
        return due[0]

    # Calls

    def call(self, request: Message, workflow_id: str = "wf", run_id: str = "", new_run_id: str = "") -> Any:
        """Make an API call and return its response. Raises CallError."""
        method = type(request).__name__.removesuffix("Request")
        self.calls += 1
        data = request.SerializeToString()
        body = bodies.Call(method, NAMESPACE, workflow_id, run_id, data, new_run_id)
        outcome = self.send(body, self.calls)
        replies = [reply for where, reply in outcome.replies if where.id == self.calls]
        assert len(replies) == 1, f"{method} got {len(replies)} replies"
        if replies[0].code:
            raise CallError(replies[0].code, replies[0].message)
        response = getattr(api, f"{method}Response")()
        response.ParseFromString(replies[0].body)
        return response

    def start(self, workflow_id: str = "wf", queue: str = "tq", **fields: Any) -> str:
        """Start a workflow; its run id."""
        request = api.StartWorkflowExecutionRequest(
            namespace=NAMESPACE,
            workflow_id=workflow_id,
            workflow_type=WorkflowType(name="Type"),
            task_queue=TaskQueue(name=queue),
            request_id=f"start-{workflow_id}-{len(self.events)}",
            **fields,
        )
        run_id = f"run-of-{workflow_id}-{len(self.events)}"
        self.call(request, workflow_id, new_run_id=run_id)
        return run_id

    def signal(self, workflow_id: str = "wf") -> None:
        """Signal a workflow."""
        execution = WorkflowExecution(workflow_id=workflow_id)
        request = api.SignalWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=execution, signal_name="signal", identity=IDENTITY
        )
        self.call(request, workflow_id)

    def terminate(self, workflow_id: str = "wf") -> None:
        """Terminate a workflow."""
        self.call(api.TerminateWorkflowExecutionRequest(namespace=NAMESPACE), workflow_id)

    # Tasks

    def take(self, kind: str, queue: str) -> bodies.AddTask:
        """The next task of a queue."""
        return self.tasks[kind, queue].popleft()

    def waiting(self, kind: str, queue: str) -> int:
        """How many tasks a queue has."""
        return len(self.tasks.get((kind, queue), ()))

    def deliver(self, task: bodies.AddTask) -> bytes | None:
        """Have a poll start a task: the encoded response, or None when it was not to be started."""
        self.calls += 1
        poll_id = self.calls
        deadline_ms = self.fold.now_ms + 60_000
        poll = bodies.Poll(GATEWAY, EPOCH, poll_id, deadline_ms, IDENTITY, b"", task.queue)
        start = bodies.StartTask(
            task.namespace,
            task.workflow_id,
            task.run_id,
            task.task_kind,
            task.scheduled_event_id,
            task.attempt,
            task.stamp,
            task.query_id,
            poll,
        )
        replies = [reply for where, reply in self.send(start).replies if where.id == poll_id]
        return replies[0].body if replies else None

    def poll(self, queue: str = "tq") -> api.PollWorkflowTaskQueueResponse:
        """Start the next workflow task of a queue."""
        data = self.deliver(self.take(bodies.WORKFLOW_TASK, queue))
        assert data is not None
        return api.PollWorkflowTaskQueueResponse.FromString(data)

    def poll_activity(self, queue: str = "act") -> api.PollActivityTaskQueueResponse:
        """Start the next activity task of a queue."""
        data = self.deliver(self.take(bodies.ACTIVITY_TASK, queue))
        assert data is not None
        return api.PollActivityTaskQueueResponse.FromString(data)

    def respond(self, task: api.PollWorkflowTaskQueueResponse, *commands: Command, **fields: Any) -> Any:
        """Complete a workflow task."""
        request = api.RespondWorkflowTaskCompletedRequest(
            task_token=task.task_token, commands=commands, identity=IDENTITY, namespace=NAMESPACE, **fields
        )
        execution = task.workflow_execution
        return self.call(request, execution.workflow_id, execution.run_id, f"next-of-{execution.run_id}")

    def step(self, *commands: Command, queue: str = "tq", **fields: Any) -> Any:
        """Start the next workflow task of a queue and complete it."""
        return self.respond(self.poll(queue), *commands, **fields)

    # What there is to see

    def history(self, workflow_id: str = "wf") -> list[HistoryEvent]:
        """The events of the newest run of a workflow."""
        found = [row for row in self.rows.values() if row.workflow_id == workflow_id]
        return self.events[found[-1].run_id]

    def kinds(self, workflow_id: str = "wf") -> list[str]:
        """The event types of the newest run of a workflow, those of workflow tasks left out."""
        names = [EventType.Name(e.event_type).removeprefix("EVENT_TYPE_") for e in self.history(workflow_id)]
        return [
            name
            for name in names
            if not name.startswith("WORKFLOW_TASK_") and name != "WORKFLOW_EXECUTION_STARTED"
        ]

    def event(self, kind: str, workflow_id: str = "wf") -> Any:
        """The attributes of the last event of a type in the newest run of a workflow."""
        number = EventType.Value(f"EVENT_TYPE_{kind}")
        found = [event for event in self.history(workflow_id) if event.event_type == number]
        assert found, self.kinds(workflow_id)
        return getattr(found[-1], str(found[-1].WhichOneof("attributes")))
