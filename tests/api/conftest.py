"""Fixtures of the tests that use a server through the official Python SDK."""

import uuid
from collections.abc import Iterator

import pytest
from temporalio.client import Client

from tests.api.sdk_environment import SdkEnvironment
from tests.support.footing import server_on


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on the embedded engine and on a cluster, or on what `--footing` says."""
    if "footing" in metafunc.fixturenames:
        given = metafunc.config.getoption("--footing")
        metafunc.parametrize("footing", [given] if given else ["embedded", "cluster"], scope="package")


@pytest.fixture(scope="package")
def server_address(
    footing: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The host:port of one server a footing. See `server_on`."""
    with server_on(footing, request, tmp_path_factory.mktemp(f"server-{footing}")) as address:
        yield address


@pytest.fixture
async def client(server_address: str) -> Client:
    """A client of the namespace "default"."""
    return await Client.connect(server_address)


@pytest.fixture
def env(client: Client, request: pytest.FixtureRequest) -> SdkEnvironment:
    """The client and a task queue named after the test, unique to this call of it."""
    return SdkEnvironment(client, f"{request.node.originalname}-{uuid.uuid4()}")
