"""The visibility store on SQLite."""

from __future__ import annotations

import functools
import heapq
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streams.stores import list_filter
from streams.stores.filter_model import FilterError, ListFilter, PageTokenError
from streams.stores.page_token import PageToken, SortKey, decode_token, encode_token
from streams.stores.run_key import RunKey
from streams.stores.schema import OPEN_ORDER
from streams.stores.search_attributes import SearchAttributes
from streams.stores.sqlite_batches import RowsStatement
from streams.stores.sqlite_readers import SqliteReaders
from streams.stores.visibility import VisibilityCount, VisibilityPage, VisibilityRow
from streams.stores.visibility_columns import COLUMNS, KEY_COLUMNS, check_types, row_of, row_values

if TYPE_CHECKING:
    import sqlalchemy as sa

    from streams.stores.visibility_sql import VisibilitySql

_KeyedRow = tuple[tuple[SortKey, ...], tuple[Any, ...]]
"""Sort keys of a row, and its columns."""

_CLOSE_ORDER = COLUMNS.index("close_order")
_START_TIME = COLUMNS.index("start_time_ns")
_RUN_ID = COLUMNS.index("run_id")
_NONE_CLOSED = -(2**63)

# A row that closed before keeps its place, whatever is written of it later.
_UPSERT = RowsStatement(
    f"INSERT INTO visibility ({', '.join(COLUMNS)}) VALUES",
    columns=len(COLUMNS),
    tail=f"ON CONFLICT ({', '.join(KEY_COLUMNS)}) DO UPDATE SET "
    "close_order = min(visibility.close_order, excluded.close_order), "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in (*KEY_COLUMNS, "close_order"))
    + " WHERE excluded.version > visibility.version",
)
_DELETE = RowsStatement(
    f"DELETE FROM visibility WHERE ({', '.join(KEY_COLUMNS)}) IN (VALUES", columns=len(KEY_COLUMNS), tail=")"
)
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
            last = _NONE_CLOSED if stored is None else stored[0]
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
    if page_size < 1:
        raise ValueError(f"page size {page_size} is not positive")
    wanted = list_filter.parse(query, attributes)
    if wanted.group_by_status:
        raise FilterError("operation is not supported: 'group by' clause")
    token = decode_token(next_page_token, namespace_id, query) if next_page_token else None
    # All statements of a page must see the same rows.
    connection.execute("BEGIN")
    try:
        page = _Page(connection, namespace_id, wanted, token)
        rows = page.sorted_rows(page_size + 1) if wanted.order_by else page.rows(page_size + 1)
        found = list(itertools.islice(rows, page_size + 1))
    finally:
        connection.execute("ROLLBACK")
    next_token = b""
    if len(found) > page_size:
        found.pop()
        next_token = encode_token(namespace_id, query, page.frozen_order, found[-1][0])
    return VisibilityPage([row_of(values) for _, values in found], next_token)


def count_rows(
    connection: sqlite3.Connection, namespace_id: str, query: str, attributes: SearchAttributes
) -> VisibilityCount:
    """Count as `VisibilityStore.count` does, in the calling thread."""
    wanted = list_filter.parse(query, attributes)
    if wanted.order_by:
        raise FilterError("operation is not supported: 'order by' clause")
    by_status = dict(_run(connection, _sql().count(namespace_id, wanted)))
    return VisibilityCount(sum(by_status.values()), by_status if wanted.group_by_status else None)


class _Page:
    """The rows of a list from a token on, each with its sort keys."""

    def __init__(
        self, connection: sqlite3.Connection, namespace_id: str, wanted: ListFilter, token: PageToken | None
    ) -> None:
        self._connection = connection
        self._namespace_id = namespace_id
        self._wanted = wanted
        self._after: tuple[SortKey, ...] = ()
        if token is not None:
            self.frozen_order = token.frozen_order
            self._after = token.keys
        else:
            last = next(_run(connection, _sql().frozen_order(namespace_id)), None)
            self.frozen_order = _NONE_CLOSED if last is None else last[0]

    def rows(self, limit: int) -> Iterator[_KeyedRow]:
        """Rows in the default order, and possibly more than `limit`."""
        match self._after:
            case ():
                yield from self._open_rows(None, limit)
                yield from self._closed_rows(None, limit)
            case (int(start_time_ns), str(run_id)):
                yield from self._open_rows((start_time_ns, run_id), limit)
                yield from self._closed_rows(None, limit)
            case (int(close_order),):
                yield from self._closed_rows(close_order, limit)
            case _:
                raise PageTokenError("invalid page token")

    def sorted_rows(self, limit: int) -> Iterator[_KeyedRow]:
        """Rows in the filter's own order."""
        keys = len(self._wanted.order_by) + 1
        if self._after and (len(self._after) != keys or not isinstance(self._after[-1], str)):
            raise PageTokenError("invalid page token")
        select = _sql().sorted_runs(self._namespace_id, self._wanted, self.frozen_order, self._after, limit)
        for values in _run(self._connection, select):
            check_types(values[keys:])
            yield values[:keys], values[keys:]

    def _open_rows(self, after: tuple[int, str] | None, limit: int) -> Iterator[_KeyedRow]:
        selects = _sql().open_runs(self._namespace_id, self._wanted, self.frozen_order, after, limit)
        parts = [_checked(_run(self._connection, select)) for select in selects]
        for values in heapq.merge(*parts, key=lambda values: (-values[_START_TIME], values[_RUN_ID])):
            yield (values[_START_TIME], values[_RUN_ID]), values

    def _closed_rows(self, after: int | None, limit: int) -> Iterator[_KeyedRow]:
        for select in _sql().closed_runs(self._namespace_id, self._wanted, self.frozen_order, after, limit):
            for values in _checked(_run(self._connection, select)):
                yield (values[_CLOSE_ORDER],), values


def _checked(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The rows, each looked at before anything is done with it. Raises StoreDamagedError."""
    for values in rows:
        check_types(values)
        yield values


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
