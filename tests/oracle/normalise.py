"""Turn API messages into plain data that is equal between two runs that did the same.

Kept exactly: event ids, types, enums, names, texts, attempts, counts, timeouts and intervals chosen by a
client or a policy, and which id equals which other one. Replaced: times, random ids (numbered in order of
appearance), tokens. Left out: what only the real server's inside can say, listed in DROPPED.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from google.protobuf import any_pb2, symbol_database
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

Plain = Any  # JSON: dicts, lists, str, int, float, bool, None

MEASURED = "<duration>"

# (message, field) or field of any message, with why it says nothing about semantics.
DROPPED: dict[str, str] = {
    "poller_scaling_decision": "advice that depends on load and timing",
    "temporal.api.history.v1.HistoryEvent.task_id": "number of the real server's internal task queue",
    "temporal.api.history.v1.HistoryEvent.version": "failover version, meaningless in one cluster",
    "supports_schedules": "schedules are not offered yet",
    "history_size_bytes": "size of the real server's own encoding",
    "state_transition_count": "number of the real server's database updates",
    "temporal.api.workflow.v1.PendingActivityInfo.activity_options": "of UpdateActivityOptions, not offered",
}

# Added by the SDK of the day, not by the server.
DROPPED_FOR_SDK: dict[str, str] = {
    "sdk_metadata": "flags and version of the SDK",
    "metering_metadata": "counters of the SDK",
    "stack_trace": "line numbers of Python code",
}

# Replaced where an SDK's worker has sent it.
REPLACED_FOR_SDK: dict[str, str] = {"build_id": "<hash of the worker's code>"}

# Random or clock-made values: replaced, so that presence still counts.
REPLACED: dict[str, str] = {
    "task_token": "<token>",
    "next_page_token": "<token>",
    "long_poll_token": "<token>",
    "temporal.api.history.v1.WorkflowTaskStartedEventAttributes.request_id": "<request-id>",
    "temporal.api.history.v1.ActivityTaskStartedEventAttributes.request_id": "<request-id>",
    "execution_duration": MEASURED,
    "approximate_backlog_age": MEASURED,
}

# Lists in the order of a hash map: sorted, so that only what is in them counts.
UNORDERED = (
    "temporal.api.workflow.v1.PendingActivityInfo",
    "temporal.api.workflow.v1.PendingChildExecutionInfo",
)

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_TOKEN = re.compile(r"<uuid>([0-9a-f-]{36})")
_NAMESPACE = re.compile(r"\b(oracle(-attributes)?)-[0-9a-f]{8}\b")
_STICKY = re.compile(r"oracle-sdk-[0-9a-f]{32}")
_BUILD = re.compile(r"unversioned:[0-9a-f]{32}")
_SIZE = re.compile(r"(total size of search attributes) \d+")
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?\+0000 UTC( m=\S+)?|Z|\+00:00)?")
_LONG = 2000
_TICKS_NS = 100_000_000


class Normaliser:
    """Normalises the recordings of one scenario; the prefix of its ids is cut from all texts."""

    def __init__(self, prefix: str, *, sdk: bool) -> None:
        self._prefix = prefix
        self._dropped = {**DROPPED, **DROPPED_FOR_SDK} if sdk else DROPPED
        self._replaced = {**REPLACED, **REPLACED_FOR_SDK} if sdk else REPLACED
        self._uuids: dict[str, str] = {}

    def finish(self, recordings: list[tuple[str, Plain]]) -> Plain:
        """The whole recording with ids numbered in the order in which they appear."""
        return [{"name": name, "value": self._number(value)} for name, value in recordings]

    def plain(self, value: object) -> Plain:
        """Normalise anything recordable: messages, and dicts, lists and scalars of them."""
        if isinstance(value, Message):
            return self._message(value)
        if isinstance(value, Mapping):
            return self._sorted({str(self.plain(k)): self.plain(v) for k, v in value.items()})
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            return self._items(value, [self.plain(item) for item in value])
        if isinstance(value, bytes):
            return self._bytes(value)
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        raise TypeError(f"cannot record a {type(value).__name__}")

    def _items(self, items: Sequence[object], plain: list[Plain]) -> list[Plain]:
        unordered = any(
            isinstance(item, Message) and item.DESCRIPTOR.full_name in UNORDERED for item in items
        )
        return sorted(plain, key=_without_ids) if unordered else plain

    def text(self, text: str) -> str:
        text = text.replace(self._prefix, "")
        if len(text) > _LONG:
            return f"{self.text(text[:20])}… {len(text)} characters"
        text = _ISO_TIME.sub("<time>", text)
        text = _NAMESPACE.sub(r"\1", text)
        text = _BUILD.sub("unversioned:<hash of the worker's code>", text)
        text = _SIZE.sub(r"\1 <size>", text)
        text = _STICKY.sub("<sticky queue>", text)
        return _UUID.sub(lambda found: f"<uuid>{found.group()}", text)

    def _number(self, value: Plain) -> Plain:
        if isinstance(value, dict):
            return {self._number(key): self._number(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._number(item) for item in value]
        if isinstance(value, str):
            return _UUID_TOKEN.sub(self._numbered, value)
        return value

    def _numbered(self, found: re.Match[str]) -> str:
        return self._uuids.setdefault(found.group(1), f"<id-{len(self._uuids) + 1}>")

    def _message(self, message: Message) -> Plain:
        name = message.DESCRIPTOR.full_name
        if name == "google.protobuf.Timestamp":
            return "<time>" if cast(Any, message).seconds > 0 else "<zero time>"
        if name == "google.protobuf.Duration":
            return _duration(message)
        if name == "google.protobuf.Any":
            return self._any(message)
        if name == "temporal.api.history.v1.WorkflowTaskScheduledEventAttributes":
            return self._scheduled(message)
        if name == "temporal.api.common.v1.Payload":
            return self._payload(message)
        return self._fields(message, name)

    def _scheduled(self, message: Any) -> Plain:
        """From the fourth attempt on, the time-out of a workflow task has a backoff with jitter in it."""
        fields = self._fields(message, message.DESCRIPTOR.full_name)
        if message.attempt > 3:
            fields["start_to_close_timeout"] = MEASURED
        return fields

    def _fields(self, message: Message, name: str) -> dict[str, Plain]:
        fields: dict[str, Plain] = {}
        for field, value in message.ListFields():
            if field.name in self._dropped or f"{name}.{field.name}" in self._dropped:
                continue
            if field.name == "first_workflow_task_backoff" and _duration(value) == MEASURED:
                continue  # the rest of a minimal interval between runs: there or not, as the machine is slow
            if field.name == "current_retry_interval":
                fields[field.name] = f"{round(value.ToMilliseconds() / 100) / 10:g}s"
                continue
            replaced = self._replaced.get(f"{name}.{field.name}") or self._replaced.get(field.name)
            fields[field.name] = replaced if replaced is not None else self._field(field, value)
        return fields

    def _field(self, field: FieldDescriptor, value: Any) -> Plain:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            of = entry.fields_by_name["value"]
            return self._sorted({str(self.plain(key)): self._one(of, item) for key, item in value.items()})
        if field.is_repeated:
            return self._items(value, [self._one(field, item) for item in value])
        return self._one(field, value)

    def _one(self, field: FieldDescriptor, value: Any) -> Plain:
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            return known.name if known is not None else value
        return self.plain(value)

    def _sorted(self, mapping: dict[str, Plain]) -> dict[str, Plain]:
        """By key; random keys by what they hold, since they are numbered in this order."""
        random = {k for k in mapping if _UUID_TOKEN.search(k)}
        return dict(
            sorted(
                mapping.items(), key=lambda kv: (_without_ids(kv[1]), "") if kv[0] in random else ("", kv[0])
            )
        )

    def _payload(self, payload: Any) -> Plain:
        fields: dict[str, Plain] = {"data": self._bytes(payload.data)}
        metadata = {key: self._bytes(value) for key, value in sorted(payload.metadata.items())}
        if metadata != {"encoding": "json/plain"}:
            fields["metadata"] = metadata
        return fields

    def _any(self, value: Any) -> Plain:
        inner = unpack(value)
        if inner is None:
            return {"@type": value.type_url, "bytes": self._bytes(value.value)}
        return {"@type": inner.DESCRIPTOR.full_name, **self._message(inner)}

    def _bytes(self, value: bytes) -> str:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return "base64:" + base64.b64encode(value).decode()
        return self.text(text)


def unpack(value: any_pb2.Any) -> Message | None:
    """The message inside, or None when its type is not known here."""
    try:
        inner = symbol_database.Default().GetSymbol(value.type_url.rsplit("/", 1)[-1])()
        inner.ParseFromString(value.value)
    except (KeyError, DecodeError):
        return None
    return inner


def _without_ids(value: Plain) -> str:
    return _UUID.sub("", json.dumps(value))


def _duration(message: Any) -> str:
    """Chosen durations are whole tenths of a second in every scenario; anything finer was measured."""
    if message.nanos % _TICKS_NS:
        return MEASURED
    return f"{message.seconds + message.nanos / 1e9:g}s"
