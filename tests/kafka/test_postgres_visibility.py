"""Lists and counts of runs on a real PostgreSQL."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from temporalio.api.common.v1 import SearchAttributes as SearchAttributesMessage

from deploy.local.postgres import PostgresServer
from streams.bodies import HistoryBatch, RunDeleted, RunVisible
from streams.runtime.partition import Applied, Position
from streams.stores.damage import StoreDamagedError, StoreError
from streams.stores.postgres_connection import open_engine
from streams.stores.postgres_migrations import migrate_postgres
from streams.stores.postgres_visibility import KEEP_DELETED_MS, PostgresVisibilityStore
from streams.stores.run_key import RunKey
from streams.stores.search_attributes import SearchAttributes, SearchValue, ValueType
from streams.stores.settings import PostgresSettings
from streams.stores.store_sinks import PostgresVisibilitySink
from streams.stores.visibility import VisibilityRow
from tests.unit.stores.paging_contract import PagingContract
from tests.unit.stores.rows import ATTRIBUTES, NAMESPACE, START_NS, row
from tests.unit.stores.visibility_contract import ATTRIBUTE_ROWS, VisibilityContract, listed

SCHEMA = "visibility_tests"
TABLES = ("visibility", "visibility_deleted", "visibility_namespaces", "positions")


@pytest.fixture(scope="module")
def settings(postgres: PostgresServer) -> Iterator[PostgresSettings]:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
    given = PostgresSettings(url=postgres.dsn_of_schema(SCHEMA))
    migrate_postgres(given, dry_run=False, tell=lambda line: None)
    yield given
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


class Database:
    """The store, each of whose writes is in a transaction of its own."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        quick = settings.url + "%20-csynchronous_commit%3Doff"
        self.engine = open_engine(settings.model_copy(update={"url": quick}), read_only=False, pool_size=4)
        self.now_ms = 10**12
        self.store = self._open()

    def _open(self) -> PostgresVisibilityStore:
        return PostgresVisibilityStore(self._settings, clock_ms=lambda: self.now_ms)

    def write(self, rows: Sequence[VisibilityRow]) -> None:
        with self.engine.begin() as tx:
            self.store.write(tx, rows)

    def delete(self, runs: Sequence[RunKey]) -> None:
        with self.engine.begin() as tx:
            self.store.delete(tx, runs)

    def clear(self) -> None:
        with self.engine.begin() as tx:
            for table in TABLES:
                tx.execute(sa.text(f"DELETE FROM {table}"))

    def restart(self) -> None:
        self.store.close()
        self.store = self._open()

    def page(self, query: str, size: int, token: bytes = b"") -> tuple[list[VisibilityRow], bytes]:
        page = self.store.list_blocking(NAMESPACE, query, ATTRIBUTES, size, token)
        return page.rows, page.next_page_token

    def count(self, query: str) -> int:
        return self.store.count_blocking(NAMESPACE, query, ATTRIBUTES).total

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()


@pytest.fixture(scope="module")
def shared_database(settings: PostgresSettings) -> Iterator[Database]:
    opened = Database(settings)
    yield opened
    opened.close()


@pytest.fixture
def database(shared_database: Database) -> Database:
    shared_database.clear()
    return shared_database


@pytest.fixture
def engine(database: Database) -> Engine:
    return database.engine


class Written:
    """What the contract wants of a store."""

    def __init__(self, database: Database) -> None:
        self.write, self.delete = database.write, database.delete
        self.list, self.count = database.store.list, database.store.count


class TestPostgresVisibility(VisibilityContract):
    @pytest.fixture
    def visibility(self, database: Database) -> Written:
        return Written(database)


class TestPostgresPaging(PagingContract):
    @pytest.fixture(scope="module")
    @classmethod
    def database(cls, shared_database: Database) -> Database:
        return shared_database


def run_ids(database: Database, query: str = "") -> list[str]:
    rows, token = database.page(query, 1000)
    assert token == b""
    return [found.run_id for found in rows]


class TestIndexes:
    """Equality over attributes of any type is served by an index, whatever their names."""

    @pytest.mark.parametrize(
        ("query", "index"),
        [
            ("Key = 'Abc'", "visibility_by_attribute"),
            ("Key IN ('Abc', 'abd%')", "visibility_by_attribute"),
            ("Number = 5", "visibility_by_attribute"),
            ("Number = 5.0", "visibility_by_attribute"),
            ("Ratio = 1.5", "visibility_by_attribute"),
            ("Flag = true", "visibility_by_attribute"),
            ("When = '2023-11-14T22:13:20Z'", "visibility_by_attribute"),
            ("Tags = 'Y z'", "visibility_by_attribute"),
            ("Words = 'hello'", "visibility_by_word"),
            ("Words = 'big-world'", "visibility_by_word"),
            ("WorkflowType = 'Transfer' AND (Key = 'Abc')", "visibility_by_attribute"),
        ],
    )
    def test_of_each_type(self, database: Database, query: str, index: str) -> None:
        fillers = (
            row(f"filler-{n}", attributes={"Key": f"key-{n}", "Words": f"word-{n}"}) for n in range(1_000)
        )
        database.write([*ATTRIBUTE_ROWS, *fillers])
        with database.engine.begin() as tx:
            tx.execute(sa.text("SELECT gin_clean_pending_list('visibility_by_attribute')"))
            tx.execute(sa.text("SELECT gin_clean_pending_list('visibility_by_word')"))
            tx.execute(sa.text("ANALYZE visibility"))
        plans: list[str] = []

        def explain(connection: Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if "visibility.memo" in statement:
                with connection.connection.cursor() as own:
                    own.execute("SET LOCAL enable_seqscan = off")  # the table is small
                    own.execute(f"EXPLAIN {statement}", parameters)
                    plans.append("\n".join(line for (line,) in own.fetchall()))

        readers = database.store._engine
        sa.event.listen(readers, "before_cursor_execute", explain)
        try:
            assert "a" in run_ids(database, query)
        finally:
            sa.event.remove(readers, "before_cursor_execute", explain)
        # Where a part of a list has few runs in it at all, that is what the planner goes by.
        assert any(index in plan for plan in plans), "\n".join(plans)


class TestTexts:
    """PostgreSQL holds no character NUL: it is shown as the symbol that stands for it."""

    async def test_a_row_with_nul_is_written_and_found(self, database: Database) -> None:
        attributes = {"Key": "a\0b", "Tags": ("\0",), "Words": "x\0y \\u0000"}
        database.write([row("nul", workflow_id="wf\0", task_queue="\0", attributes=attributes), row("other")])
        for query in (
            "WorkflowId = 'wf\0'",
            "Key = 'a\0b'",
            "Key STARTS_WITH 'a\0'",
            "Tags = '\0'",
            "Words = 'y'",
        ):
            assert run_ids(database, query) == ["nul"]
        (found,) = database.page("Key = 'a\0b'", 5)[0]
        assert found.workflow_id == "wf\u2400"
        assert found.search_attributes["Words"].value == "x\u2400y \\u0000"
        database.delete([RunKey(NAMESPACE, "wf\0", "nul")])
        assert run_ids(database) == ["other"]


class TestNumbers:
    async def test_whole_numbers_compare_exactly(self, database: Database) -> None:
        database.write(
            [row("most", attributes={"Number": 2**63 - 1}), row("less", attributes={"Number": 2**63 - 2})]
        )
        assert run_ids(database, f"Number = {2**63 - 1}") == ["most"]
        assert run_ids(database, f"Number < {2**63 - 1}") == ["less"]
        assert run_ids(database, f"Number < {2.0**63:.0f}") == ["less", "most"]
        assert run_ids(database, "Number > 1.5e300") == []
        assert run_ids(database, "Number < 1e400") == ["less", "most"]
        assert run_ids(database, "HistoryLength > 1.5") == []

    async def test_doubles_come_back_as_they_were(self, database: Database) -> None:
        values = [0.1, 1e300, 5e-324, -0.0, 3.0, 123456789.123456789]
        database.write([row(f"{n}", attributes={"Ratio": value}) for n, value in enumerate(values)])
        for n, value in enumerate(values):
            (found,) = database.page(f"RunId = '{n}'", 5)[0]
            assert found.search_attributes["Ratio"] == SearchValue(ValueType.DOUBLE, value)
            assert isinstance(found.search_attributes["Ratio"].value, float)
        assert run_ids(database, "Ratio = 0.1") == ["0"]
        assert run_ids(database, "Ratio = 1e300") == ["1"]
        assert run_ids(database, "Ratio = 3") == ["4"]
        assert run_ids(database, "Ratio > 0 ORDER BY Ratio") == ["2", "0", "4", "5", "1"]


def wait_until_blocked(engine: Engine) -> None:
    """Return once a transaction waits for a lock."""
    deadline_s = time.monotonic() + 20
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active'"
    with engine.connect() as connection:
        while not connection.execute(sa.text(waiting)).scalar():
            connection.rollback()
            assert time.monotonic() < deadline_s


class TestWriters:
    """Several materializers write at the same time (fold.md rule 22)."""

    def test_runs_close_in_the_order_in_which_their_rows_are_committed(
        self, database: Database, engine: Engine
    ) -> None:
        database.write([row("a"), row("b"), row("old", closed=1)])
        with engine.begin() as first:
            database.store.write(first, [row("a", closed=100, version=2)])
            second = threading.Thread(target=database.write, args=([row("b", closed=50, version=2)],))
            second.start()
            wait_until_blocked(engine)
            rows, token = database.page("", 1)
        second.join()
        shown = [found.run_id for found in rows]
        while token:
            rows, token = database.page("", 1, token)
            shown += [found.run_id for found in rows]
        assert shown == ["a", "b", "old"]
        assert run_ids(database) == ["b", "a", "old"]

    def test_a_row_that_is_written_beside_its_delete_does_not_stay(
        self, database: Database, engine: Engine
    ) -> None:
        database.write([row("a")])
        with engine.begin() as first:
            database.store.delete(first, [RunKey(NAMESPACE, "wf-a", "a")])
            second = threading.Thread(target=database.write, args=([row("a", closed=1, version=9)],))
            second.start()
            wait_until_blocked(engine)
        second.join()
        assert run_ids(database) == []

    def test_writers_of_the_same_rows_in_other_orders_do_not_lock_each_other_out(
        self, database: Database
    ) -> None:
        rows = [row(f"{n}", namespace_id=f"ns-{n % 3}") for n in range(30)]
        threads = [
            threading.Thread(target=database.write, args=(list(order),))
            for order in (rows, rows[::-1], rows[::2] + rows[1::2], rows[::-3])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert database.store.count_blocking("ns-0", "", ATTRIBUTES).total == 10


def position(offset: int, now_ms: int) -> Position:
    return Position(offset, now_ms, "topic-id", applied=(Applied("commands/0", 0, offset, 1),), parked=(3,))


def visible(run_id: str, version: int = 1, **fields: Any) -> RunVisible:
    given: dict[str, Any] = {
        "namespace": NAMESPACE,
        "workflow_id": f"wf-{run_id}",
        "run_id": run_id,
        "version": version,
        "workflow_type": "Order",
        "task_queue": "queue",
        "status": 1,
        "start_time_ns": START_NS,
        "execution_time_ns": START_NS,
        "close_time_ns": 0,
        "history_length": 0,
        "history_size_bytes": 0,
        "state_transition_count": 0,
        "parent_workflow_id": "",
        "parent_run_id": "",
        "root_workflow_id": "",
        "root_run_id": "",
        "memo": b"",
        "search_attributes": b"",
    }
    return RunVisible(**{**given, **fields})


def deleted(run_id: str) -> RunDeleted:
    return RunDeleted(NAMESPACE, f"wf-{run_id}", run_id)


class TestSink:
    @pytest.fixture
    def sink(self, settings: PostgresSettings, database: Database) -> Iterator[PostgresVisibilitySink]:
        sink = PostgresVisibilitySink(settings, database.store, lambda namespace: {"Key": ValueType.KEYWORD})
        yield sink
        sink.close()

    def test_rows_and_positions_are_written_together(
        self, sink: PostgresVisibilitySink, database: Database
    ) -> None:
        assert sink.positions("visibility") == {}
        bodies = [
            visible("a"),
            HistoryBatch(NAMESPACE, "wf", "b", 1, 1, 1, (b"",)),
            visible("c"),
            deleted("c"),
        ]
        for _ in range(2):
            sink.write("visibility", bodies, {0: position(7, 100), 5: position(9, 200)})
        assert run_ids(database) == ["a"]
        assert sink.positions("visibility") == {0: position(7, 100), 5: position(9, 200)}
        assert sink.positions("history") == {}

    def test_neither_is_there_when_one_fails(self, sink: PostgresVisibilitySink, database: Database) -> None:
        with pytest.raises(OverflowError):
            sink.write("visibility", [visible("a")], {0: position(7, 2**63)})
        assert run_ids(database) == []
        assert sink.positions("visibility") == {}
        sink.write("visibility", [visible("a")], {0: position(7, 1)})
        assert run_ids(database) == ["a"]

    def test_positions_never_go_back(self, sink: PostgresVisibilitySink) -> None:
        for offset, now_ms in ((300, 5), (301, 6), (299, 7), (301, 9), (301, 8)):
            sink.write("visibility", [], {0: position(offset, now_ms)})
        assert sink.positions("visibility") == {0: position(301, 9)}

    def test_deletions_come_from_another_topic_without_positions(
        self, sink: PostgresVisibilitySink, database: Database
    ) -> None:
        sink.write("visibility", [visible("a"), visible("b")], {0: position(1, 1)})
        sink.write("history", [deleted("a")], {})
        sink.write("visibility", [visible("a", 2), visible("b", 2)], {0: position(3, 2)})
        assert run_ids(database) == ["b"]

    def test_a_deleted_run_is_forgotten_a_day_after_what_was_written(
        self, sink: PostgresVisibilitySink, database: Database, engine: Engine
    ) -> None:
        def forget() -> None:
            with engine.begin() as tx:
                database.store.forget_deleted(tx, "visibility")

        database.delete([RunKey(NAMESPACE, "wf-a", "a")])
        forget()
        late = database.now_ms + KEEP_DELETED_MS + 1
        sink.write("visibility", [], {0: position(1, late), 1: position(1, late - 2)})
        forget()
        database.write([row("a")])
        assert run_ids(database) == []
        sink.write("visibility", [], {1: position(1, late)})
        forget()
        database.write([row("a")])
        assert run_ids(database) == ["a"]

    async def test_values_of_attributes_not_heard_of_yet_have_the_type_they_are_marked_with(
        self, sink: PostgresVisibilitySink, database: Database
    ) -> None:
        message = SearchAttributesMessage()
        for name, type_, data in (
            ("Key", "Text", b'"known"'),
            ("Number", "Int", b"5"),
            ("Tags", "KeywordList", b'["x"]'),
            ("Odd", "Unheard", b'"of"'),
        ):
            field = message.indexed_fields[name]
            field.metadata["encoding"] = b"json/plain"
            field.metadata["type"] = type_.encode()
            field.data = data
        sink.write("visibility", [visible("a", search_attributes=message.SerializeToString())], {})
        for query in ("Key = 'known'", "Number = 5", "Tags = 'x'"):
            assert run_ids(database, query) == ["a"]


class TestFailures:
    async def test_a_server_that_is_not_there_is_said_so(self) -> None:
        store = PostgresVisibilityStore(PostgresSettings(url="postgresql://odradek@127.0.0.1:1/odradek"))
        with pytest.raises(StoreError, match="PostgreSQL does not answer: "):
            await store.list(NAMESPACE, "", ATTRIBUTES, 10)
        store.close()

    async def test_a_schema_that_is_not_there_is_said_so(self, postgres: PostgresServer, schema: str) -> None:
        store = PostgresVisibilityStore(PostgresSettings(url=postgres.dsn_of_schema(schema)))
        with pytest.raises(StoreError, match="has `odradek stores migrate` been run"):
            await store.count(NAMESPACE, "", ATTRIBUTES)
        store.close()

    async def test_a_damaged_row_is_told_by_its_run(self, database: Database, engine: Engine) -> None:
        database.write([row("a")])
        with engine.begin() as tx:
            tx.execute(sa.text("UPDATE visibility SET search_attributes = CAST('{\"x:Key\": 1}' AS jsonb)"))
        with pytest.raises(StoreDamagedError, match="row of run 'a' in the visibility store is damaged"):
            await database.store.list(NAMESPACE, "", ATTRIBUTES, 10)

    async def test_a_list_that_takes_too_long_is_given_up(
        self, settings: PostgresSettings, database: Database, engine: Engine
    ) -> None:
        store = PostgresVisibilityStore(settings.model_copy(update={"statement_timeout_ms": 100}))
        with engine.begin() as tx:
            tx.execute(sa.text("LOCK TABLE visibility"))
            with pytest.raises(StoreError, match="PostgreSQL took too long"):
                await store.list(NAMESPACE, "", ATTRIBUTES, 10)
        store.close()

    async def test_a_server_that_comes_back_is_used_again(
        self, postgres: PostgresServer, settings: PostgresSettings, database: Database
    ) -> None:
        sink = PostgresVisibilitySink(settings, database.store, lambda namespace: {})
        sink.write("visibility", [visible("a")], {0: position(1, 1)})
        assert await listed(database.store) == ["a"]
        postgres.kill()
        with pytest.raises(StoreError, match="PostgreSQL does not answer"):
            await database.store.count(NAMESPACE, "", SearchAttributes())
        with pytest.raises(StoreError, match="PostgreSQL does not answer"):
            sink.write("visibility", [visible("b")], {0: position(2, 2)})
        postgres.start()
        assert await listed(database.store) == ["a"]
        sink.write("visibility", [visible("b")], {0: position(2, 2)})
        assert sorted(await listed(database.store)) == ["a", "b"]
        sink.close()
