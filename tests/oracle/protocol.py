"""The update protocol as a worker speaks it: messages and the commands that place them."""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import Message as ProtoMessage
from temporalio.api.command.v1 import Command
from temporalio.api.protocol.v1 import Message
from temporalio.api.update.v1 import Acceptance, Rejection, Request, Response

from .commands import application_failure, command, payloads


def request_of(message: Message) -> Request:
    """The update request that a protocol message from the server carries."""
    request = Request()
    message.body.Unpack(request)
    return request


def protocol_request(request: Request, event_id: int) -> Message:
    """The message that an SDK makes for itself of an admitted event."""
    made = _message(request.meta.update_id, "request", request)
    made.event_id = event_id
    return made


def accepted(message: Message) -> tuple[Message, Command]:
    """Accept the update that a message asked for: the answer, and the command that places it."""
    body = Acceptance(
        accepted_request_message_id=message.id,
        accepted_request_sequencing_event_id=message.event_id,
        accepted_request=request_of(message),
    )
    return _placed(message.protocol_instance_id, "accept", body)


def rejected(message: Message, why: str = "refused") -> Message:
    """Reject the update that a message asked for. A rejection needs no command."""
    body = Rejection(
        rejected_request_message_id=message.id,
        rejected_request_sequencing_event_id=message.event_id,
        rejected_request=request_of(message),
        failure=application_failure(why, "Refused"),
    )
    return _message(message.protocol_instance_id, "reject", body)


def completed(update_id: str, *result: Any, failure: dict[str, Any] | None = None) -> tuple[Message, Command]:
    """Complete an accepted update with results or with a failure."""
    outcome = {"failure": failure} if failure else {"success": payloads(*result)}
    body = Response(meta={"update_id": update_id, "identity": "oracle"}, outcome=outcome)
    return _placed(update_id, "complete", body)


def _placed(update_id: str, what: str, body: ProtoMessage) -> tuple[Message, Command]:
    message = _message(update_id, what, body)
    return message, command("PROTOCOL_MESSAGE", message_id=message.id)


def _message(update_id: str, what: str, body: ProtoMessage) -> Message:
    packed = any_pb2.Any()
    packed.Pack(body)
    return Message(id=f"{update_id}/{what}", protocol_instance_id=update_id, body=packed)
