"""How the embedded engine goes over to newer logic, and what a crash in between leaves (fold.md rule 9)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import streams.embedded
from gateway.metrics import Registry
from server.embedded import start_embedded
from server.errors import StartupError
from server.inspect_file import DatabaseFile
from server.settings import DevSettings
from streams.bodies import Call, SetTimer
from streams.embedded import EmbeddedEngine
from streams.limits import Limits
from streams.record_types import BODY_TYPES
from streams.runtime import logic
from streams.runtime.codec import Codec
from streams.runtime.context import Context
from streams.runtime.database import Database, DatabaseError
from streams.runtime.failures import EngineFailedError
from streams.runtime.logic import LogicMarker
from streams.runtime.partition import Position
from streams.runtime.records import Correlation, Record, Reply
from streams.timer_processor import TimerProcessor, timer_key
from streams.topology import COMMANDS, TASKS, TIMERS

NOW_MS = 500
"""So early that no checkpoint is due yet, unless a test flushes."""
DUE_MS = NOW_MS + 1_000_000
LATER_MS = 500


class VersionedTimers(TimerProcessor):
    """From logic version 2 on, deadlines are a little later."""

    def fold(self, context: Context, record: Record) -> None:
        super().fold(context, record)
        if context.logic_version >= 2:
            body = record.body
            context.wake(timer_key(body.namespace, body.workflow_id, body.run_id), body.due_ms + LATER_MS)


class Release:
    """An engine of a release over a file, with a gateway that asks for answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = EmbeddedEngine(
            path, on_failure=lambda error: pytest.fail(str(error)), clock_ms=lambda: NOW_MS
        )
        self._answers: dict[int, asyncio.Future[Reply]] = {}

    async def start(self) -> None:
        await self.engine.start()
        self._epoch = self.engine.attach_gateway(
            "gateway", lambda id, reply: self._answers[id].set_result(reply)
        )

    def arm(self, run_id: str) -> None:
        self.engine.append(TIMERS, "ns/w", SetTimer("ns", "w", run_id, DUE_MS, 1))

    async def answer(self) -> None:
        """Wait until everything appended so far is committed: a call after it was answered."""
        id = len(self._answers)
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        call = Call("DescribeWorkflowExecution", "ns", "w", "", b"")
        self.engine.append(COMMANDS, "ns/w", call, Correlation("gateway", self._epoch, id))
        await answer

    def crash(self) -> Path:
        """What the disk holds now: a copy of the file, whose writer is at rest."""
        to = self.path.with_name(f"after-{self.path.name}")
        shutil.copyfile(self.path, to)
        shutil.copyfile(f"{self.path}-wal", f"{to}-wal")
        return to

    def due(self) -> dict[str, int]:
        """When the deadline of each run is due."""
        index = self.engine.partitions[TIMERS].due
        found = {run_id: index.get(timer_key("ns", "w", run_id)) for run_id in ("a", "b", "c")}
        return {run_id: entry[0] - DUE_MS for run_id, entry in found.items() if entry is not None}

    def versions(self) -> set[int]:
        return {partition.logic.version for partition in self.engine.partitions.values()}


@pytest.fixture(autouse=True)
def versioned_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.embedded, "TimerProcessor", VersionedTimers)


def records(path: Path) -> Iterator[Record]:
    database, codec = Database(path), Codec(BODY_TYPES)
    try:
        for batch in database.batches(-1):
            yield from codec.decode_batch(batch)
    finally:
        database.close()


def positions(path: Path) -> dict[str, Position]:
    database = Database(path)
    try:
        return database.positions()
    finally:
        database.close()


async def test_rule_9_a_new_database_starts_at_the_newest_logic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 2)
    release = Release(tmp_path / "new.db")
    await release.start()
    release.arm("a")
    await release.answer()
    assert release.due() == {"a": LATER_MS}
    await release.engine.stop()
    first = list(records(release.path))[:3]
    assert {record.topic: record.body for record in first} == dict.fromkeys(
        (COMMANDS, TASKS, TIMERS), LogicMarker(2)
    )


async def test_rule_9_a_tail_is_folded_again_by_the_logic_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 1)
    old = Release(tmp_path / "a.db")
    await old.start()
    old.arm("a")
    await old.answer()
    path = old.crash()
    await old.engine.stop()

    monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 2)
    new = Release(path)
    await new.start()
    assert new.due() == {"a": 0}, "the tail was written by the former logic"
    assert new.versions() == {2}
    new.arm("b")
    await new.answer()
    path = new.crash()
    await new.engine.stop()
    assert not positions(path), "all of it is tail"

    again = Release(path)
    await again.start()
    assert again.due() == {"a": 0, "b": LATER_MS}, "the marker stands where the logic changed"
    await again.engine.flush()
    path = again.crash()
    await again.engine.stop()
    assert {position.logic_version for position in positions(path).values()} == {2}

    restored = Release(path)
    await restored.start()
    restored.arm("c")
    await restored.answer()
    assert restored.due() == {"a": 0, "b": LATER_MS, "c": LATER_MS}
    await restored.engine.stop()
    markers = [record for record in records(path) if isinstance(record.body, LogicMarker)]
    assert [record.body.version for record in markers] == [1] * 3 + [2] * 3, "one a partition and release"


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_rule_9_a_release_that_lacks_the_logic_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointed: bool
) -> None:
    monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 2)
    new = Release(tmp_path / "a.db")
    await new.start()
    await new.answer()
    if checkpointed:
        await new.engine.flush()
    path = new.crash()
    await new.engine.stop()

    monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 1)
    old = Release(path)
    with pytest.raises(EngineFailedError, match="is folded by logic version 2"):
        await old.start()
    await old.engine.stop()
    with pytest.raises(StartupError, match="start a newer release; nothing was changed"):
        await start_embedded(DevSettings(port=0), path, Limits(), Registry())
    with DatabaseFile(path) as file, pytest.raises(DatabaseError, match="start a newer release"):
        file.run("ns", "w", "")

    monkeypatch.setattr(logic, "SUPPORTED_LOGIC_VERSION", 2)
    new = Release(path)
    await new.start()
    assert new.versions() == {2}
    await new.engine.stop()
