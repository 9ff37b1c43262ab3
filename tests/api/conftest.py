"""Fixtures of the tests that use a server through the official Python SDK."""

import uuid

import pytest
from temporalio.client import Client

from tests.api.sdk_environment import SdkEnvironment


@pytest.fixture
async def client(server_address: str) -> Client:
    """A client of the namespace "default"."""
    return await Client.connect(server_address)


@pytest.fixture
def env(client: Client, request: pytest.FixtureRequest) -> SdkEnvironment:
    """The client and a task queue named after the test, unique to this call of it."""
    return SdkEnvironment(client, f"{request.node.originalname}-{uuid.uuid4()}")
