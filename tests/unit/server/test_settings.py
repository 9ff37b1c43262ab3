"""Flags over environment over file over defaults; a key nobody knows is an error."""

from pathlib import Path

import pytest

from server.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("ODRADEK_")]:
        monkeypatch.delenv(name)


def message(flags: dict[str, dict[str, object]] | None = None, config: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags or {}, config)
    return str(caught.value)


def test_defaults() -> None:
    settings = load_settings({})
    assert (settings.dev.ip, settings.dev.port, settings.dev.db_filename) == ("127.0.0.1", 7233, None)
    assert (settings.log.level, settings.log.format) == ("warn", "text")


def test_flags_beat_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "odradek.toml"
    config.write_text('[dev]\nport = 1\nmetrics_port = 1\nip = "::1"\n[log]\nlevel = "debug"\n')
    monkeypatch.setenv("ODRADEK_DEV__PORT", "2")
    monkeypatch.setenv("ODRADEK_DEV__METRICS_PORT", "2")
    settings = load_settings({"dev": {"port": 3}}, config)
    assert (settings.dev.port, settings.dev.metrics_port, settings.dev.ip) == (3, 2, "::1")
    assert settings.log.level == "debug"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "c.toml",
            '[dev]\nnamespaces = ["a", "b"]\nsearch_attributes = { City = "keyword" }\n'
            "[dev.dynamic_config]\nlimit.blobSize.error = 5\n",
        ),
        (
            "c.yaml",
            "dev:\n  namespaces: [a, b]\n  search_attributes: {City: Keyword}\n"
            "  dynamic_config: {limit: {blobSize: {error: 5}}}\n",
        ),
    ],
)
def test_both_kinds_of_file(tmp_path: Path, name: str, text: str) -> None:
    config = tmp_path / name
    config.write_text(text)
    dev = load_settings({}, config).dev
    assert dev.namespaces == ("a", "b")
    assert dev.search_attributes == {"City": "Keyword"}
    assert dev.dynamic_config == {"limit": {"blobSize": {"error": 5}}}


def test_lists_and_tables_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODRADEK_DEV__NAMESPACES", '["a", "b"]')
    monkeypatch.setenv("ODRADEK_DEV__SEARCH_ATTRIBUTES", '{"City": "Keyword"}')
    dev = load_settings({}).dev
    assert dev.namespaces == ("a", "b")
    assert dev.search_attributes == {"City": "Keyword"}


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("[dev]\nprot = 1\n", "dev.prot", "dev.port"),
        ("[dve]\nport = 1\n", "dve", "dev"),
        ('[log]\nlvl = "info"\n', "log.lvl", "log.level"),
    ],
)
def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path: Path, text: str, key: str, near: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    assert message(config=config) == f"unknown setting {key} in {config}; the nearest known one is {near}"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ODRADEK_DEV_PORT", "ODRADEK_DEV__PORT"),
        ("ODRADEK_DEV__DB_FILENAM", "ODRADEK_DEV__DB_FILENAME"),
        ("ODRADEK_LOG__LEVL", "ODRADEK_LOG__LEVEL"),
    ],
)
def test_an_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch, name: str, near: str) -> None:
    monkeypatch.setenv(name, "1")
    assert message() == f"unknown setting {name} in the environment; the nearest known one is {near}"


@pytest.mark.parametrize(
    ("table", "name", "reason"),
    [
        ("properties", "bootstrap.servers", "it is set by kafka.brokers"),
        ("consumer_properties", "session.timeout.ms", "it is set by kafka.session_timeout_ms"),
        ("consumer_properties", "enable.auto.commit", "it is the engine's own and cannot be set"),
        ("consumer_properties", "auto.offset.reset", "it is the engine's own and cannot be set"),
        ("producer_properties", "acks", "it is the engine's own and cannot be set"),
    ],
)
def test_a_property_of_kafka_that_is_not_for_settings_is_refused(
    tmp_path: Path, table: str, name: str, reason: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[kafka.{table}]\n"sasl.password" = "secret"\n"{name}" = "1"\n')
    assert message(config=config) == f"kafka.{table}.{name} is not valid ('{name}'): {reason}"


def test_properties_of_kafka_go_before_every_default_of_a_consumer() -> None:
    settings = load_settings({"kafka": {"consumer_properties": {"fetch.wait.max.ms": "77"}}}).kafka
    assert settings.consumer({"fetch.wait.max.ms": 500, "fetch.min.bytes": 9})["fetch.wait.max.ms"] == "77"
    assert settings.consumer({"fetch.min.bytes": 9})["fetch.min.bytes"] == 9


def test_links_that_a_container_platform_sets_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODRADEK_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("ODRADEK_SERVICE_PORT", "7233")
    monkeypatch.setenv("ODRADEK_PORT", "tcp://10.0.0.1:7233")
    monkeypatch.setenv("ODRADEK_PORT_7233_TCP_ADDR", "10.0.0.1")
    assert load_settings({}).dev.port == 7233


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        (
            "dev",
            {"port": 70000},
            "dev.port is not valid (70000): input should be less than or equal to 65535",
        ),
        ("dev", {"ip": "here"}, "dev.ip is not valid ('here'): 'here' is not an IP address"),
        (
            "dev",
            {"search_attributes": {"City": "word"}},
            "dev.search_attributes.City is not valid ('word'): 'word' is not one of"
            " Text, Keyword, Int, Double, Bool, Datetime, KeywordList",
        ),
        ("log", {"level": "loud"}, "log.level is not valid ('loud'): input should be 'debug', 'info',"),
    ],
)
def test_a_bad_value_names_its_key(section: str, values: dict[str, object], sentence: str) -> None:
    assert message({section: values}).startswith(sentence)


def test_a_variable_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODRADEK_DEV__NAMESPACES", "a,b")
    assert message() == "ODRADEK_DEV__NAMESPACES in the environment is not valid JSON"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.toml", "[dev", "is not valid TOML"),
        ("c.yaml", "dev: [", "is not valid YAML"),
        ("c.yaml", "- dev", "must hold sections (dev, serve, kafka, cassandra, postgres, log)"),
        ("c.ini", "", "must end in .toml, .yaml or .yml"),
    ],
)
def test_a_file_that_cannot_be_understood(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    config = tmp_path / name
    config.write_text(text)
    assert sentence in message(config=config)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    assert message(config=config) == f"cannot read the configuration file {config}: No such file or directory"
