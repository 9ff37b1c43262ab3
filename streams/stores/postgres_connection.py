"""Connections to PostgreSQL, and what their failures mean."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from psycopg.types.string import TextLoader
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Engine, make_url

from streams.stores.damage import StoreDamagedError, StoreError
from streams.stores.settings import PostgresSettings

_DAMAGED: Final = ("XX001", "XX002")  # data_corrupted, index_corrupted
_NO_SCHEMA: Final = ("3F000", "42P01", "42703")  # no such schema, table, column
_CANCELLED: Final = "57014"


def url_of(settings: PostgresSettings) -> URL:
    """The URL for SQLAlchemy, with the password."""
    url = make_url(settings.url).set(drivername="postgresql+psycopg")
    password = settings.password.get_secret_value()
    return url.set(password=password) if password else url


def open_engine(settings: PostgresSettings, *, read_only: bool, pool_size: int) -> Engine:
    """Connections in a pool; none is made before it is needed. Those that only read see one state a transaction."""
    url = url_of(settings)
    own_options = url.query.get("options", ())
    options = (own_options,) if isinstance(own_options, str) else own_options
    engine = sa.create_engine(
        url.difference_update_query(("options",)),
        isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=settings.statement_timeout_ms / 1000,
        connect_args={
            "connect_timeout": settings.connect_timeout_s,
            "options": " ".join((f"-c statement_timeout={settings.statement_timeout_ms}", *options)),
            "application_name": "odradek",
        },
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.read_only = read_only
        # JSON stays text: only rows that are shown get decoded, and checked.
        connection.adapters.register_loader("jsonb", TextLoader)

    return engine


def of_postgres(error: exc.SQLAlchemyError) -> StoreError | None:
    """What a failure says of the database; None when the statement itself was wrong."""
    if isinstance(error, exc.TimeoutError):
        return StoreError("every connection to PostgreSQL is in use")
    if not isinstance(error, exc.DBAPIError):
        return None
    state = getattr(error.orig, "sqlstate", None)
    reason = " ".join(str(error.orig).split())
    if state in _DAMAGED:
        return StoreDamagedError(f"PostgreSQL finds its data damaged: {reason}")
    if state in _NO_SCHEMA:
        return StoreError(f"PostgreSQL refuses: {reason}; has `odradek stores migrate` been run?")
    if state == _CANCELLED:
        return StoreError(f"PostgreSQL took too long: {reason}")
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return StoreError(f"PostgreSQL does not answer: {reason}")
    return None
