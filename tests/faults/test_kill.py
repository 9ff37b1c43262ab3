"""SIGKILL of the real server process under load of official SDK workers and clients.

ODRADEK_TEST_KILLS says how often; ODRADEK_TEST_SEED repeats a run as far as the moments of the kills go.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from streams import avro
from streams.runtime.partition import DeadLetter
from tests.faults.orders import under_load
from tests.support.processes import ServerProcess

KILLS = int(os.environ.get("ODRADEK_TEST_KILLS", "8"))
SEED = int(os.environ.get("ODRADEK_TEST_SEED", "1"))
UP_S = (0.2, 3.5)
"""How long the server runs between kills, at least and at most."""


async def _kill_often(server: ServerProcess, chance: random.Random) -> None:
    """Kill the server at random moments, some of them while it starts, and start it again each time."""
    for _ in range(KILLS):
        if chance.random() < 0.2:
            server.kill()
            server.launch()
            await asyncio.sleep(chance.uniform(0, 0.9))
        else:
            await asyncio.sleep(chance.uniform(*UP_S))
        server.kill()
        await asyncio.to_thread(server.start)


@pytest.mark.timeout(180 + 20 * KILLS)
async def test_nothing_accepted_is_lost_or_done_twice(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "odradek.db")
    server.start()
    try:
        async with under_load(server.address, str(SEED)) as load:
            await load.alongside(_kill_often(server, random.Random(SEED)))
        assert len(load.runs) >= KILLS
        assert server.stop() == 0, server.output()
    finally:
        server.kill()
    with closing(sqlite3.connect(server.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        letters = [
            avro.decode(DeadLetter, data) for (data,) in connection.execute("SELECT letter FROM dead_letters")
        ]
        assert not letters
