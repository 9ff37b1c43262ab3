"""`odradek stores migrate` against a real Cassandra and a real PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cassandra.cluster import Session
from click.testing import CliRunner, Result

from deploy.local.cassandra import CassandraNode
from deploy.local.postgres import PostgresServer
from server.cli import main
from streams.stores.cassandra_migrations import migrate_cassandra
from streams.stores.damage import StoreError
from streams.stores.postgres_migrations import migrate_postgres
from streams.stores.settings import CassandraSettings, PostgresSettings

KEYSPACE = "migrated"
CASSANDRA_TABLES = {"history", "positions", "schema_versions"}
POSTGRES_TABLES = {
    "odradek_schema_version",
    "positions",
    "visibility",
    "visibility_deleted",
    "visibility_namespaces",
}


@pytest.fixture
def cassandra_settings(cassandra: CassandraNode, cassandra_session: Session) -> Iterator[CassandraSettings]:
    """Of a keyspace that is not there yet."""
    yield CassandraSettings(port=cassandra.port, keyspace=KEYSPACE, replication={"datacenter1": 1})
    cassandra_session.execute(f"DROP KEYSPACE IF EXISTS {KEYSPACE}")


@pytest.fixture
def postgres_settings(postgres: PostgresServer, schema: str) -> PostgresSettings:
    """Of a schema that is empty."""
    return PostgresSettings(url=postgres.dsn_of_schema(schema))


@pytest.fixture
def cassandra_tables(cassandra_session: Session) -> Callable[[], set[str]]:
    def tables() -> set[str]:
        rows = cassandra_session.execute(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (KEYSPACE,)
        )
        return {name for (name,) in rows}

    return tables


@pytest.fixture
def postgres_tables(postgres: PostgresServer, schema: str) -> Callable[[], set[str]]:
    def tables() -> set[str]:
        with psycopg.connect(postgres.dsn) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema])
            return {name for (name,) in rows.fetchall()}

    return tables


class TestCassandra:
    def test_it_creates_what_is_missing_and_changes_nothing_more(
        self, cassandra_settings: CassandraSettings, cassandra_tables: Callable[[], set[str]]
    ) -> None:
        told: list[str] = []
        migrate_cassandra(cassandra_settings, dry_run=False, tell=told.append)
        assert told == ["Cassandra: version 1, histories"]
        assert cassandra_tables() == CASSANDRA_TABLES
        told.clear()
        migrate_cassandra(cassandra_settings, dry_run=False, tell=told.append)
        assert told == [f"Cassandra: keyspace {KEYSPACE} is of version 1, the newest"]

    def test_a_dry_run_tells_the_statements_and_changes_nothing(
        self, cassandra_settings: CassandraSettings, cassandra_tables: Callable[[], set[str]]
    ) -> None:
        told: list[str] = []
        migrate_cassandra(cassandra_settings, dry_run=True, tell=told.append)
        assert told[0].startswith(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = ")
        assert any(line.startswith("CREATE TABLE IF NOT EXISTS history") for line in told)
        assert cassandra_tables() == set()

    def test_what_failed_half_way_is_completed(
        self,
        cassandra_settings: CassandraSettings,
        cassandra_session: Session,
        cassandra_tables: Callable[[], set[str]],
    ) -> None:
        migrate_cassandra(cassandra_settings, dry_run=False, tell=lambda line: None)
        cassandra_session.execute(f"DROP TABLE {KEYSPACE}.positions")
        cassandra_session.execute(f"TRUNCATE {KEYSPACE}.schema_versions")
        migrate_cassandra(cassandra_settings, dry_run=False, tell=lambda line: None)
        assert cassandra_tables() == CASSANDRA_TABLES

    def test_a_keyspace_of_a_newer_release_is_left_alone(
        self, cassandra_settings: CassandraSettings, cassandra_session: Session
    ) -> None:
        migrate_cassandra(cassandra_settings, dry_run=False, tell=lambda line: None)
        cassandra_session.execute(f"INSERT INTO {KEYSPACE}.schema_versions (version) VALUES (99)")
        with pytest.raises(StoreError, match="of version 99, this release knows 1: a newer release"):
            migrate_cassandra(cassandra_settings, dry_run=False, tell=lambda line: None)

    def test_another_replication_is_told_and_not_changed(
        self, cassandra_settings: CassandraSettings, cassandra_session: Session
    ) -> None:
        migrate_cassandra(cassandra_settings, dry_run=False, tell=lambda line: None)
        told: list[str] = []
        wanted = cassandra_settings.model_copy(update={"replication": {"datacenter1": 3}})
        migrate_cassandra(wanted, dry_run=False, tell=told.append)
        assert any("that takes ALTER KEYSPACE and a repair" in line for line in told)
        ((replication,),) = cassandra_session.execute(
            "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", (KEYSPACE,)
        )
        assert replication["datacenter1"] == "1"


class TestPostgres:
    def test_it_creates_what_is_missing_and_changes_nothing_more(
        self, postgres_settings: PostgresSettings, postgres_tables: Callable[[], set[str]]
    ) -> None:
        told: list[str] = []
        migrate_postgres(postgres_settings, dry_run=False, tell=told.append)
        assert told == [
            "PostgreSQL: version 1, Visibility: what lists show of runs, and how far it was written."
        ]
        assert postgres_tables() == POSTGRES_TABLES
        told.clear()
        migrate_postgres(postgres_settings, dry_run=False, tell=told.append)
        assert told == ["PostgreSQL: the schema is of version 1, the newest"]

    def test_a_dry_run_tells_the_statements_and_changes_nothing(
        self, postgres_settings: PostgresSettings, postgres_tables: Callable[[], set[str]]
    ) -> None:
        told: list[str] = []
        migrate_postgres(postgres_settings, dry_run=True, tell=told.append)
        text = "\n".join(told)
        assert "CREATE TABLE visibility (" in text
        assert "CREATE INDEX visibility_by_attribute" in text
        assert "INSERT INTO odradek_schema_version" in text
        assert postgres_tables() == set()

    def test_a_schema_of_a_newer_release_is_left_alone(
        self, postgres_settings: PostgresSettings, postgres: PostgresServer, schema: str
    ) -> None:
        migrate_postgres(postgres_settings, dry_run=False, tell=lambda line: None)
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            connection.execute(f"UPDATE {schema}.odradek_schema_version SET version_num = '0099'")
        with pytest.raises(StoreError, match="of version 0099, this release knows 0001: a newer release"):
            migrate_postgres(postgres_settings, dry_run=False, tell=lambda line: None)


class TestCommand:
    @pytest.fixture
    def run(
        self, tmp_path: Path, cassandra_settings: CassandraSettings, postgres_settings: PostgresSettings
    ) -> Callable[..., Result]:
        config = tmp_path / "odradek.toml"
        config.write_text(
            "[cassandra]\n"
            f"port = {cassandra_settings.port}\n"
            f'keyspace = "{KEYSPACE}"\n'
            "replication = { datacenter1 = 1 }\n"
            "[postgres]\n"
            f'url = "{postgres_settings.url}"\n'
        )

        def migrate(*flags: str, **variables: Any) -> Result:
            return CliRunner().invoke(
                main, ["stores", "migrate", "--config", str(config), *flags], env=variables
            )

        return migrate

    def test_it_brings_both_stores_to_the_newest_version(
        self,
        run: Callable[..., Result],
        cassandra_tables: Callable[[], set[str]],
        postgres_tables: Callable[[], set[str]],
    ) -> None:
        dry = run("--dry-run")
        assert dry.exit_code == 0, dry.output
        assert "CREATE TABLE IF NOT EXISTS history" in dry.output
        assert cassandra_tables() == postgres_tables() == set()
        assert run().exit_code == 0
        assert cassandra_tables() == CASSANDRA_TABLES
        assert postgres_tables() == POSTGRES_TABLES
        again = run()
        assert again.exit_code == 0
        assert again.output.splitlines() == [
            f"Cassandra: keyspace {KEYSPACE} is of version 1, the newest",
            "PostgreSQL: the schema is of version 1, the newest",
        ]

    def test_a_store_that_is_not_there_is_said_in_a_sentence(self, run: Callable[..., Result]) -> None:
        result = run(ODRADEK_CASSANDRA__PORT="1")
        assert result.exit_code == 1
        assert result.output.startswith("Error: Cassandra at 127.0.0.1 port 1 does not answer: ")
        result = run(ODRADEK_POSTGRES__URL="postgresql://odradek@127.0.0.1:1/odradek")
        assert result.exit_code == 1
        assert "Error: PostgreSQL does not answer: " in result.output
