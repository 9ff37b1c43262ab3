"""Clients are served by their version headers as the real server serves them."""

import pytest

from gateway import client_versions
from gateway.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, ApiError


def headers(name: str, version: str, servers: str = "") -> dict[bytes, bytes]:
    pairs = [("client-name", name), ("client-version", version), ("supported-server-versions", servers)]
    return {key.encode(): value.encode() for key, value in pairs if value}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        headers("temporal-go", "1.99.0"),
        headers("temporal-go", "1.0.0-rc.1+build"),
        headers("temporal-go", ""),
        headers("temporal-python", "not a version"),
        headers("temporal-ui", "2.0.0", ">=1.0.0 <2.0.0"),
        headers("anyone", "1", "<1.0.0 || >=1.29"),
        headers("anyone", "1", "1.29.1"),
    ],
)
def test_served(metadata: dict[bytes, bytes]) -> None:
    client_versions.check(metadata)


@pytest.mark.parametrize(
    ("metadata", "code", "message"),
    [
        (
            headers("temporal-go", "2.0.0"),
            FAILED_PRECONDITION,
            "Client version 2.0.0 is not supported. Server supports temporal-go versions: <2.0.0",
        ),
        (
            headers("temporal-java", "one"),
            INVALID_ARGUMENT,
            "Unable to parse client version: one",
        ),
        (
            headers("anyone", "1", ">=2.0.0"),
            FAILED_PRECONDITION,
            "Server version 1.29.1 is not supported. Client supports server versions: >=2.0.0",
        ),
        (
            headers("anyone", "1", "some"),
            INVALID_ARGUMENT,
            "Unable to parse supported server versions: some",
        ),
    ],
)
def test_refused(metadata: dict[bytes, bytes], code: int, message: str) -> None:
    with pytest.raises(ApiError) as error:
        client_versions.check(metadata)
    assert (error.value.code, error.value.message) == (code, message)
