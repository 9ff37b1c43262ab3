"""Which clients the server serves, by the version headers that they send.

Source: common/headers/version_checker.go. Clients that it does not list, and requests without headers, pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from temporalio.api.errordetails.v1 import (
    ClientVersionNotSupportedFailure,
    ServerVersionNotSupportedFailure,
)

from gateway import errors

SERVER_VERSION: Final = "1.29.1"
"""The release of the real server whose behaviour this one has."""

SUPPORTED_CLIENTS: Final = {
    "temporal-go": "<2.0.0",
    "temporal-java": "<2.0.0",
    "temporal-php": "<2.0.0",
    "temporal-typescript": "<2.0.0",
    "temporal-cli": "<2.0.0",
    "temporal-server": "<2.0.0",
    "temporal-ui": "<3.0.0",
    "Nexus-go-sdk": "<2.0.0",
}
_SEMVER: Final = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?"
)
_CONDITION: Final = re.compile(
    r"(<=|>=|!=|==|=|<|>|!)?\s*v?(\d+)(?:\.(\d+|x))?(?:\.(\d+|x))?(?:[-+][^\s|]*)?"
)
_MAX_CHECKED: Final = 1000

_checked: set[tuple[str, str, str]] = set()


def check(headers: Mapping[bytes, bytes]) -> None:
    """Raises ApiError for a client that does not go with this server."""
    name = headers.get(b"client-name", b"").decode("latin-1")
    client_version = headers.get(b"client-version", b"").decode("latin-1")
    servers = headers.get(b"supported-server-versions", b"").decode("latin-1")
    if not (name and client_version) or (name, client_version, servers) in _checked:
        return
    _check_client(name, client_version)
    if servers:
        _check_server(servers)
    if len(_checked) < _MAX_CHECKED:
        _checked.add((name, client_version, servers))


def _check_client(name: str, client_version: str) -> None:
    supported = SUPPORTED_CLIENTS.get(name)
    if supported is None:
        return
    parsed = _SEMVER.fullmatch(client_version)
    if parsed is None:
        raise errors.invalid(f"Unable to parse client version: {client_version[:100]}")
    if int(parsed[1]) >= int(supported[1 : supported.index(".")]):
        raise errors.detailed(
            errors.FAILED_PRECONDITION,
            f"Client version {client_version} is not supported. Server supports {name} versions: {supported}",
            ClientVersionNotSupportedFailure(
                client_version=client_version, client_name=name, supported_versions=supported
            ),
        )


def _check_server(supported: str) -> None:
    server = tuple(map(int, SERVER_VERSION.split(".")))
    if not any(_holds(alternative, server) for alternative in supported.split("||")):
        raise errors.detailed(
            errors.FAILED_PRECONDITION,
            f"Server version {SERVER_VERSION} is not supported. Client supports server versions: {supported}",
            ServerVersionNotSupportedFailure(
                server_version=SERVER_VERSION, client_supported_server_versions=supported
            ),
        )


def _holds(conditions: str, server: tuple[int, ...]) -> bool:
    rest = conditions.strip()
    if not rest:
        raise errors.invalid("Unable to parse supported server versions: empty range")
    position = 0
    holds = True
    while position < len(rest):
        match = _CONDITION.match(rest, position)
        if match is None:
            raise errors.invalid(f"Unable to parse supported server versions: {conditions[:100]}")
        holds = holds and _compare(match[1] or "==", server, _numbers(match))
        position = match.end()
        while position < len(rest) and rest[position] in " ,":
            position += 1
    return holds


def _numbers(match: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(part) for part in match.groups()[1:] if part and part != "x")


def _compare(operator: str, server: tuple[int, ...], version: tuple[int, ...]) -> bool:
    server = server[: len(version)]
    match operator:
        case "<":
            return server < version
        case "<=":
            return server <= version
        case ">":
            return server > version
        case ">=":
            return server >= version
        case "!=" | "!":
            return server != version
        case _:
            return server == version
