"""The keyspace in Cassandra: numbered files of CQL, and a table of those that were run.

A file is run from its beginning after a failure half-way, so each of its statements may be repeated. Run it from one
place at a time: two nodes that create the same table at once may disagree about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, Final

import msgspec
from cassandra import ConsistencyLevel
from cassandra.query import SimpleStatement

from streams.stores.cassandra_connection import FAILURES, of_cassandra, open_cluster
from streams.stores.damage import StoreError
from streams.stores.settings import CassandraSettings

_VERSIONS_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS schema_versions"
    " (version int PRIMARY KEY, description text, migrated_at timestamp)"
)
_FILE_NAME: Final = re.compile(r"(\d{4})_(\w+)\.cql")
_END: Final = re.compile(r";\s*$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)


class CassandraMigration(msgspec.Struct, frozen=True):
    """One numbered file."""

    version: int
    description: str
    statements: tuple[str, ...]


def migrations() -> list[CassandraMigration]:
    """All versions, in order."""
    return sorted(_read(), key=lambda migration: migration.version)


def _read() -> Iterator[CassandraMigration]:
    for file in files("streams.stores.migrations").joinpath("cassandra").iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match is not None:
            parts = _END.split(_COMMENT.sub("", file.read_text(encoding="utf-8")))
            statements = tuple(part.strip() for part in parts if part.strip())
            yield CassandraMigration(int(match[1]), match[2].replace("_", " "), statements)


def migrate_cassandra(settings: CassandraSettings, *, dry_run: bool, tell: Callable[[str], None]) -> None:
    """Bring the keyspace to the newest version, or tell what that would take. Raises StoreError."""
    try:
        cluster = open_cluster(settings)
        try:
            _Migration(cluster, settings, dry_run, tell).run()
        finally:
            cluster.shutdown()
    except FAILURES as error:
        raise of_cassandra(error, settings) from error


class _Migration:
    def __init__(
        self, cluster: Any, settings: CassandraSettings, dry_run: bool, tell: Callable[[str], None]
    ) -> None:
        self._session = cluster.connect()
        self._cluster = cluster
        self._settings = settings
        self._keyspace = settings.keyspace
        self._dry_run = dry_run
        self._tell = tell

    def run(self) -> None:
        known = self._ensure_keyspace()
        done = self._versions() if known else set()
        newest = migrations()
        if done - {migration.version for migration in newest}:
            raise StoreError(
                f"keyspace {self._keyspace} is of version {max(done)}, this release knows {newest[-1].version}:"
                " a newer release has migrated it"
            )
        pending = [migration for migration in newest if migration.version not in done]
        if not pending:
            self._tell(f"Cassandra: keyspace {self._keyspace} is of version {newest[-1].version}, the newest")
            return
        if not self._dry_run:
            self._session.set_keyspace(self._keyspace)
        self._do(_VERSIONS_TABLE)
        for migration in pending:
            self._tell(f"Cassandra: version {migration.version}, {migration.description}")
            for statement in migration.statements:
                self._do(statement)
            self._do(
                "INSERT INTO schema_versions (version, description, migrated_at)"
                f" VALUES ({migration.version}, '{migration.description}', toTimestamp(now()))"
            )

    def _ensure_keyspace(self) -> bool:
        """Create the keyspace unless it is there. Returns whether it was."""
        held = self._cluster.metadata.keyspaces.get(self._keyspace)
        if held is None:
            replicas = {"class": "NetworkTopologyStrategy", **self._settings.replicas()}
            listed = ", ".join(f"'{name}': '{value}'" for name, value in replicas.items())
            self._do(f"CREATE KEYSPACE IF NOT EXISTS {self._keyspace} WITH replication = {{{listed}}}")
            return False
        found = getattr(held.replication_strategy, "dc_replication_factors", None)
        wanted = self._settings.replication
        if wanted and found != wanted:
            self._tell(
                f"Cassandra: keyspace {self._keyspace} is replicated {found or held.replication_strategy.name}, the"
                f" settings say {wanted}; nothing was changed: that takes ALTER KEYSPACE and a repair"
            )
        return True

    def _versions(self) -> set[int]:
        if "schema_versions" not in self._cluster.metadata.keyspaces[self._keyspace].tables:
            return set()
        rows = self._execute(f"SELECT version FROM {self._keyspace}.schema_versions")
        return {version for (version,) in rows}

    def _do(self, statement: str) -> None:
        if self._dry_run:
            self._tell(f"{statement};")
        else:
            self._execute(statement)

    def _execute(self, statement: str) -> Any:
        return self._session.execute(
            SimpleStatement(statement, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
        )
