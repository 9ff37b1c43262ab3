"""Histories on a real Cassandra."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from cassandra.cluster import NoHostAvailable, Session

from deploy.local.cassandra import CassandraNode
from streams.bodies import HistoryBatch, RunDeleted
from streams.runtime.partition import Applied, Position
from streams.stores.cassandra_history import CHUNK_EVENTS, DELETE_TIMESTAMP, CassandraHistoryStore
from streams.stores.cassandra_migrations import migrate_cassandra
from streams.stores.damage import StoreError
from streams.stores.history import EventBatch
from streams.stores.run_key import RunKey
from streams.stores.settings import CassandraSettings
from streams.stores.store_sinks import CassandraHistorySink
from tests.unit.stores.history_contract import NO_LIMIT, HistoryContract, batch, event, ids

KEYSPACE = "histories"
RUN = RunKey("ns", "wf", "run")
BACK_WITHIN_S = 60
POLL_S = 0.1


@pytest.fixture(scope="module")
def settings(cassandra: CassandraNode, cassandra_session: Session) -> Iterator[CassandraSettings]:
    given = CassandraSettings(port=cassandra.port, keyspace=KEYSPACE, replication={"datacenter1": 1})
    migrate_cassandra(given, dry_run=False, tell=lambda line: None)
    yield given
    cassandra_session.execute(f"DROP KEYSPACE {KEYSPACE}")


@pytest.fixture(scope="module")
def shared_store(settings: CassandraSettings) -> Iterator[CassandraHistoryStore]:
    store = CassandraHistoryStore(settings)
    yield store
    store.close()


@pytest.fixture
def store(shared_store: CassandraHistoryStore, cassandra_session: Session) -> CassandraHistoryStore:
    """The store, empty."""
    for table in ("history", "positions"):
        cassandra_session.execute(f"TRUNCATE {KEYSPACE}.{table}")
    return shared_store


@pytest.fixture
def query(cassandra_session: Session) -> Callable[..., list[tuple[Any, ...]]]:
    return lambda cql, *values: [tuple(row) for row in cassandra_session.execute(cql, values)]


class Damageable:
    """The store, with a way to damage what is in it."""

    def __init__(self, store: CassandraHistoryStore, session: Session) -> None:
        self._session = session
        self.read, self.read_reverse = store.read, store.read_reverse
        self.write, self.delete_runs = store.write, store.delete_runs

    def put(self, run_id: str, first: int, last: int, blob: bytes) -> None:
        self._session.execute(
            f"INSERT INTO {KEYSPACE}.history (run_id, chunk, first_event_id, last_event_id, events)"
            " VALUES (%s, 0, %s, %s, %s)",
            (run_id, first, last, blob),
        )


class TestCassandraHistory(HistoryContract):
    @pytest.fixture
    def history(self, store: CassandraHistoryStore, cassandra_session: Session) -> Damageable:
        return Damageable(store, cassandra_session)


class TestPartitions:
    """A thousand event ids of a run in each."""

    LAST = 2 * CHUNK_EVENTS + 500

    @pytest.fixture
    def long_run(self, store: CassandraHistoryStore) -> CassandraHistoryStore:
        store.write([batch(1, 2), batch(3, CHUNK_EVENTS + 10), batch(CHUNK_EVENTS + 11, self.LAST)])
        return store

    async def test_a_batch_is_cut_where_partitions_meet(
        self, long_run: CassandraHistoryStore, query: Callable[..., list[tuple[Any, ...]]]
    ) -> None:
        rows = query(f"SELECT chunk, first_event_id, last_event_id FROM {KEYSPACE}.history")
        assert sorted(rows) == [
            (0, 1, 2),
            (0, 3, CHUNK_EVENTS),
            (1, CHUNK_EVENTS + 1, CHUNK_EVENTS + 10),
            (1, CHUNK_EVENTS + 11, 2 * CHUNK_EVENTS),
            (2, 2 * CHUNK_EVENTS + 1, self.LAST),
        ]

    async def test_pages_go_on_from_partition_to_partition(self, long_run: CassandraHistoryStore) -> None:
        everything = list(range(1, self.LAST + 1))
        assert ids(await long_run.read("run", 1, self.LAST + 5, NO_LIMIT)) == everything
        assert ids(await long_run.read_reverse("run", 1, self.LAST, NO_LIMIT)) == everything[::-1]
        assert ids(await long_run.read("run", 999, 1002, NO_LIMIT)) == [999, 1000, 1001, 1002]
        assert ids(await long_run.read("run", 1005, 2001, 15)) == [1005]
        assert ids(await long_run.read_reverse("run", 999, 1001, NO_LIMIT)) == [1001, 1000, 999]
        assert ids(await long_run.read("run", self.LAST, self.LAST, NO_LIMIT)) == [self.LAST]

    async def test_many_rows_are_read_a_page_at_a_time(self, store: CassandraHistoryStore) -> None:
        store.write([batch(n, n) for n in range(1, 301)])
        assert ids(await store.read("run", 7, 300, NO_LIMIT)) == list(range(7, 301))
        assert ids(await store.read_reverse("run", 1, 300, NO_LIMIT)) == list(range(300, 0, -1))
        assert ids(await store.read("run", 7, 300, 100)) == list(range(7, 17))

    async def test_a_delete_takes_all_of_them(
        self, long_run: CassandraHistoryStore, query: Callable[..., list[tuple[Any, ...]]]
    ) -> None:
        long_run.delete_runs([RUN])
        assert query(f"SELECT run_id FROM {KEYSPACE}.history") == []

    @pytest.mark.parametrize("gone", [(2,), (2, 1)])
    async def test_a_delete_that_failed_half_way_is_completed(
        self,
        long_run: CassandraHistoryStore,
        query: Callable[..., list[tuple[Any, ...]]],
        gone: Sequence[int],
    ) -> None:
        for chunk in gone:
            query(
                f"DELETE FROM {KEYSPACE}.history USING TIMESTAMP {DELETE_TIMESTAMP}"
                f" WHERE run_id = 'run' AND chunk = {chunk}"
            )
        long_run.delete_runs([RUN])
        assert query(f"SELECT run_id FROM {KEYSPACE}.history") == []

    async def test_large_batches_of_a_run_go_in_several_requests(self, store: CassandraHistoryStore) -> None:
        large = [
            EventBatch("ns", "wf", "run", n, n, (event(n) + b"\xc2\x3e\x80\x80\x40" + bytes(1 << 20),), 1)
            for n in range(1, 7)
        ]
        store.write(large)
        assert await store.read("run", 1, 6, NO_LIMIT) == [
            (n, each.events[0]) for n, each in enumerate(large, 1)
        ]


class TestTimestamps:
    """Cells carry the time of their record, so that a replay changes nothing (fold.md rule 22)."""

    async def test_a_batch_is_written_with_its_time(
        self, store: CassandraHistoryStore, query: Callable[..., list[tuple[Any, ...]]]
    ) -> None:
        for _ in range(2):
            store.write([EventBatch("ns", "wf", "run", 1, 1, (event(1),), 1_700_000_000_123)])
        assert query(f"SELECT writetime(events), ttl(events) FROM {KEYSPACE}.history") == [
            (1_700_000_000_123_000, None)
        ]

    async def test_what_was_deleted_does_not_come_back(self, store: CassandraHistoryStore) -> None:
        late = EventBatch("ns", "wf", "run", 1, 1, (event(1),), time.time_ns() // 1_000_000 + 86_400_000)
        store.write([batch(1, 3)])
        store.delete_runs([RUN])
        store.write([batch(1, 3), late])
        assert await store.read("run", 1, 3, NO_LIMIT) == []


def position(offset: int, now_ms: int) -> Position:
    return Position(offset, now_ms, "topic-id", applied=(Applied("commands/0", 0, offset, 1),), parked=(3, 5))


class TestPositions:
    @pytest.fixture
    def sink(self, store: CassandraHistoryStore) -> CassandraHistorySink:
        return CassandraHistorySink(store)

    def test_they_come_back_by_topic_and_partition(self, sink: CassandraHistorySink) -> None:
        assert sink.positions("history") == {}
        sink.write("history", [], {0: position(7, 1_000), 300: position(9, 2_000)})
        sink.write("other", [], {0: position(1, 1)})
        assert sink.positions("history") == {0: position(7, 1_000), 300: position(9, 2_000)}

    def test_they_never_go_back(self, sink: CassandraHistorySink) -> None:
        for now_ms, offset in ((5, 300), (6, 301), (5, 299), (6, 300), (6, 302), (5, 400)):
            sink.write("history", [], {0: position(offset, now_ms)})
        assert sink.positions("history") == {0: position(302, 6)}

    async def test_they_follow_the_data(
        self, sink: CassandraHistorySink, store: CassandraHistoryStore
    ) -> None:
        store.write([batch(1, 2, "gone")])
        bodies = [
            HistoryBatch("ns", "wf", "kept", 1, 2, 5, (event(1), event(2))),
            HistoryBatch("ns", "wf", "gone", 3, 3, 5, (event(3),)),
            RunDeleted("ns", "wf", "gone"),
            "a body for another store",
        ]
        for _ in range(2):
            sink.write("history", bodies, {0: position(3, 5)})
        assert ids(await store.read("kept", 1, 9, NO_LIMIT)) == [1, 2]
        assert await store.read("gone", 1, 9, NO_LIMIT) == []
        assert sink.positions("history") == {0: position(3, 5)}


class TestFailures:
    async def test_a_cluster_that_is_not_there_is_said_so(self) -> None:
        store = CassandraHistoryStore(CassandraSettings(port=1))
        with pytest.raises(StoreError, match=r"Cassandra at 127\.0\.0\.1 port 1 does not answer: "):
            await store.read("run", 1, 1, NO_LIMIT)
        with pytest.raises(StoreError, match="does not answer"):
            store.write([batch(1, 1)])
        store.close()

    async def test_a_keyspace_that_is_not_there_is_said_so(self, settings: CassandraSettings) -> None:
        store = CassandraHistoryStore(settings.model_copy(update={"keyspace": "nowhere"}))
        with pytest.raises(StoreError, match="has `odradek stores migrate` been run"):
            await store.read("run", 1, 1, NO_LIMIT)
        store.close()

    async def test_reads_share_the_loop(self, store: CassandraHistoryStore) -> None:
        store.write([batch(n, n, f"run-{n % 20}") for n in range(1, 500)])
        store.write([batch(1, 500)])
        pages = await asyncio.gather(*(store.read("run", n, 500, NO_LIMIT) for n in range(1, 101)))
        assert [ids(page) for page in pages] == [list(range(n, 501)) for n in range(1, 101)]

    async def test_a_read_may_be_given_up(self, store: CassandraHistoryStore) -> None:
        store.write([batch(1, 500)])
        reads = [asyncio.create_task(store.read("run", 1, 500, NO_LIMIT)) for _ in range(20)]
        await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        assert len(await store.read("run", 1, 500, NO_LIMIT)) == 500

    async def test_a_node_that_comes_back_is_used_again(
        self, cassandra: CassandraNode, cassandra_session: Session, store: CassandraHistoryStore
    ) -> None:
        store.write([batch(1, 3)])
        cassandra.kill()
        with pytest.raises(StoreError, match="does not answer"):
            await store.read("run", 1, 3, NO_LIMIT)
        with pytest.raises(StoreError, match="does not answer"):
            store.write([batch(4, 5)])
        await asyncio.to_thread(cassandra.start)
        await until_it_succeeds(lambda: store.write([batch(4, 5)]), StoreError)
        assert ids(await store.read("run", 1, 5, NO_LIMIT)) == [1, 2, 3, 4, 5]
        await until_it_succeeds(
            lambda: cassandra_session.execute("SELECT key FROM system.local"), NoHostAvailable
        )


async def until_it_succeeds(action: Callable[[], object], failure: type[Exception]) -> None:
    deadline_s = time.monotonic() + BACK_WITHIN_S
    while True:
        try:
            action()
            return
        except failure:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(POLL_S)
