"""The schema in PostgreSQL: Alembic's versions, run from code, one process at a time."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from streams.stores.damage import StoreError
from streams.stores.postgres_connection import of_postgres, open_engine
from streams.stores.settings import PostgresSettings

_VERSION_TABLE: Final = "odradek_schema_version"
_LOCK: Final = 0x6F647261
"""Of the advisory lock that makes migrations wait for each other."""


def migrate_postgres(settings: PostgresSettings, *, dry_run: bool, tell: Callable[[str], None]) -> None:
    """Bring the schema to the newest version, or tell what that would take. Raises StoreError."""
    script = ScriptDirectory.from_config(_config())
    newest = script.get_current_head()
    assert newest is not None
    engine = open_engine(settings, read_only=False, pool_size=1)
    try:
        with engine.connect() as connection:
            _migrate(script, newest, connection, dry_run, tell)
            connection.commit()
    except exc.SQLAlchemyError as error:
        failure = of_postgres(error)
        if failure is None:
            raise
        raise failure from error
    finally:
        engine.dispose()


def _migrate(
    script: ScriptDirectory, newest: str, connection: Connection, dry_run: bool, tell: Callable[[str], None]
) -> None:
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    context = MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE})
    current = context.get_current_revision()
    if current == newest:
        tell(f"PostgreSQL: the schema is of version {int(newest)}, the newest")
        return
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise StoreError(
            f"the schema is of version {current}, this release knows {newest}: a newer release has migrated it"
        )
    for revision in reversed(list(script.iterate_revisions(newest, current or "base"))):
        tell(f"PostgreSQL: version {int(revision.revision)}, {revision.doc}")
    if dry_run:
        tell(_statements(script, current, newest))
    else:
        with _environment(script, newest) as environment:
            environment.configure(connection=connection, version_table=_VERSION_TABLE)
            environment.run_migrations()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("streams.stores.migrations").joinpath("postgres")))
    return config


def _environment(script: ScriptDirectory, newest: str, **options: Any) -> EnvironmentContext:
    return EnvironmentContext(
        _config(), script, fn=lambda current, _: script._upgrade_revs(newest, current), **options
    )


def _statements(script: ScriptDirectory, current: str | None, newest: str) -> str:
    """The SQL of an upgrade."""
    told = io.StringIO()
    with _environment(script, newest, as_sql=True, starting_rev=current) as environment:
        environment.configure(
            dialect_name="postgresql", version_table=_VERSION_TABLE, output_buffer=told, literal_binds=True
        )
        environment.run_migrations()
    return told.getvalue().strip()
