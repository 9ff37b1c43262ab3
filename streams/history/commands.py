"""A worker completes its workflow task: its commands and messages become events, or fail the task.

Behaviour: RespondWorkflowTaskCompleted of the real server (service/history/api/respondworkflowtaskcompleted).
"""

from __future__ import annotations

from collections.abc import Callable

from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType, WorkflowTaskFailedCause
from temporalio.api.failure.v1 import Failure, ServerFailureInfo
from temporalio.api.protocol.v1 import Message
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse,
    RespondWorkflowTaskFailedRequest,
    RespondWorkflowTaskFailedResponse,
)

from streams import bodies
from streams.avro import DecodeError
from streams.history import (
    closing,
    errors,
    offers,
    queries,
    responses,
    update_messages,
    updates,
    workflow_tasks,
)
from streams.history.calls import COMMANDS, handles_call
from streams.history.errors import BadCommand
from streams.history.failure_depth import cut_causes
from streams.history.lookup import find_run
from streams.history.run import Run
from streams.history.state import WorkflowTask
from streams.history.step import Step
from streams.task_token import TaskToken

CAUSE = WorkflowTaskFailedCause

CLOSING = frozenset(
    (
        CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        CommandType.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        CommandType.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        CommandType.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    )
)
"""Commands by which a workflow ends its run: no other follows."""

_NEXUS = (
    CommandType.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION,
    CommandType.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION,
)
"""Commands of a feature that is not offered: like a server where it is turned off."""


class Commands:
    """The commands of one completed task while they are carried out.

    `completed_event_id` is that of the WorkflowTaskCompleted event that they follow. Handlers may set
    `needs_task` to have a further task scheduled, add to `eager_activities`, and leave in `after` what is to
    be done once all commands are carried out, if the run is still open then.
    """

    def __init__(
        self, run: Run, request: RespondWorkflowTaskCompletedRequest, completed_event_id: int
    ) -> None:
        self.run = run
        self.step = run.step
        self.request = request
        self.completed_event_id = completed_event_id
        self.needs_task = False
        self.eager_activities: list[PollActivityTaskQueueResponse] = []
        self.after: list[Callable[[], None]] = []
        self.messages: dict[str, Message] = {message.id: message for message in request.messages}
        self.command: Command = Command()

    @property
    def event_extra(self) -> dict[str, object]:
        """Fields of a command that its event carries too."""
        if self.command.HasField("user_metadata"):
            return {"user_metadata": self.command.user_metadata}
        return {}

    def carry_out(self) -> None:
        """Handle every command in order, then the messages that no command named. Raises BadCommand."""
        _check_sequence(self.request)
        for command in self.request.commands:
            if command.command_type in _NEXUS:
                raise BadCommand(
                    CAUSE.WORKFLOW_TASK_FAILED_CAUSE_FEATURE_DISABLED, "Nexus operations disabled"
                )
            self.command = command
            field, handler = COMMANDS[command.command_type]
            if command.command_type in CLOSING:
                self._may_close()
            handler(self, getattr(command, field))
            if not self.run.is_open:
                break
        for message in list(self.messages.values()):
            update_messages.handle(self, message)
        if self.run.is_open:
            for action in self.after:
                action()

    def require_attributes(self, name: str, cause: WorkflowTaskFailedCause.ValueType) -> None:
        """Refuse a command without the attributes of its type. Raises BadCommand."""
        if self.command.WhichOneof("attributes") != COMMANDS[self.command.command_type][0]:
            raise BadCommand(cause, f"{name}CommandAttributes is not set on {name}Command.")

    def check_id(self, value: str, cause: WorkflowTaskFailedCause.ValueType, name: str) -> None:
        """Refuse an id that is too long. Raises BadCommand."""
        length, limit = len(value.encode()), self.step.limits.id_length
        if length > limit:
            what = name.split(" ")[0]
            raise BadCommand(
                cause, f"{name} exceeds length limit. {what}={value} Length={length} Limit={limit}"
            )

    def check_size(self, size_bytes: int, cause: WorkflowTaskFailedCause.ValueType, message: str) -> None:
        """Refuse payloads over the blob limit. The workflow is terminated, as they cannot shrink.

        Raises BadCommand.
        """
        self.warn_size(size_bytes, self.step.limits.blob_size_warn_bytes, "payload")
        if size_bytes > self.step.limits.blob_size_error_bytes:
            raise BadCommand(cause, message, terminate=True)

    def warn_size(self, size_bytes: int, limit_bytes: int, what: str) -> None:
        """Tell an operator of something large in a command."""
        if size_bytes > limit_bytes:
            core = self.run.core
            self.step.context.warn(
                f"workflow {core.workflow_id} of namespace {core.namespace}, run {core.run_id}: "
                f"a {what} of {size_bytes} bytes, above the limit of {limit_bytes} for warnings"
            )

    def take_message(self, message_id: str) -> Message | None:
        """The message a PROTOCOL_MESSAGE command refers to, each once."""
        return self.messages.pop(message_id, None)

    def _may_close(self) -> None:
        """A workflow may not close over events it has not seen."""
        if self.run.has_buffered:
            raise BadCommand(CAUSE.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, "")


def _check_sequence(request: RespondWorkflowTaskCompletedRequest) -> None:
    """Refuse what is no command, and commands after one that closes the workflow. Raises Rejected."""
    for position, command in enumerate(request.commands):
        if command.command_type not in COMMANDS and command.command_type not in _NEXUS:
            raise errors.invalid(f"unknown command type: {_name(command)}")
        if command.command_type in CLOSING and position + 1 < len(request.commands):
            names = ", ".join(map(_name, request.commands))
            raise errors.invalid(
                f"invalid command sequence: [{names}], command {_name(command)} must be the last command."
            )


def _name(command: Command) -> str:
    """The type of a command as the real server writes it."""
    if command.command_type not in CommandType.values():
        return str(int(command.command_type))
    name = CommandType.Name(command.command_type).removeprefix("COMMAND_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))


def started_task(
    step: Step, token_bytes: bytes, when_closed: str = "Workflow task not found."
) -> tuple[Run, WorkflowTask]:
    """The run and the running task that a worker answers for; `when_closed` says why a closed run has none.

    Raises Rejected.
    """
    try:
        token = TaskToken.decode(token_bytes)
    except DecodeError as error:
        raise errors.invalid("Failed to deserialize task token.") from error
    run = find_run(step, token.run_id)
    if not run.is_open:
        raise errors.not_found(when_closed)
    task = run.task
    if (
        task is None
        or not task.started_event_id
        or task.stamp != token.stamp
        or task.attempt != token.attempt
        or task.scheduled_event_id != token.scheduled_event_id
    ):
        raise errors.not_found("Workflow task not found.")
    return run, task


@handles_call("RespondWorkflowTaskCompleted")
def respond_completed(step: Step, call: bodies.Call) -> None:
    """Complete the running task with the worker's commands."""
    request = RespondWorkflowTaskCompletedRequest.FromString(call.request)
    run, task = started_task(step, request.task_token)
    heartbeat = request.force_create_new_workflow_task and not request.commands and not request.messages
    heartbeats_until_ms = task.original_scheduled_ms + step.limits.workflow_task_heartbeat_timeout_ms
    if heartbeat and step.now_ms > heartbeats_until_ms:
        workflow_tasks.time_out(run)
        step.reply_error(errors.not_found("workflow task heartbeat timeout"))
        return
    if updates.discards_speculative(run, task, request):
        _complete_without_trace(run, call, request)
        return
    completed = workflow_tasks.complete(run, task, request)
    _set_sticky(run, call, request)
    commands = Commands(run, request, completed.event_id)
    commands.carry_out()
    if run.is_open:
        if not request.force_create_new_workflow_task:
            updates.reject_unprocessed(run)
        _next_task(commands, task if heartbeat else None)
    queries.answer(run, request)
    _respond(commands)


def _complete_without_trace(
    run: Run, call: bodies.Call, request: RespondWorkflowTaskCompletedRequest
) -> None:
    """A speculative task whose updates were all rejected leaves nothing in the history."""
    workflow_tasks.forget(run)
    _set_sticky(run, call, request)
    commands = Commands(run, request, 0)
    commands.carry_out()
    updates.reject_unprocessed(run)
    _next_task(commands, None)
    queries.answer(run, request)
    _respond(commands, reset_event_id=run.core.last_started_event_id)


def _set_sticky(run: Run, call: bodies.Call, request: RespondWorkflowTaskCompletedRequest) -> None:
    queue = request.sticky_attributes.worker_task_queue.name
    timeout = request.sticky_attributes.schedule_to_start_timeout
    timeout_ms = timeout.seconds * 1000 + timeout.nanos // 1_000_000 if queue else 0
    offer = offers.of_call(run, call, request.identity) if queue else None
    if (run.core.sticky_queue, run.core.sticky_timeout_ms, run.core.offer) != (queue, timeout_ms, offer):
        run.change_core(sticky_queue=queue, sticky_timeout_ms=timeout_ms, offer=offer)


def _next_task(commands: Commands, heartbeat: WorkflowTask | None) -> None:
    """Schedule the task that has to follow this one, and start it here when the worker asked for that."""
    run, request = commands.run, commands.request
    normal = request.force_create_new_workflow_task or run.has_buffered or commands.needs_task
    if not normal and not updates.any_to_send(run):
        return
    handed_over = request.return_new_workflow_task
    workflow_tasks.schedule(
        run,
        dispatch=not handed_over,
        original_scheduled_ms=heartbeat.original_scheduled_ms if heartbeat else 0,
        speculative=handed_over and not normal,
    )
    if handed_over:
        if run.core.offer is not None:
            run.change_core(offer=None)
        workflow_tasks.start(
            run,
            request_id="request-from-RespondWorkflowTaskCompleted",
            identity=request.identity,
            version=request.worker_version_stamp if request.HasField("worker_version_stamp") else None,
        )


def _respond(commands: Commands, reset_event_id: int = 0) -> None:
    run = commands.run
    response = RespondWorkflowTaskCompletedResponse(
        activity_tasks=commands.eager_activities, reset_history_event_id=reset_event_id
    )
    if run.is_open and run.task_running and commands.request.return_new_workflow_task:
        heartbeat = commands.request.force_create_new_workflow_task
        responses.reply_completed_with_task(run, response, heartbeat=heartbeat)
    else:
        run.step.reply(response)


def fail_for_bad_command(step: Step, call: bodies.Call, error: BadCommand) -> None:
    """The second try at a completed task whose commands were bad: the task fails instead.

    Runs in a fresh step, since nothing of the first one may remain. A task that keeps failing is dropped: it
    times out and is tried again after that, which is the backoff.
    """
    request = RespondWorkflowTaskCompletedRequest.FromString(call.request)
    run, task = started_task(step, request.task_token)
    updates.abort_sent(run)
    if task.attempt > 1 and error.cause != CAUSE.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND:
        step.reply_error(errors.invalid(error.text))
        return
    failure = Failure(message=error.text, server_failure_info=ServerFailureInfo())
    workflow_tasks.fail(run, error.cause, failure, request.identity, binary_checksum=request.binary_checksum)
    if error.terminate:
        run.flush()
        closing.terminate(run, error.text, "history-service")
    else:
        workflow_tasks.schedule(run)
    step.reply_error(errors.invalid(error.text))


@handles_call("RespondWorkflowTaskFailed")
def respond_failed(step: Step, call: bodies.Call) -> None:
    """The worker could not process its task."""
    request = RespondWorkflowTaskFailedRequest.FromString(call.request)
    run, _ = started_task(step, request.task_token, errors.COMPLETED)
    cut_causes(request.failure)
    failure = request.failure if request.HasField("failure") else None
    workflow_tasks.fail(
        run,
        request.cause,
        failure,
        request.identity,
        binary_checksum=request.binary_checksum,
        version=request.worker_version if request.HasField("worker_version") else None,
    )
    workflow_tasks.schedule(run)
    step.reply(RespondWorkflowTaskFailedResponse())
