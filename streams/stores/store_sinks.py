"""The way from topics into the stores behind a cluster, with the position kept where the data is.

For the consumer loop of a materializer, which is synchronous: everything here blocks its thread, and a sink belongs
to one thread. `positions(topic)` gives what was written with the last bodies of each partition. `write(topic,
bodies, positions)` writes bodies, which come decoded, in order and without duplicates, then where their partitions
are with them; bodies that are not for the store are passed over, and `positions` is empty where another store keeps
them. A failed write (StoreError) may be repeated as it is, and what is written a second time, by a successor that
went on from an earlier position or by a predecessor that has not noticed yet, changes nothing:

- histories: cells of the same content and timestamp; a delete stands above any write. The position goes out last.
- visibility: rows and position in one transaction; a row gives way only to a later version, and not at all once its
  run was deleted.

A position never goes back. An idle partition may be moved on in time alone (same offset, later `now_ms`): deleted
runs are forgotten a day after the time up to which every partition of the visibility topic was written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import exc

from streams.bodies import HistoryBatch, RunDeleted, RunVisible
from streams.runtime.partition import Position
from streams.stores.cassandra_history import CassandraHistoryStore
from streams.stores.materializers import event_batch, run_key, visibility_row
from streams.stores.postgres_connection import of_postgres, open_engine
from streams.stores.postgres_positions import move_positions, read_positions
from streams.stores.postgres_visibility import PostgresVisibilityStore
from streams.stores.run_key import RunKey
from streams.stores.settings import CassandraSettings, PostgresSettings
from streams.topology import VISIBILITY

FORGET_INTERVAL_S: Final = 600.0


class ClusterStores:
    """Both stores of a cluster: what reads them in one process, and what its materializers write them with.

    `types_of` gives a namespace's custom search attributes as far as they are known here: values of others have the
    type they are marked with. Nothing is connected before it is needed.
    """

    def __init__(
        self,
        cassandra: CassandraSettings,
        postgres: PostgresSettings,
        types_of: Callable[[str], Mapping[str, int]],
    ) -> None:
        self._postgres = postgres
        self._types_of = types_of
        self.history = CassandraHistoryStore(cassandra)
        self.visibility = PostgresVisibilityStore(postgres)

    def history_sink(self) -> CassandraHistorySink:
        """What a materializer of histories writes with."""
        return CassandraHistorySink(self.history)

    def visibility_sink(self) -> PostgresVisibilitySink:
        """What a materializer of visibility, or of deletions from it, writes with."""
        return PostgresVisibilitySink(self._postgres, self.visibility, self._types_of)

    def close(self) -> None:
        """Close what reads, and what histories are written with; idempotent."""
        self.history.close()
        self.visibility.close()


class CassandraHistorySink:
    """Implements `streams.kafka.materializer.StoreSink`: HistoryBatch and RunDeleted into histories.

    Any number of sinks, and readers, share the connections of `store`.
    """

    def __init__(self, store: CassandraHistoryStore) -> None:
        self._store = store

    def positions(self, topic: str) -> dict[int, Position]:
        """See `streams.kafka.materializer.StoreSink.positions`."""
        return self._store.positions(topic)

    def write(self, topic: str, bodies: Sequence[Any], positions: Mapping[int, Position]) -> None:
        """See `streams.kafka.materializer.StoreSink.write`."""
        deleted = _deleted(bodies)
        self._store.write(
            [
                event_batch(body)
                for body in bodies
                if isinstance(body, HistoryBatch) and body.run_id not in deleted
            ]
        )
        self._store.delete_runs(list(deleted.values()))
        self._store.move(topic, positions)

    def close(self) -> None:
        """See `streams.kafka.materializer.StoreSink.close`: the store is somebody else's."""


class PostgresVisibilitySink:
    """Implements `streams.kafka.materializer.StoreSink`: RunVisible and RunDeleted into visibility.

    It has a connection of its own, and writes by `store`. `types_of` as of `ClusterStores`.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        store: PostgresVisibilityStore,
        types_of: Callable[[str], Mapping[str, int]],
    ) -> None:
        self._store = store
        self._engine = open_engine(settings, read_only=False, pool_size=1)
        self._types_of = types_of
        self._forgot_s = time.monotonic()

    def positions(self, topic: str) -> dict[int, Position]:
        """See `streams.kafka.materializer.StoreSink.positions`."""
        try:
            with self._engine.connect() as connection:
                return read_positions(connection, topic)
        except exc.SQLAlchemyError as error:
            raise (of_postgres(error) or error) from error

    def write(self, topic: str, bodies: Sequence[Any], positions: Mapping[int, Position]) -> None:
        """See `streams.kafka.materializer.StoreSink.write`."""
        deleted = _deleted(bodies)
        rows = [
            visibility_row(body, self._types_of(body.namespace), trust_marks=True)
            for body in bodies
            if isinstance(body, RunVisible) and body.run_id not in deleted
        ]
        try:
            with self._engine.begin() as tx:
                self._store.write(tx, rows)
                self._store.delete(tx, list(deleted.values()))
                move_positions(tx, topic, positions)
                if topic == VISIBILITY and time.monotonic() > self._forgot_s + FORGET_INTERVAL_S:
                    self._store.forget_deleted(tx, topic)
                    self._forgot_s = time.monotonic()
        except exc.SQLAlchemyError as error:
            raise (of_postgres(error) or error) from error

    def close(self) -> None:
        """See `streams.kafka.materializer.StoreSink.close`."""
        self._engine.dispose()


def _deleted(bodies: Sequence[Any]) -> dict[str, RunKey]:
    """Runs that are deleted, by id: nothing follows that, so what comes before need not be written."""
    return {body.run_id: run_key(body) for body in bodies if isinstance(body, RunDeleted)}
