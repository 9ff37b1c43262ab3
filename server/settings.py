"""Settings of the server: flags over environment over a TOML or YAML file over defaults.

The environment spells ``dev.port`` as ``ODRADEK_DEV__PORT``; lists and tables are JSON there. A key that no
section knows is an error, wherever it stands, so that a typing mistake never passes for a default.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError
from pydantic_settings.sources import InitSettingsSource

from server.errors import StartupError
from streams.kafka.settings import KafkaSettings
from streams.stores.settings import CassandraSettings, PostgresSettings

ENVIRONMENT_PREFIX: Final = "ODRADEK_"
CONFIG_VARIABLE: Final = "ODRADEK_CONFIG"
TEST_PREFIX: Final = "ODRADEK_TEST_"
"""Variables of this project's own tests, which are no settings."""
SEARCH_ATTRIBUTE_TYPES: Final = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")
NAMESPACE_MAX_LENGTH: Final = 1000


class SettingsError(StartupError):
    """Settings that cannot be used; the message is one sentence that names the key at fault."""


def _ip(value: str) -> str:
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address") from None


def _search_attribute_type(value: Any) -> Any:
    for known in SEARCH_ATTRIBUTE_TYPES:
        if isinstance(value, str) and value.lower() == known.lower():
            return known
    raise ValueError(f"{value!r} is not one of {', '.join(SEARCH_ATTRIBUTE_TYPES)}")


Role = Literal["gateway", "history", "matching", "timer", "materializer"]
ROLES: Final[tuple[Role, ...]] = ("gateway", "history", "matching", "timer", "materializer")
Ip = Annotated[str, AfterValidator(_ip)]
Port = Annotated[int, Field(ge=0, le=65535)]
NamespaceName = Annotated[str, Field(pattern=r"^[^/\x1f]+$", max_length=NAMESPACE_MAX_LENGTH)]
SearchAttributeName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=64)]
SearchAttributeType = Annotated[
    Literal["Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList"],
    BeforeValidator(_search_attribute_type),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DevSettings(_Section):
    """The development server: the whole engine in one process over one SQLite file."""

    ip: Ip = "127.0.0.1"
    port: Port = 7233  # 0: a free one
    metrics_port: Port = 0  # 0: a free one
    db_filename: Path | None = None  # None: a temporary file
    namespaces: tuple[NamespaceName, ...] = ()
    search_attributes: dict[SearchAttributeName, SearchAttributeType] = {}
    dynamic_config: dict[str, Any] = {}


class ServeSettings(_Section):
    """A member of a cluster: some roles of the engine on Kafka, in one or more processes."""

    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = ROLES
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    ip: Ip = "127.0.0.1"
    port: Port = 7233  # 0: a free one
    metrics_port: Port = 0  # of the first process, the others count on; 0: free ones
    gateway_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=100)] = ""
    """Tells this member's gateways from all others of the cluster; empty: the host's name and the port."""
    reply_partition: Annotated[int, Field(ge=0)] | None = None
    """What the gateway of the first process reads, the others count on; None: what follows from their ids."""
    local_replies: bool = True
    """Whether processes of one machine and user answer each other's callers through sockets, instead of Kafka."""
    sqlite_stores: Path | None = None
    """The file of both stores, for one machine without Cassandra and PostgreSQL."""
    namespaces: tuple[NamespaceName, ...] = ()
    search_attributes: dict[SearchAttributeName, SearchAttributeType] = {}
    dynamic_config: dict[str, Any] = {}


class LogSettings(_Section):
    """What is logged, and in which form, to standard error."""

    level: Literal["debug", "info", "warn", "error", "never"] = "warn"
    format: Literal["text", "json"] = "text"


class Settings(BaseSettings):
    """All sections. Build it with :func:`load_settings`, which turns failures into sentences."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    dev: DevSettings = DevSettings()
    serve: ServeSettings = ServeSettings()
    kafka: KafkaSettings = KafkaSettings()
    cassandra: CassandraSettings = CassandraSettings()
    postgres: PostgresSettings = PostgresSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Lays flags over the environment over the contents of the file, which come beside the flags."""
        assert isinstance(init_settings, InitSettingsSource)
        contents = init_settings.init_kwargs.pop("config_file", {})
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=contents)


def load_settings(flags: Mapping[str, Mapping[str, Any]], config_path: Path | None = None) -> Settings:
    """Returns the settings in force.

    ``flags`` holds, by section, what the command line gave; ``config_path`` is a ``.toml``, ``.yaml`` or
    ``.yml`` file. Raises :class:`SettingsError`.
    """
    contents = _read_file(config_path) if config_path else {}
    _refuse_unknown(contents, config_path)
    _refuse_unknown_variables()
    try:
        return Settings(**{**flags, "config_file": contents})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from None
    except SourceError as error:
        raise SettingsError(_not_json(error)) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError(f"cannot read the configuration file {path}: {reason}") from None
    contents: Any
    if path.suffix == ".toml":
        try:
            contents = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path} is not valid TOML: {error}") from None
    elif path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            contents = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    else:
        raise SettingsError(f"the configuration file {path} must end in .toml, .yaml or .yml")
    if not isinstance(contents, dict):
        raise SettingsError(f"{path} must hold sections ({', '.join(Settings.model_fields)})")
    return contents


def _known_keys() -> list[str]:
    keys = []
    for section, field in Settings.model_fields.items():
        keys.append(section)
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        keys.extend(f"{section}.{name}" for name in field.annotation.model_fields)
    return keys


def _given_keys(contents: Mapping[str, Any]) -> Iterator[str]:
    for section, values in contents.items():
        yield section
        if isinstance(values, Mapping) and section in Settings.model_fields:
            yield from (f"{section}.{name}" for name in values)


def _refuse_unknown(contents: Mapping[str, Any], path: Path | None) -> None:
    known = _known_keys()
    for key in _given_keys(contents):
        if key not in known:
            raise SettingsError(f"unknown setting {key} in {path}{_nearest(key, known)}")


def _variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.replace(".", "__").upper()


# A container platform sets these for a service that happens to be named odradek.
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp)://")


def _refuse_unknown_variables() -> None:
    known = [CONFIG_VARIABLE, *map(_variable, _known_keys())]
    for name in sorted(os.environ):
        if not name.upper().startswith(ENVIRONMENT_PREFIX) or name.upper() in known:
            continue
        if name.startswith(TEST_PREFIX):
            continue
        if _SERVICE_LINK.fullmatch(name) or _SERVICE_LINK_VALUE.match(os.environ[name]):
            continue
        near = _nearest(name.upper(), known)
        raise SettingsError(f"unknown setting {name} in the environment{near}")


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"; the nearest known one is {near[0]}"


def _not_json(error: SourceError) -> str:
    text = getattr(error.__cause__, "doc", None)
    names = [name for name in sorted(os.environ) if name.startswith(ENVIRONMENT_PREFIX)]
    culprits = [name for name in names if os.environ[name] == text] or ["a variable"]
    return f"{culprits[0]} in the environment is not valid JSON"


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key} is not valid ({first['input']!r}): {reason[:1].lower()}{reason[1:]}"
