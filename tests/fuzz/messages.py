"""Makes up API messages from their descriptors, and damages encoded ones.

A maker follows a `random.Random` that hypothesis seeds: choices made one by one by hypothesis leave most of a
large message empty.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from temporalio.api.failure.v1 import Failure
from temporalio.api.update.v1 import Acceptance, Rejection, Request, Response
from temporalio.api.workflowservice.v1 import (
    ExecuteMultiOperationRequest,
    StartWorkflowExecutionRequest,
    UpdateWorkflowExecutionRequest,
)

_MULTI = ExecuteMultiOperationRequest.DESCRIPTOR.full_name
PACKED = (Acceptance, Acceptance, Rejection, Response, Response, Request)
"""What protocol messages carry."""
MAX_DEPTH = 7
DEEP = 82
"""Levels of causes in deep failures: as many as fit wherever a failure may stand."""

_NAMED = """
    namespace workflow_id workflow_execution execution workflow_type task_queue queue task_token
    name signal_name activity_id query query_type update_ref update_id meta input request operations
    operation timer_id activity_type marker_name failure protocol_instance_id body payloads reason
    workflow_task_finish_event_id details fields indexed_fields search_attributes upserted_memo id
    message_id start_to_close_timeout data start_to_fire_timeout workflow_execution_retention_period
    metadata accepted_request outcome success accepted_request_message_id
    accepted_request_sequencing_event_id rejected_request application_failure_info start_workflow
    update_workflow scheduled_event_id task_queue_type request_id initial_interval wait_policy
    backoff_coefficient lifecycle_stage event_id
"""
NAMED = frozenset(_NAMED.split())
"""Fields that most requests need to get past the first checks."""

_ODD = """
    worker_version_stamp worker_version_capabilities use_compatible_version completion_callbacks
    versioning_override post_reset_operations deployment_options is_global_namespace
    use_workflow_build_id completed_page_token continued_failure last_completion_result
    inherit_build_id intermediate_page capabilities time_skipping_config page_token
"""
ODD = frozenset(_ODD.split())
"""Fields that only a hostile client sets, since they alone have most requests refused."""

HOSTILE_TEXTS = (
    "",
    "\0",
    "/",
    "/_sys/x/1",
    "a\x1fb",
    "é" * 501,
    "a" * 1001,
    "\U0010ffff",
    "../../etc/passwd",
    "'; DROP TABLE log; --",
    "WorkflowId = 'w' AND",
    "GROUP BY ExecutionStatus",
    "CRON_TZ=Nowhere/City * * * * *",
    "@every 1ns",
    "@every 100000000h",
    "00000000-0000-0000-0000-000000000000",
    "TemporalTimeout:Nope",
    "event_id:99999999999999999999",
    "%s%n{}",
)
_SECONDS = (0, -1, 86_400, 2**31, 2**33, 9_223_372_036, 9_223_372_037, 2**62, 2**63 - 1, -(2**63))
_NANOS = (0, -1, 999_999_999, 2**31 - 1, -(2**31))
_NUMBERS = (0, -1, 100, 2**15, 2**31 - 1, -(2**31))
_WIDE = (*_NUMBERS, 2**32, 2**53, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, 0.5, 1e300, -1e300, float("nan"), float("inf"), float("-inf"))
_METADATA = (b"json/plain", b"binary/null", b"Keyword", b"Int", b"Datetime", b"KeywordList", b"Bool", b"\xff")
_DATA = (b"null", b'"text"', b"[1, 2]", b'["a"]', b"12", b"1.5", b"true", b'"2020-01-01T00:00:00Z"')
_BAD_DATA = (b"", b"\xff\xfe", b"{" * 200, b"[" * 100_000, b"\0" * 1000, b"1e999", b"NaN", b"9" * 5_000)


class Pool:
    """Values that mean something to the server under test: ids, tokens, names, by kind."""

    def __init__(self, texts: dict[str, tuple[str, ...]], tokens: list[bytes]) -> None:
        self.texts = texts
        """Candidates for string fields, by the field's name; those under "" go anywhere."""
        self.tokens = tokens
        """Candidates for tokens of tasks and pages."""


class Maker:
    """Makes up messages. `hostility` is the share of values that no sound client would send."""

    def __init__(self, chance: random.Random, pool: Pool, hostility: float | None = None) -> None:
        self.chance = chance
        self.pool = pool
        self.hostility = chance.choice((0.0, 0.02, 0.1, 0.4)) if hostility is None else hostility
        self._share = chance.choice((0.05, 0.25, 0.6))

    def _hostile(self) -> bool:
        return self.chance.random() < self.hostility

    def encoding(self, descriptor: Descriptor) -> bytes:
        """The encoding of a made-up message: mostly sound, sometimes damaged, sometimes no message at all."""
        chance = self.chance
        how = chance.randrange(20)
        if how == 0:
            return chance.randbytes(chance.randrange(60))
        data = self.message(descriptor).SerializeToString()
        if how == 1:
            return damaged(data, chance)
        if how == 2:
            return data.replace(b"w", b"\xff", 1)  # not UTF-8, where a text may be
        return data

    def message(self, descriptor: Descriptor, depth: int = 0) -> Any:
        """A message with some of its fields set, deeper ones less often."""
        made: Any = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
                continue
            likely = 1 - self.hostility / 4 if field.name in NAMED else self._share
            if field.name in ODD or "version" in field.name:
                likely = self.hostility / 2
            if self.chance.random() < likely:
                self._set(made, field, depth)
        for oneof in descriptor.oneofs:
            if len(oneof.fields) > 1 and not self._hostile():
                self._set(made, self._likely_one(oneof), depth)
        if descriptor.full_name == _MULTI and not self._hostile():
            self._pair(made, depth)
        return made

    def _likely_one(self, oneof: OneofDescriptor) -> FieldDescriptor:
        if oneof.name == "failure_info" and self.chance.random() < 0.7:
            return oneof.containing_type.fields_by_name["application_failure_info"]
        return self.chance.choice(oneof.fields)

    def _pair(self, made: Any, depth: int) -> None:
        """Have a start and an update of the same workflow."""
        del made.operations[:]
        start, update = made.operations.add(), made.operations.add()
        start.start_workflow.CopyFrom(self.message(StartWorkflowExecutionRequest.DESCRIPTOR, depth + 1))
        update.update_workflow.CopyFrom(self.message(UpdateWorkflowExecutionRequest.DESCRIPTOR, depth + 1))
        execution = update.update_workflow.workflow_execution
        execution.workflow_id, execution.run_id = start.start_workflow.workflow_id, ""
        update.update_workflow.first_execution_run_id = ""

    def _set(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        kind, chance = field.message_type, self.chance
        if kind is not None and kind.GetOptions().map_entry:
            self._set_map(getattr(made, field.name), kind, depth)
        elif field.is_repeated:
            target = getattr(made, field.name)
            for _ in range(chance.choice((1, 0, 1, 2, 3))):
                if kind is None:
                    target.append(self._value(field))
                elif depth < MAX_DEPTH:
                    target.append(self.message(kind, depth + 1))
        elif kind is None:
            setattr(made, field.name, self._value(field))
        else:
            self._set_message(getattr(made, field.name), kind, depth)

    def _set_message(self, target: Any, kind: Descriptor, depth: int) -> None:
        chance = self.chance
        target.SetInParent()
        match kind.full_name:
            case "google.protobuf.Duration" | "google.protobuf.Timestamp":
                hostile = self._hostile()
                target.seconds = chance.choice(_SECONDS) if hostile else chance.choice((1, 5, 86_400))
                target.nanos = chance.choice(_NANOS) if hostile else 0
            case "google.protobuf.Any":
                self.pack(target, depth)
            case "temporal.api.failure.v1.Failure" if self._hostile():
                target.CopyFrom(deep_failure(chance.randrange(DEEP)))
            case _ if depth < MAX_DEPTH:
                target.CopyFrom(self.message(kind, depth + 1))

    def pack(self, target: Any, depth: int = 0) -> None:
        """Fill an Any with what a protocol message may carry."""
        if self._hostile():
            target.type_url, target.value = self._text("type_url"), self.chance.randbytes(20)
            return
        target.Pack(self.message(self.chance.choice(PACKED).DESCRIPTOR, depth + 1))
        if self._hostile():
            target.value = damaged(target.value, self.chance)

    def _set_map(self, target: Any, entry: Descriptor, depth: int) -> None:
        key, item = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(self.chance.randrange(3)):
            name = self._value(key)
            if item.type == FieldDescriptor.TYPE_BYTES:
                target["encoding" if self.chance.random() < 0.7 else "type"] = self.chance.choice(_METADATA)
            elif item.message_type is None:
                target[name] = self._value(item)
            elif depth < MAX_DEPTH:
                target[name].CopyFrom(self.message(item.message_type, depth + 1))

    def _value(self, field: FieldDescriptor) -> Any:
        if field.enum_type is not None:
            odd = (99, -1, 2**31 - 1)
            return self._choose(list(field.enum_type.values_by_number), odd)
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return self._bytes(field.name)
            case FieldDescriptor.CPPTYPE_STRING:
                return self._text(field.name)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.chance.random() < 0.5
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return self._choose((1.0, 2.0), _FLOATS)
            case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
                return self._choose((1, 2, 5), (0, 2**32 - 1))
            case FieldDescriptor.CPPTYPE_INT64:
                return self._choose((1, 2, 3, 4, 5, 6), _WIDE)
            case _:
                return self._choose((1, 2, 3), _NUMBERS)

    def _choose(self, sound: Sequence[Any], hostile: Sequence[Any]) -> Any:
        return self.chance.choice(hostile if self._hostile() else sound)

    def _text(self, name: str) -> str:
        known = self.pool.texts.get(name) or self.pool.texts[""]
        if not self._hostile():
            return self.chance.choice(known)
        if self.chance.random() < 0.3:
            return "".join(chr(self.chance.choice((0x41, 0, 0x2028, 0xFFFD, 0x1F600))) for _ in range(5))
        return self.chance.choice((*HOSTILE_TEXTS, *self.pool.texts[""]))

    def _bytes(self, name: str) -> bytes:
        if name == "data" and not self._hostile():
            return self.chance.choice(_DATA)
        if "token" in name:
            token = self.chance.choice(self.pool.tokens)
            return damaged(token, self.chance) if self._hostile() else token
        return self.chance.choice((*_DATA, *_BAD_DATA, *self.pool.tokens))


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few bytes changed, added or left out, or cut off."""
    if not data:
        return b"\x01"
    at = chance.randrange(len(data))
    if chance.random() < 0.3:
        return data[:at]
    return data[:at] + chance.randbytes(chance.randrange(4)) + data[at + chance.randrange(4) :]


def deep_failure(levels: int) -> Message:
    """A failure with `levels` causes below each other, or as many as this library reads."""
    try:
        return Failure.FromString(deep_failure_data(levels))
    except DecodeError:
        return deep_failure(levels - 1)


def deep_failure_data(levels: int) -> bytes:
    """The encoding of a failure with `levels` causes, which need not be readable with this library."""
    message, cause = (Failure.DESCRIPTOR.fields_by_name[name].number for name in ("message", "cause"))
    data = length_delimited(message, b"bottom")
    for _ in range(levels):
        data = length_delimited(message, b"c") + length_delimited(cause, data)
    return data


def length_delimited(field_number: int, data: bytes) -> bytes:
    """A field on the wire: a text, bytes or a message."""
    return _varint(field_number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)
