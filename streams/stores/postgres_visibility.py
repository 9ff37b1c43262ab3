"""The visibility store on PostgreSQL.

Writes join a transaction that the caller begins, with the position they stand for. Each write locks the namespaces
it touches: the order in which runs closed is then the order in which their rows were committed, which is what pages
rest on, and a row never comes in beside the delete of its run. A deleted run stays known for a day (fold.md rule
22), counted in the time up to which the visibility topic was written.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from streams.stores.filter_model import PageTokenError
from streams.stores.postgres_attributes import PostgresAttributeSql, storable, text_words
from streams.stores.postgres_connection import of_postgres, open_engine
from streams.stores.run_key import RunKey
from streams.stores.schema import OPEN_ORDER
from streams.stores.search_attributes import SearchAttributes
from streams.stores.settings import PostgresSettings
from streams.stores.visibility import VisibilityCount, VisibilityPage, VisibilityRow
from streams.stores.visibility_columns import COLUMNS, KEY_COLUMNS, row_values
from streams.stores.visibility_pages import NONE_CLOSED, CountQuery, ListQuery
from streams.stores.visibility_sql import INTEGER_COLUMNS, VisibilitySql

ResultT = TypeVar("ResultT")

KEEP_DELETED_MS: Final = 24 * 3600 * 1000

_ALL_COLUMNS: Final = (*COLUMNS, "text_words")
_ARRAY_TYPES: Final = {
    name: "bigint[]" if name in INTEGER_COLUMNS else "bytea[]" if name == "memo" else "text[]"
    for name in _ALL_COLUMNS
}
_JSON_COLUMNS: Final = ("search_attributes", "text_words")
_KEYS: Final = ", ".join(KEY_COLUMNS)
_SAME_RUN: Final = " AND ".join(f"held.{name} = given.{name}" for name in KEY_COLUMNS)


def _given(*names: str) -> str:
    """Rows out of one array for each column: the statement is the same for any number of them."""
    arrays = ", ".join(f"CAST(:{name} AS {_ARRAY_TYPES[name]})" for name in names)
    return f"unnest({arrays}) AS given ({', '.join(names)})"


_SELECTED: Final = ", ".join(
    f"CAST(given.{name} AS jsonb)" if name in _JSON_COLUMNS else f"given.{name}" for name in _ALL_COLUMNS
)
_UPDATES: Final = ", ".join(
    f"{name} = excluded.{name}" for name in _ALL_COLUMNS if name not in (*KEY_COLUMNS, "close_order")
)
# A row that closed before keeps its place, whatever is written of it later.
_UPSERT: Final = sa.text(
    f"INSERT INTO visibility ({', '.join(_ALL_COLUMNS)}) SELECT {_SELECTED} FROM {_given(*_ALL_COLUMNS)}"
    f" WHERE NOT EXISTS (SELECT FROM visibility_deleted AS held WHERE {_SAME_RUN})"
    f" ON CONFLICT ({_KEYS}) DO UPDATE SET"
    f" close_order = least(visibility.close_order, excluded.close_order), {_UPDATES}"
    " WHERE excluded.version > visibility.version"
)
_REMEMBER: Final = sa.text(
    f"INSERT INTO visibility_deleted ({_KEYS}, deleted_ms)"
    f" SELECT {', '.join(f'given.{name}' for name in KEY_COLUMNS)}, :now_ms FROM {_given(*KEY_COLUMNS)}"
    f" ON CONFLICT ({_KEYS}) DO NOTHING"
)
_DELETE: Final = sa.text(f"DELETE FROM visibility AS held USING {_given(*KEY_COLUMNS)} WHERE {_SAME_RUN}")
_FORGET: Final = sa.text(
    "DELETE FROM visibility_deleted WHERE deleted_ms <"
    " (SELECT min(now_ms) FROM positions WHERE topic = :topic) - :keep_ms"
)
_LOCK: Final = sa.text(
    "SELECT namespace_id, last_close_order FROM visibility_namespaces"
    " WHERE namespace_id = ANY(CAST(:namespaces AS text[])) ORDER BY namespace_id FOR UPDATE"
)
_ADD_NAMESPACES: Final = sa.text(
    "INSERT INTO visibility_namespaces (namespace_id, last_close_order)"
    " SELECT name, :none FROM unnest(CAST(:namespaces AS text[])) AS given (name) ORDER BY name"
    " ON CONFLICT DO NOTHING"
)
_SET_ORDER: Final = sa.text(
    "UPDATE visibility_namespaces SET last_close_order = :last WHERE namespace_id = :namespace"
)


class PostgresVisibilityStore:
    """Implements `streams.stores.visibility.VisibilityStore`: reads in threads, writes in the caller's.

    `clock_ms` is the wall clock.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._clock_ms = clock_ms
        self._sql = VisibilitySql(PostgresAttributeSql())
        self._engine = open_engine(settings, read_only=True, pool_size=settings.pool_size)
        self._pool = ThreadPoolExecutor(settings.pool_size, thread_name_prefix="visibility-reader")

    def close(self) -> None:
        """Wait for running reads and close every connection; idempotent."""
        self._pool.shutdown(wait=True)
        self._engine.dispose()

    # Writing

    def write(self, tx: Connection, rows: Sequence[VisibilityRow]) -> None:
        """See `VisibilityStore.write`; `tx` is an open transaction."""
        newest: dict[tuple[str, ...], VisibilityRow] = {}
        for row in rows:
            key = (storable(row.namespace_id), storable(row.workflow_id), storable(row.run_id))
            held = newest.get(key)
            if held is None or row.version > held.version:
                newest[key] = row
        if not newest:
            return
        last_orders = _lock(tx, {key[0] for key in newest})
        before = dict(last_orders)
        values = {key: _values(row, _close_order(row, key[0], last_orders)) for key, row in newest.items()}
        # In the order of keys, in which every writer locks rows.
        columns = zip(*(values[key] for key in sorted(values)), strict=True)
        tx.execute(_UPSERT, {name: list(column) for name, column in zip(_ALL_COLUMNS, columns, strict=True)})
        for namespace, last in last_orders.items():
            if last != before[namespace]:
                tx.execute(_SET_ORDER, {"namespace": namespace, "last": last})

    def delete(self, tx: Connection, runs: Sequence[RunKey]) -> None:
        """See `VisibilityStore.delete`; rows of these runs that come later are not written."""
        keys = sorted({(storable(r.namespace_id), storable(r.workflow_id), storable(r.run_id)) for r in runs})
        if not keys:
            return
        _lock(tx, {key[0] for key in keys})
        arrays = {
            name: list(column) for name, column in zip(KEY_COLUMNS, zip(*keys, strict=True), strict=True)
        }
        tx.execute(_REMEMBER, {**arrays, "now_ms": self._clock_ms()})
        tx.execute(_DELETE, arrays)

    def forget_deleted(self, tx: Connection, topic: str) -> None:
        """Forget runs deleted a day before the time up to which `topic` was written."""
        tx.execute(_FORGET, {"topic": topic, "keep_ms": KEEP_DELETED_MS})

    # Reading

    async def list(
        self,
        namespace_id: str,
        query: str,
        attributes: SearchAttributes,
        page_size: int,
        next_page_token: bytes = b"",
    ) -> VisibilityPage:
        """See `VisibilityStore.list`."""
        return await self._in_thread(
            lambda: self.list_blocking(namespace_id, query, attributes, page_size, next_page_token)
        )

    async def count(self, namespace_id: str, query: str, attributes: SearchAttributes) -> VisibilityCount:
        """See `VisibilityStore.count`."""
        return await self._in_thread(lambda: self.count_blocking(namespace_id, query, attributes))

    def list_blocking(
        self,
        namespace_id: str,
        query: str,
        attributes: SearchAttributes,
        page_size: int,
        next_page_token: bytes = b"",
    ) -> VisibilityPage:
        """As `list`, in the calling thread."""
        wanted = ListQuery(storable(namespace_id), query, attributes, page_size, next_page_token)
        try:
            return self._read(lambda run: wanted.page(self._sql, run))
        except exc.DataError as error:
            # A filter's texts are made storable; only a token that is forged holds what no text can.
            if not next_page_token:
                raise
            raise PageTokenError("invalid page token") from error

    def count_blocking(self, namespace_id: str, query: str, attributes: SearchAttributes) -> VisibilityCount:
        """As `count`, in the calling thread."""
        wanted = CountQuery(storable(namespace_id), query, attributes)
        return self._read(lambda run: wanted.count(self._sql, run))

    async def _in_thread(self, read: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._pool, read)

    def _read(
        self, read: Callable[[Callable[[sa.Select[Any]], Iterator[tuple[Any, ...]]]], ResultT]
    ) -> ResultT:
        """Read in one transaction, which sees one state of the database. Raises StoreError.

        A connection that broke since it was last used is replaced, once.
        """
        for is_last in (False, True):
            try:
                with self._engine.connect() as connection:
                    return read(functools.partial(_run, connection))
            except exc.SQLAlchemyError as error:
                if isinstance(error, exc.DBAPIError) and error.connection_invalidated and not is_last:
                    continue
                failure = of_postgres(error)
                if failure is None:
                    raise
                raise failure from error
        raise AssertionError("unreachable")


def _run(connection: Connection, select: sa.Select[Any]) -> Iterator[tuple[Any, ...]]:
    return (tuple(row) for row in connection.execute(select).all())


def _lock(tx: Connection, namespaces: set[str]) -> dict[str, int]:
    """Lock namespaces until the transaction ends, and give the greatest close order that each has so far."""
    names = {"namespaces": sorted(namespaces)}
    found = _locked(tx, names)
    if len(found) < len(namespaces):
        tx.execute(_ADD_NAMESPACES, {**names, "none": NONE_CLOSED})
        found = _locked(tx, names)
    return found


def _locked(tx: Connection, names: dict[str, list[str]]) -> dict[str, int]:
    return {row.namespace_id: row.last_close_order for row in tx.execute(_LOCK, names)}


def _close_order(row: VisibilityRow, namespace: str, last_orders: dict[str, int]) -> int:
    """Close time, nudged so that a run that is committed later never sorts before an earlier one."""
    if row.close_time_ns is None:
        return OPEN_ORDER
    order = max(row.close_time_ns, row.start_time_ns, last_orders[namespace] + 1)
    last_orders[namespace] = order
    return order


def _values(row: VisibilityRow, close_order: int) -> list[Any]:
    """Values of a row in the order of the columns, as PostgreSQL can hold them."""
    values = [*row_values(row, close_order), text_words(row.search_attributes)]
    return [_storable(name, value) for name, value in zip(_ALL_COLUMNS, values, strict=True)]


def _storable(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name == "search_attributes" and r"\u0000" in value:
        return msgspec.json.encode(_without_nul(msgspec.json.decode(value))).decode()
    return storable(value)


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case list():
            return [storable(item) for item in value]
        case dict():
            return {storable(key): _without_nul(item) for key, item in value.items()}
        case _:
            return value
