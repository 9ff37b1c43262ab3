"""One server for all fuzz tests, and what they send to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.target import Target
from tests.support.processes import ServerProcess


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server process with workflows to aim at. It has to live until the end, and stop as asked."""
    server = ServerProcess(tmp_path_factory.mktemp("fuzz") / "odradek.db", flags=("--namespace", "fuzz"))
    server.start()
    target = Target(server)
    try:
        yield target
        target.close()
        assert server.stop() == 0, server.output()
    finally:
        server.kill()
