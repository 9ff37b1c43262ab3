"""The visibility store on SQLite."""

from __future__ import annotations

import functools
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streams.stores.run_key import RunKey
from streams.stores.schema import OPEN_ORDER
from streams.stores.search_attributes import SearchAttributes
from streams.stores.sqlite_batches import RowsStatement
from streams.stores.sqlite_readers import SqliteReaders
from streams.stores.visibility import VisibilityCount, VisibilityPage, VisibilityRow
from streams.stores.visibility_columns import COLUMNS, KEY_COLUMNS, row_values
from streams.stores.visibility_pages import NONE_CLOSED, CountQuery, ListQuery

if TYPE_CHECKING:
    import sqlalchemy as sa

    from streams.stores.visibility_sql import VisibilitySql

# A row that closed before keeps its place, whatever is written of it later.
_UPSERT = RowsStatement(
    f"INSERT INTO visibility ({', '.join(COLUMNS)}) VALUES",
    columns=len(COLUMNS),
    tail=f"ON CONFLICT ({', '.join(KEY_COLUMNS)}) DO UPDATE SET "
    "close_order = min(visibility.close_order, excluded.close_order), "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in (*KEY_COLUMNS, "close_order"))
    + " WHERE excluded.version > visibility.version",
)
_DELETE = RowsStatement.deleting("visibility", *KEY_COLUMNS)
_LAST_CLOSE_ORDER = """
    SELECT close_order FROM visibility WHERE namespace_id = ? AND close_order < ?
    ORDER BY close_order DESC LIMIT 1
"""


class SqliteVisibilityStore:
    """Implements `streams.stores.visibility.VisibilityStore` in the engine's SQLite file.

    Writes execute on the engine's connection, inside the transaction it has open, always in one thread;
    a transaction that is rolled back costs nothing but gaps in the close order.
    """

    def __init__(self, readers: SqliteReaders) -> None:
        self._readers = readers
        self._last_close_orders: dict[str, int] = {}

    def write(self, tx: sqlite3.Connection, rows: Sequence[VisibilityRow]) -> None:
        """Write rows, of any runs, in the open transaction of `tx`."""
        newest: dict[tuple[str, str, str], VisibilityRow] = {}
        for row in rows:
            key = (row.namespace_id, row.workflow_id, row.run_id)
            held = newest.get(key)
            if held is None or row.version > held.version:
                newest[key] = row
        values: list[Any] = []
        for row in newest.values():
            values += row_values(row, self._close_order(tx, row))
        _UPSERT.run(tx, values)

    def delete(self, tx: sqlite3.Connection, runs: Sequence[RunKey]) -> None:
        """Delete the rows of `runs` in the open transaction of `tx`."""
        _DELETE.run(
            tx,
            list(
                itertools.chain.from_iterable((run.namespace_id, run.workflow_id, run.run_id) for run in runs)
            ),
        )

    async def list(
        self,
        namespace_id: str,
        query: str,
        attributes: SearchAttributes,
        page_size: int,
        next_page_token: bytes = b"",
    ) -> VisibilityPage:
        """See `VisibilityStore.list`."""
        return await self._readers.run(
            lambda connection: list_rows(
                connection, namespace_id, query, attributes, page_size, next_page_token
            )
        )

    async def count(self, namespace_id: str, query: str, attributes: SearchAttributes) -> VisibilityCount:
        """See `VisibilityStore.count`."""
        return await self._readers.run(
            lambda connection: count_rows(connection, namespace_id, query, attributes)
        )

    def _close_order(self, tx: sqlite3.Connection, row: VisibilityRow) -> int:
        """Close time, nudged so that a run that is committed later never sorts before an earlier one.

        That makes it a mark to freeze a list's order by: what closes afterwards has a greater one.
        """
        if row.close_time_ns is None:
            return OPEN_ORDER
        last = self._last_close_orders.get(row.namespace_id)
        if last is None:
            stored = tx.execute(_LAST_CLOSE_ORDER, (row.namespace_id, OPEN_ORDER)).fetchone()
            last = NONE_CLOSED if stored is None else stored[0]
        order = max(row.close_time_ns, row.start_time_ns, last + 1)
        self._last_close_orders[row.namespace_id] = order
        return order


def list_rows(
    connection: sqlite3.Connection,
    namespace_id: str,
    query: str,
    attributes: SearchAttributes,
    page_size: int,
    next_page_token: bytes = b"",
) -> VisibilityPage:
    """List as `VisibilityStore.list` does, in the calling thread."""
    wanted = ListQuery(namespace_id, query, attributes, page_size, next_page_token)
    # All statements of a page must see the same rows.
    connection.execute("BEGIN")
    try:
        return wanted.page(_sql(), functools.partial(_run, connection))
    finally:
        connection.execute("ROLLBACK")


def count_rows(
    connection: sqlite3.Connection, namespace_id: str, query: str, attributes: SearchAttributes
) -> VisibilityCount:
    """Count as `VisibilityStore.count` does, in the calling thread."""
    return CountQuery(namespace_id, query, attributes).count(_sql(), functools.partial(_run, connection))


@functools.cache
def _sql() -> VisibilitySql:
    # Imports SQLAlchemy, which takes long.
    from streams.stores.sqlite_attributes import SqliteAttributeSql
    from streams.stores.visibility_sql import VisibilitySql

    return VisibilitySql(SqliteAttributeSql())


@functools.cache
def _dialect() -> sa.Dialect:
    from sqlalchemy.dialects import sqlite

    return sqlite.dialect(paramstyle="qmark")


def _run(connection: sqlite3.Connection, select: sa.Select[Any]) -> Iterator[tuple[Any, ...]]:
    compiled = select.compile(dialect=_dialect(), compile_kwargs={"render_postcompile": True})
    parameters = [compiled.params[name] for name in compiled.positiontup or ()]
    return iter(connection.execute(str(compiled), parameters).fetchall())
