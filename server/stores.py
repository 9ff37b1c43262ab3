"""The stores that the settings name: what reads them, and what materializers write them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from server.settings import Settings
from streams.kafka.materializer import StoreSink
from streams.stores.history import HistoryReader
from streams.stores.sqlite_sinks import SqliteStores
from streams.stores.store_sinks import ClusterStores
from streams.stores.visibility import VisibilityReader

TypesOf = Callable[[str], Mapping[str, int]]
"""The custom search attributes of a namespace, by name."""


class Stores(Protocol):
    """A history and a visibility store."""

    @property
    def history(self) -> HistoryReader:
        """What reads histories."""

    @property
    def visibility(self) -> VisibilityReader:
        """What lists and counts runs."""

    def history_sink(self) -> StoreSink:
        """What one thread writes histories with."""

    def visibility_sink(self) -> StoreSink:
        """What one thread writes rows of runs with."""

    def close(self) -> None:
        """Leave the stores."""


def open_stores(settings: Settings, types_of: TypesOf) -> Stores:
    """The stores, for use by one process. Raises StoreError."""
    if settings.serve.sqlite_stores is not None:
        return SqliteStores(settings.serve.sqlite_stores, types_of)
    return ClusterStores(settings.cassandra, settings.postgres, types_of)
