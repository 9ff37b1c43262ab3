"""What members keep, laid beside what folding their whole log again gives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from server.errors import StartupError
from server.settings import Settings
from streams.kafka.member import ROLES
from streams.kafka.refold import Refolder, differences
from streams.kafka.refold_emissions import Emissions
from streams.kafka.registry import RegistryFollower
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.records import Record
from streams.stores.facts import StoredFacts
from streams.stores.store_sinks import ClusterStores
from streams.topology import DEAD_LETTERS, TOPICS

LOG = logging.getLogger(__name__)

WHOLE_WAIT_S: Final = 60.0


class Verification:
    """Verifies one cluster, once, with state below `folder`.

    Its generators give a sentence for each difference. Raises ClusterError, ReadError, RefoldError,
    TakeoverRefusedError, StorageError, StoreError.
    """

    def __init__(self, settings: Settings, folder: Path, state_directories: Sequence[Path] = ()) -> None:
        """`state_directories` are those of members that do not run, to be compared as well."""
        self._settings = settings
        self._folder = folder
        self._state_directories = state_directories
        self._emissions = Emissions(folder / "emissions", Codec(BODY_TYPES))
        self._facts = StoredFacts(folder / "facts")
        self._refolder = Refolder(settings.kafka, folder)
        self.local_stores = 0
        """How many local stores were compared."""

    def tables(self) -> Iterator[str]:
        """Refold every partition up to its last checkpoint, and compare what that checkpoint and former ones hold."""
        for role in ROLES:
            for number in range(self._refolder.topics[f"{role}-changelog"].partitions):
                yield from (f"{role}/{number}: {what}" for what in self._of_partition(role, number))

    def _of_partition(self, role: str, number: int) -> Iterator[str]:
        refolder = self._refolder
        kept = refolder.restored(role, number)
        position = kept.position()
        until = -1 if position is None else position.offset
        wanted = refolder.refolded(role, number, until, self._take)
        self._emissions.folded[refolder.source(role, number)] = until
        yield from differences(kept, wanted)
        kept.close()
        for directory in self._state_directories:
            for store in refolder.local(directory, role, number):
                # What a former owner left behind is older, and is brought up to date when it is used again.
                if store.position() == position:
                    self.local_stores += 1
                    yield from (f"{store.path}: {what}" for what in differences(store, wanted))
                store.close()
        wanted.close()

    def _take(self, record: Record) -> None:
        self._emissions.add(record)
        self._facts.add(record.body)

    def topics(self) -> Iterator[str]:
        """Compare every topic with what the refolds emitted; `tables` comes first."""
        for name, topic in self._refolder.topics.items():
            if name in TOPICS and name != DEAD_LETTERS:
                yield from self._emissions.differences(
                    self._refolder.reader, name, topic.topic, topic.partitions
                )

    def stores(self) -> Iterator[str]:
        """Compare both stores with what the refolds emitted; `tables` comes first. Raises StartupError."""
        settings = self._settings
        if settings.serve.sqlite_stores is not None:
            raise StartupError("stores in a file are not compared: leave them out with --no-stores")
        registry = RegistryFollower(settings.kafka, Codec(BODY_TYPES), _failed)
        registry.start()
        try:
            if not registry.wait_whole(WHOLE_WAIT_S):
                raise StartupError(f"the registry could not be read within {WHOLE_WAIT_S:.0f} s")
            yield from asyncio.run(self._stores(registry.types_of))
        finally:
            registry.stop()

    async def _stores(self, types_of: Callable[[str], Mapping[str, int]]) -> list[str]:
        stores = ClusterStores(self._settings.cassandra, self._settings.postgres, types_of)
        try:
            run_ids = await asyncio.to_thread(stores.history.run_ids)
            return [
                *await self._facts.history_differences(stores.history, run_ids),
                *await self._facts.visibility_differences(stores.visibility, types_of),
            ]
        finally:
            await asyncio.to_thread(stores.close)

    def close(self) -> None:
        """Let go of everything."""
        self._refolder.close()
        self._emissions.close()
        self._facts.close()


def _failed(error: Exception) -> None:
    LOG.error("the registry cannot be read: %s", error)
