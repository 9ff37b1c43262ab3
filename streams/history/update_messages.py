"""What workers say about updates: acceptances, rejections and responses, as messages of completed tasks.

Behaviour: OnProtocolMessage of the real server's service/history/workflow/update, and what calls it in
api/respondworkflowtaskcompleted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from temporalio.api.command.v1 import ProtocolMessageCommandAttributes
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    WorkflowExecutionUpdateAcceptedEventAttributes,
    WorkflowExecutionUpdateCompletedEventAttributes,
)
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Outcome, Rejection, Request, Response

from streams.history import errors, updates
from streams.history.calls import handles_command
from streams.history.errors import BadCommand
from streams.history.failure_depth import cut_causes
from streams.history.state import UPDATE, Update
from streams.history.update_answers import ACCEPTED, ADMITTED, COMPLETED, SENT

if TYPE_CHECKING:
    from streams.history.commands import Commands

BAD: Final = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE

PROTOCOL: Final = "temporal.api.update.v1"

_BODIES: Final[dict[str, type[ProtobufMessage]]] = {
    cls.DESCRIPTOR.full_name: cls for cls in (Acceptance, Rejection, Response, Request, Outcome)
}


@handles_command(CommandType.COMMAND_TYPE_PROTOCOL_MESSAGE, "protocol_message_command_attributes")
def protocol_message(commands: Commands, attributes: ProtocolMessageCommandAttributes) -> None:
    """Handle a message at its place among the commands."""
    if not commands.command.HasField("protocol_message_command_attributes"):
        raise BadCommand(BAD, "ProtocolMessageCommandAttributes is not set on ProtocolMessageCommand.")
    if not attributes.message_id:
        raise BadCommand(BAD, "MessageID is not set on ProtocolMessageCommand.")
    message = commands.take_message(attributes.message_id)
    if message is None:
        raise BadCommand(BAD, f"ProtocolMessageCommand referenced absent message ID {attributes.message_id}")
    handle(commands, message)


def handle(commands: Commands, message: Message) -> None:
    """Apply a message to the update it is about. Raises BadCommand, Rejected."""
    name = _identify(message)
    commands.check_size(message.body.ByteSize(), BAD, f"Message type {name} exceeds size limit.")
    protocol = name.rpartition(".")[0]
    if protocol != PROTOCOL:
        raise BadCommand(BAD, f"unsupported protocol type {protocol}")
    update: Update | None = commands.run.entity.get(UPDATE, message.protocol_instance_id)
    body = _body(message, name)
    if update is None:
        update = _resurrect(commands, message.protocol_instance_id, body)
    if not commands.run.is_open and not isinstance(body, Rejection):
        if update.stage in (ADMITTED, SENT):
            updates.abort(commands.run, update.update_id, updates.aborted_by_close())
        return
    handler = _HANDLERS.get(type(body))
    if handler is None:
        raise BadCommand(BAD, f"Message type {_go_type(body)} not supported")
    handler(commands, update, body)


def _identify(message: Message) -> str:
    """The full name of the body's type. Raises Rejected when the message has none."""
    if not message.HasField("body"):
        raise errors.invalid("nil message body")
    name = message.body.type_url.rpartition("/")[2]
    if not all(part.isidentifier() for part in name.split(".")):
        raise errors.invalid("no message name specified")
    if "." not in name:
        raise errors.invalid(f'failed to extract protocol type: no . found in "{name}"')
    return name


def _body(message: Message, name: str) -> ProtobufMessage:
    cls = _BODIES.get(name)
    if cls is None:
        raise BadCommand(BAD, "unable to unmarshal request: proto: not found")
    try:
        return cls.FromString(message.body.value)
    except DecodeError as error:
        raise BadCommand(
            BAD, "unable to unmarshal request: proto: cannot parse invalid wire-format data"
        ) from error


def _go_type(body: ProtobufMessage) -> str:
    """A type as the real server's messages name it."""
    return f"*update.{body.DESCRIPTOR.name}"


def _resurrect(commands: Commands, update_id: str, body: ProtobufMessage) -> Update:
    """An update that is not known here, from the request that the worker sends back with its decision."""
    request = None
    if isinstance(body, Acceptance) and body.HasField("accepted_request"):
        request = body.accepted_request
    elif isinstance(body, Rejection) and body.HasField("rejected_request"):
        request = body.rejected_request
    if request is None:
        raise BadCommand(
            BAD,
            f"update {update_id} wasn't found on the server. This is most likely a transient error which will"
            " be resolved automatically by retries",
        )
    return updates.resurrect(commands.run, update_id, request)


def _check_stage(commands: Commands, update: Update, body: ProtobufMessage, *allowed: str) -> None:
    if update.stage not in allowed:
        raise BadCommand(
            BAD,
            f"invalid state transition attempted for Update {update.update_id}: received {_go_type(body)}"
            f" message while in state {_state_name(commands, update)}",
        )


def _state_name(commands: Commands, update: Update) -> str:
    """The real server's name of the state; what this very task brought about is provisional there."""
    since = {ACCEPTED: update.accepted_event_id, COMPLETED: update.completed_event_id}.get(update.stage, 0)
    provisional = "Provisionally" if since > commands.completed_event_id > 0 else ""
    return provisional + update.stage.capitalize()


def _require(body: ProtobufMessage, *fields: tuple[str, object]) -> None:
    for label, value in fields:
        if not value:
            raise BadCommand(BAD, f"invalid {_go_type(body)}: {label} is not set")


def _accept(commands: Commands, update: Update, body: Acceptance) -> None:
    _check_stage(commands, update, body, SENT, ADMITTED)
    _require(
        body,
        ("accepted_request_sequencing_event_id", body.accepted_request_sequencing_event_id),
        ("accepted_request_message_id", body.accepted_request_message_id),
    )
    attributes = WorkflowExecutionUpdateAcceptedEventAttributes(
        protocol_instance_id=update.update_id,
        accepted_request_message_id=updates.request_message_id(update.update_id),
        accepted_request_sequencing_event_id=body.accepted_request_sequencing_event_id,
    )
    if update.request:
        attributes.accepted_request.ParseFromString(update.request)
    commands.run.record(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED, attributes)


def _reject(commands: Commands, update: Update, body: Rejection) -> None:
    _check_stage(commands, update, body, SENT, ADMITTED)
    cut_causes(body.failure)
    updates.reject(commands.run, update.update_id, body.failure)


def _respond(commands: Commands, update: Update, body: Response) -> None:
    _check_stage(commands, update, body, ACCEPTED)
    _require(body, ("meta", body.HasField("meta")), ("meta.update_id", body.meta.update_id))
    if body.meta.update_id != update.update_id:
        raise BadCommand(BAD, f"invalid {_go_type(body)}: meta.update_id != {update.update_id}")
    _require(body, ("outcome", body.HasField("outcome")))
    cut_causes(body.outcome.failure)
    commands.run.record(
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
        WorkflowExecutionUpdateCompletedEventAttributes(
            accepted_event_id=update.accepted_event_id, meta=body.meta, outcome=body.outcome
        ),
    )


_HANDLERS: Final[dict[type, Callable[[Commands, Update, Any], None]]] = {
    Acceptance: _accept,
    Rejection: _reject,
    Response: _respond,
}
