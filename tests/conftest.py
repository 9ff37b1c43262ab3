"""Fixtures shared by every suite that talks to a server, and the order of the suites."""

from collections.abc import Iterator

import pytest

from tests.support.footing import FOOTINGS, server_on

pytest_plugins = ["tests.support.parts"]

PARTS = frozenset(("broker", "cassandra", "postgres", "parts_directory"))
"""The fixtures by which tests ask for real parts."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the server under test stands on."""
    parser.addoption(
        "--footing",
        choices=FOOTINGS,
        help="The server stands on an SQLite file, on Kafka with its stores in one, or on Kafka and databases. "
        "Unless given: tests/api runs on the first and the last, all else on the first.",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs real parts comes last: these start once, when most of the run is over."""
    items.sort(key=_needs_parts)


def _needs_parts(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    fixtures = getattr(item, "fixturenames", ())
    return parameters.get("footing") in ("kafka", "cluster") or not PARTS.isdisjoint(fixtures)


@pytest.fixture(scope="session")
def server_address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host:port of one server for the test run, on what `--footing` says. See `server_on`."""
    footing = request.config.getoption("--footing") or FOOTINGS[0]
    with server_on(footing, request, tmp_path_factory.mktemp("server")) as address:
        yield address
