"""The example of settings for production: it loads, names every setting, and gives the default where it says so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from server.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[3] / "deploy" / "odradek.example.toml"
COMMENTED = re.compile(r'^#(?=["a-z\[])', re.MULTILINE)
NO_DEFAULTS = {
    "serve.search_attributes",
    "serve.dynamic_config",
    "serve.reply_partition",
    "serve.sqlite_stores",
}
"""Commented settings whose value is an example all the same; so are TLS keys and what is below tables of kafka."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("ODRADEK_")]:
        monkeypatch.delenv(name)


def test_it_loads() -> None:
    settings = load_settings({}, EXAMPLE)
    assert settings.kafka.properties["security.protocol"] == "SASL_SSL"


def test_what_is_commented_out_loads_too(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text(_uncommented())
    load_settings({}, path)


def test_it_names_every_setting() -> None:
    given = tomllib.loads(_uncommented())
    for section, field in Settings.model_fields.items():
        if section != "dev":
            assert set(given[section]) == set(field.annotation.model_fields), section


def test_what_is_commented_out_is_the_default() -> None:
    given, active = tomllib.loads(_uncommented()), tomllib.loads(EXAMPLE.read_text())
    defaults = Settings()
    for section, values in given.items():
        for key, value in values.items():
            is_example = (
                f"{section}.{key}" in NO_DEFAULTS or key.startswith("tls_") or isinstance(value, dict)
            )
            if key not in active[section] and not is_example:
                assert value == _plain(getattr(getattr(defaults, section), key)), f"{section}.{key}"


def _uncommented() -> str:
    return COMMENTED.sub("", EXAMPLE.read_text())


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return list(value) if isinstance(value, tuple) else value
