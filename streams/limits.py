"""Every limit of the engine and the gateway, with the real server's defaults and key names.

A limit that the real server has carries its dynamic config key (``common/dynamicconfig/constants.go`` of
release 1.29.1), so that a value written for it works here; one that only Odradek has carries a key that
begins with ``odradek.``. Values are integers: sizes in bytes, durations in milliseconds, shares in percent.
"""

import difflib
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

import msgspec

KIBIBYTE: Final = 1024
MEBIBYTE: Final = 1024 * KIBIBYTE
GRPC_MESSAGE_MAX_BYTES: Final = 4 * MEBIBYTE
"""What official clients accept in one message unless they are told otherwise."""


def _count(key: str, least: int = 1, most: int | None = None) -> msgspec.Meta:
    return msgspec.Meta(ge=least, le=most, extra={"key": key, "unit": "integer"})


def _duration(key: str) -> msgspec.Meta:
    return msgspec.Meta(ge=1, extra={"key": key, "unit": "duration"})


def _share(key: str) -> msgspec.Meta:
    return msgspec.Meta(ge=0, le=100, extra={"key": key, "unit": "share"})


def _switch(key: str) -> msgspec.Meta:
    return msgspec.Meta(extra={"key": key, "unit": "switch"})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits in force. Zero switches a limit off only where a field's comment says so."""

    # Payloads of one request or command.
    blob_size_error_bytes: Annotated[int, _count("limit.blobSize.error")] = 2 * MEBIBYTE
    blob_size_warn_bytes: Annotated[int, _count("limit.blobSize.warn")] = 512 * KIBIBYTE
    memo_size_error_bytes: Annotated[int, _count("limit.memoSize.error")] = 2 * MEBIBYTE
    memo_size_warn_bytes: Annotated[int, _count("limit.memoSize.warn")] = 2 * KIBIBYTE
    search_attributes_keys: Annotated[int, _count("frontend.searchAttributesNumberOfKeysLimit")] = 100
    search_attribute_value_bytes: Annotated[int, _count("frontend.searchAttributesSizeOfValueLimit")] = (
        2 * KIBIBYTE
    )
    search_attributes_total_bytes: Annotated[int, _count("frontend.searchAttributesTotalSizeLimit")] = (
        40 * KIBIBYTE
    )
    id_length: Annotated[int, _count("limit.maxIDLength")] = 1000
    worker_build_id_bytes: Annotated[int, _count("limit.workerBuildIdSize")] = 255
    link_bytes: Annotated[int, _count("frontend.linkMaxSize")] = 4000
    links_per_request: Annotated[int, _count("frontend.maxlinksPerRequest")] = 10

    # One run's history.
    history_size_error_bytes: Annotated[int, _count("limit.historySize.error")] = 50 * MEBIBYTE
    history_size_warn_bytes: Annotated[int, _count("limit.historySize.warn")] = 10 * MEBIBYTE
    history_size_suggest_continue_as_new_bytes: Annotated[
        int, _count("limit.historySize.suggestContinueAsNew")
    ] = 4 * MEBIBYTE
    history_count_error: Annotated[int, _count("limit.historyCount.error")] = 50 * 1024
    history_count_warn: Annotated[int, _count("limit.historyCount.warn")] = 10 * 1024
    history_count_suggest_continue_as_new: Annotated[
        int, _count("limit.historyCount.suggestContinueAsNew")
    ] = 4 * 1024

    # One run's state.
    state_size_error_bytes: Annotated[int, _count("limit.mutableStateSize.error")] = 8 * MEBIBYTE
    state_size_warn_bytes: Annotated[int, _count("limit.mutableStateSize.warn")] = 1 * MEBIBYTE
    pending_activities: Annotated[int, _count("limit.numPendingActivities.error")] = 2000
    pending_children: Annotated[int, _count("limit.numPendingChildExecutions.error")] = 2000
    pending_external_signals: Annotated[int, _count("limit.numPendingSignals.error")] = 2000
    pending_external_cancels: Annotated[int, _count("limit.numPendingCancelRequests.error")] = 2000
    activity_failure_bytes: Annotated[int, _count("limit.mutableStateActivityFailureSize.error")] = (
        4 * KIBIBYTE
    )
    signals_per_run: Annotated[int, _count("history.maximumSignalsPerExecution", least=0)] = 10_000  # 0: off
    buffered_events_bytes: Annotated[int, _count("history.maximumBufferedEventsSizeInBytes")] = 2 * MEBIBYTE
    buffered_queries: Annotated[int, _count("history.MaxBufferedQueryCount")] = 1
    updates_in_flight: Annotated[int, _count("history.maxInFlightUpdates", least=0)] = 10  # 0: off
    updates_in_flight_bytes: Annotated[int, _count("history.maxInFlightUpdatePayloads", least=0)] = (
        20 * MEBIBYTE  # 0: off
    )
    updates_total: Annotated[int, _count("history.maxTotalUpdates", least=0)] = 2000  # 0: off
    updates_total_suggest_continue_as_new_percent: Annotated[
        int, _share("history.maxTotalUpdates.suggestContinueAsNewThreshold")
    ] = 90  # 0: off
    reset_points: Annotated[int, _count("history.historyMaxAutoResetPoints", most=100)] = 20

    # Workflow tasks.
    workflow_task_timeout_ms: Annotated[int, _duration("history.defaultWorkflowTaskTimeout")] = 10_000
    workflow_task_heartbeat_timeout_ms: Annotated[int, _duration("history.workflowTaskHeartbeatTimeout")] = (
        30 * 60_000
    )
    workflow_task_retry_max_interval_ms: Annotated[int, _duration("history.workflowTaskRetryMaxInterval")] = (
        10 * 60_000
    )

    # Activities. The real server hands none out eagerly until this is switched on: docs/decisions/0006.
    eager_activities: Annotated[bool, _switch("system.enableActivityEagerExecution")] = True

    # Requests, polls and pages.
    history_page_events: Annotated[int, _count("frontend.historyMaxPageSize", most=256)] = 256
    visibility_page_rows: Annotated[int, _count("frontend.visibilityMaxPageSize")] = 1000
    page_bytes: Annotated[int, _count("odradek.pageBytes", most=GRPC_MESSAGE_MAX_BYTES - 64 * KIBIBYTE)] = (
        3 * MEBIBYTE
    )
    long_polls_per_method: Annotated[int, _count("frontend.namespaceCount", least=0)] = 1200
    waiting_polls_per_queue: Annotated[int, _count("odradek.waitingPolls")] = 10_000
    requests_in_flight: Annotated[int, _count("odradek.requestsInFlight")] = 4096
    task_poll_ms: Annotated[int, _duration("matching.longPollExpirationInterval")] = 60_000
    history_poll_ms: Annotated[int, _duration("history.longPollExpirationInterval")] = 20_000
    query_poller_window_ms: Annotated[int, _duration("matching.queryPollerUnavailableWindow")] = 20_000
    task_queue_idle_ms: Annotated[int, _duration("matching.maxTaskQueueIdleTime")] = 5 * 60_000


class _Key(msgspec.Struct, frozen=True):
    name: str
    field: str
    unit: str
    least: int | None
    most: int | None


def _keys() -> dict[str, _Key]:
    keys = {}
    for name, type_ in Limits.__annotations__.items():
        meta = type_.__metadata__[0]
        key = _Key(name=meta.extra["key"], field=name, unit=meta.extra["unit"], least=meta.ge, most=meta.le)
        keys[key.name.lower()] = key
    return keys


_KEYS: Final = _keys()
DYNAMIC_CONFIG_KEYS: Final = tuple(sorted(key.name for key in _KEYS.values()))
"""The dynamic config keys that have an effect here."""


def key_of(field: str) -> str:
    """Returns the dynamic config key of a field of :class:`Limits`. Raises ``StopIteration`` for another name."""
    return next(key.name for key in _KEYS.values() if key.field == field)


def limits_from_dynamic_config(values: Mapping[str, Any]) -> tuple[Limits, tuple[str, ...]]:
    """Returns the limits with ``values`` laid over the defaults, and a warning for each unknown key.

    ``values`` maps dynamic config keys, in any case as in the real server, to JSON values; a mapping inside
    is joined to its key with a dot, so that ``{"limit": {"blobSize": {"error": 1}}}`` works too. A duration
    is a number of seconds or a text such as ``1m30s``.

    Raises ``ValueError``, naming the key, for a value of another type or out of range.
    """
    fields: dict[str, int | bool] = {}
    warnings = []
    for name, value in _flatten(values):
        key = _KEYS.get(name.lower())
        if key is None:
            warnings.append(_unknown(name))
        else:
            fields[key.field] = _value(key, value)
    return msgspec.convert(fields, Limits), tuple(warnings)


def limits_to_numbers(limits: Limits) -> dict[str, int]:
    """Returns every limit by its dynamic config key, a switch as 0 or 1: the form in which logs hold them."""
    return {key.name: int(getattr(limits, key.field)) for key in _KEYS.values()}


def limits_from_numbers(numbers: Mapping[str, int]) -> Limits:
    """Returns the limits that :func:`limits_to_numbers` made ``numbers`` of.

    A key that this version does not know binds nothing; one that is missing has its default.
    """
    known = {key.field: numbers[key.name] for key in _KEYS.values() if key.name in numbers}
    return msgspec.convert(known, Limits, strict=False)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.extend(_flatten(value, f"{prefix}{name}."))
        else:
            flat.append((prefix + name, value))
    return flat


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), _KEYS, n=1)
    hint = f"; the nearest known key is {_KEYS[near[0]].name}" if near else ""
    return f"unknown dynamic config key {name} is ignored{hint}"


def _value(key: _Key, value: Any) -> int | bool:
    if key.unit == "switch":
        if not isinstance(value, bool):
            raise ValueError(f"{key.name} must be true or false, not {value!r}")
        return value
    number = _PARSERS[key.unit](key, value)
    if key.least is not None and number < key.least:
        raise ValueError(f"{key.name} must be at least {_shown(key, key.least)}, not {value!r}")
    if key.most is not None and number > key.most:
        raise ValueError(f"{key.name} must be at most {_shown(key, key.most)}, not {value!r}")
    return number


def _shown(key: _Key, bound: int) -> str:
    if key.unit == "duration":
        return f"{bound} ms"
    return str(bound / 100) if key.unit == "share" else str(bound)


def _integer(key: _Key, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key.name} must be an integer, not {value!r}")
    return value


def _percent(key: _Key, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key.name} must be a number from 0 to 1, not {value!r}")
    return round(Decimal(str(value)) * 100)


_DURATION = re.compile(r"(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ms|us|ns|h|m|s|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|ns|h|m|s|d)")
_UNIT_MS: Final = {
    "ns": Decimal("0.000001"),
    "us": Decimal("0.001"),
    "ms": Decimal(1),
    "s": Decimal(1000),
    "m": Decimal(60_000),
    "h": Decimal(3_600_000),
    "d": Decimal(86_400_000),
}


def _milliseconds(key: _Key, value: Any) -> int:
    if isinstance(value, str) and _DURATION.fullmatch(value):
        parts = _DURATION_PART.findall(value)
        return int(sum((Decimal(number) * _UNIT_MS[unit] for number, unit in parts), Decimal(0)))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return int(Decimal(str(value)) * 1000)
        except (InvalidOperation, OverflowError, ValueError):
            pass
    raise ValueError(f"{key.name} must be a duration such as 90s or a number of seconds, not {value!r}")


_PARSERS: Final = {"integer": _integer, "share": _percent, "duration": _milliseconds}
