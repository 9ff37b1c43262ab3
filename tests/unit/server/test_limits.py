"""Limits come from the real server's dynamic config keys, or not at all."""

import pytest

from streams.limits import (
    DYNAMIC_CONFIG_KEYS,
    Limits,
    limits_from_dynamic_config,
    limits_from_numbers,
    limits_to_numbers,
)

HISTORY_POLL = "history.longPollExpirationInterval"


def test_defaults_are_the_real_servers() -> None:
    limits = Limits()
    assert limits.blob_size_error_bytes == 2097152
    assert limits.blob_size_warn_bytes == 524288
    assert limits.history_count_error == 51200
    assert limits.history_count_suggest_continue_as_new == 4096
    assert limits.history_size_error_bytes == 52428800
    assert limits.pending_activities == 2000
    assert limits.signals_per_run == 10000
    assert limits.updates_in_flight == 10
    assert limits.page_bytes < 4 * 1024 * 1024


def test_every_field_has_a_key_of_its_own() -> None:
    assert len(DYNAMIC_CONFIG_KEYS) == len(Limits.__struct_fields__)


def test_every_default_lies_within_its_bounds() -> None:
    for name in Limits.__struct_fields__:
        meta = Limits.__annotations__[name].__metadata__[0]
        default = getattr(Limits(), name)
        assert meta.ge is None or default >= meta.ge, name
        assert meta.le is None or default <= meta.le, name


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"limit.historyCount.suggestContinueAsNew": 10}, "history_count_suggest_continue_as_new", 10),
        ({"LIMIT.HISTORYCOUNT.ERROR": 7}, "history_count_error", 7),
        ({"limit": {"blobSize": {"error": 9}}}, "blob_size_error_bytes", 9),
        ({"history.maxInFlightUpdates": 0}, "updates_in_flight", 0),
        (
            {"history.maxTotalUpdates.suggestContinueAsNewThreshold": 0.29},
            "updates_total_suggest_continue_as_new_percent",
            29,
        ),
        ({HISTORY_POLL: "1m30s"}, "history_poll_ms", 90_000),
        ({HISTORY_POLL: "250ms"}, "history_poll_ms", 250),
        ({HISTORY_POLL: 3}, "history_poll_ms", 3000),
        ({HISTORY_POLL: "3"}, "history_poll_ms", 3000),
        ({HISTORY_POLL: 0.5}, "history_poll_ms", 500),
        ({"system.enableActivityEagerExecution": False}, "eager_activities", False),
    ],
)
def test_known_keys_take_effect(values: dict[str, object], field: str, expected: object) -> None:
    limits, warnings = limits_from_dynamic_config(values)
    assert getattr(limits, field) == expected
    assert warnings == ()


def test_an_unknown_key_is_a_warning_that_names_it() -> None:
    limits, warnings = limits_from_dynamic_config({"frontend.rps": 5, "limit.blobSize.eror": 1})
    assert limits == Limits()
    assert warnings[0].startswith("unknown dynamic config key frontend.rps is ignored")
    assert warnings[1] == (
        "unknown dynamic config key limit.blobSize.eror is ignored;"
        " the nearest known key is limit.blobSize.error"
    )


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("limit.blobSize.error", "big", "limit.blobSize.error must be an integer, not 'big'"),
        ("limit.blobSize.error", True, "limit.blobSize.error must be an integer, not True"),
        ("limit.blobSize.error", 0, "limit.blobSize.error must be at least 1, not 0"),
        ("frontend.historyMaxPageSize", 257, "frontend.historyMaxPageSize must be at most 256, not 257"),
        (
            "history.maxTotalUpdates.suggestContinueAsNewThreshold",
            1.5,
            "history.maxTotalUpdates.suggestContinueAsNewThreshold must be at most 1.0, not 1.5",
        ),
        (
            HISTORY_POLL,
            "soon",
            f"{HISTORY_POLL} must be a duration such as 90s or a number of seconds, not 'soon'",
        ),
        (
            HISTORY_POLL,
            "inf",
            f"{HISTORY_POLL} must be a duration such as 90s or a number of seconds, not 'inf'",
        ),
        (
            "system.enableActivityEagerExecution",
            1,
            "system.enableActivityEagerExecution must be true or false, not 1",
        ),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_key(key: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        limits_from_dynamic_config({key: value})
    assert str(caught.value) == sentence


def test_limits_travel_through_logs_as_numbers() -> None:
    limits = Limits(eager_activities=False, history_poll_ms=5, blob_size_error_bytes=7)
    numbers = limits_to_numbers(limits)
    assert numbers["limit.blobSize.error"] == 7
    assert numbers["system.enableActivityEagerExecution"] == 0
    assert limits_from_numbers(numbers) == limits
    assert limits_from_numbers({"limit.ofLaterVersions": 1}) == Limits()
