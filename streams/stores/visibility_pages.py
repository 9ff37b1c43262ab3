"""Lists and counts of runs in a database, a page at a time.

What databases share: parsing, the SELECTs, the order of pages and their tokens. A store runs the SELECTs, all those
of one page over the same rows.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streams.stores import list_filter
from streams.stores.filter_model import FilterError, ListFilter, PageTokenError, Sort
from streams.stores.page_token import PageToken, SortKey, decode_token, encode_token
from streams.stores.search_attributes import Attribute, SearchAttributes, ValueType
from streams.stores.visibility import VisibilityCount, VisibilityPage
from streams.stores.visibility_columns import COLUMNS, check_types, row_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from streams.stores.visibility_sql import VisibilitySql

Run = Callable[["sa.Select[Any]"], Iterator[tuple[Any, ...]]]
"""Runs a SELECT and gives its rows."""

NONE_CLOSED = -(2**63)
"""What the order is frozen at while no run of a namespace has closed."""

_KeyedRow = tuple[tuple[SortKey, ...], tuple[Any, ...]]
"""Sort keys of a row, and its columns."""

_TEXTS = (ValueType.TEXT, ValueType.KEYWORD, ValueType.KEYWORD_LIST)
_CLOSE_ORDER = COLUMNS.index("close_order")
_START_TIME = COLUMNS.index("start_time_ns")
_RUN_ID = COLUMNS.index("run_id")


class ListQuery:
    """A page that is wanted: parsed and checked, before any database is asked.

    Parameters as of `VisibilityStore.list`. Raises FilterError, PageTokenError, and ValueError for a page size
    below 1.
    """

    def __init__(
        self,
        namespace_id: str,
        query: str,
        attributes: SearchAttributes,
        page_size: int,
        next_page_token: bytes = b"",
    ) -> None:
        if page_size < 1:
            raise ValueError(f"page size {page_size} is not positive")
        self._wanted = list_filter.parse(query, attributes)
        if self._wanted.group_by_status:
            raise FilterError("operation is not supported: 'group by' clause")
        self._namespace_id = namespace_id
        self._query = query
        self._page_size = page_size
        self._token = decode_token(next_page_token, namespace_id, query) if next_page_token else None

    def page(self, sql: VisibilitySql, run: Run) -> VisibilityPage:
        """Run the SELECTs of the page. Raises PageTokenError, StoreDamagedError and what `run` raises."""
        page = _Page(sql, run, self._namespace_id, self._wanted, self._token)
        limit = self._page_size + 1
        rows = page.sorted_rows(limit) if self._wanted.order_by else page.rows(limit)
        found = list(itertools.islice(rows, limit))
        next_token = b""
        if len(found) > self._page_size:
            found.pop()
            next_token = encode_token(self._namespace_id, self._query, page.frozen_order, found[-1][0])
        return VisibilityPage([row_of(values) for _, values in found], next_token)


class CountQuery:
    """A count that is wanted: parsed and checked. Parameters and errors as of `VisibilityStore.count`."""

    def __init__(self, namespace_id: str, query: str, attributes: SearchAttributes) -> None:
        self._wanted = list_filter.parse(query, attributes)
        if self._wanted.order_by:
            raise FilterError("operation is not supported: 'order by' clause")
        self._namespace_id = namespace_id

    def count(self, sql: VisibilitySql, run: Run) -> VisibilityCount:
        """Run the SELECT of the count. Raises what `run` raises."""
        by_status: dict[int, int] = dict(run(sql.count(self._namespace_id, self._wanted)))
        return VisibilityCount(sum(by_status.values()), by_status if self._wanted.group_by_status else None)


class _Page:
    """The rows of a list from a token on, each with its sort keys."""

    def __init__(
        self, sql: VisibilitySql, run: Run, namespace_id: str, wanted: ListFilter, token: PageToken | None
    ) -> None:
        self._sql = sql
        self._run = run
        self._namespace_id = namespace_id
        self._wanted = wanted
        self._after: tuple[SortKey, ...] = ()
        if token is not None:
            self.frozen_order = token.frozen_order
            self._after = token.keys
        else:
            last = next(run(sql.frozen_order(namespace_id)), None)
            self.frozen_order = NONE_CLOSED if last is None else last[0]

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
        if self._after and not _are_keys(self._wanted.order_by, self._after):
            raise PageTokenError("invalid page token")
        select = self._sql.sorted_runs(
            self._namespace_id, self._wanted, self.frozen_order, self._after, limit
        )
        for values in self._run(select):
            check_types(values[keys:])
            yield values[:keys], values[keys:]

    def _open_rows(self, after: tuple[int, str] | None, limit: int) -> Iterator[_KeyedRow]:
        selects = self._sql.open_runs(self._namespace_id, self._wanted, self.frozen_order, after, limit)
        parts = [_checked(self._run(select)) for select in selects]
        for values in heapq.merge(*parts, key=lambda values: (-values[_START_TIME], values[_RUN_ID])):
            yield (values[_START_TIME], values[_RUN_ID]), values

    def _closed_rows(self, after: int | None, limit: int) -> Iterator[_KeyedRow]:
        selects = self._sql.closed_runs(self._namespace_id, self._wanted, self.frozen_order, after, limit)
        for select in selects:
            for values in _checked(self._run(select)):
                yield (values[_CLOSE_ORDER],), values


def _are_keys(order_by: Sequence[Sort], keys: Sequence[SortKey]) -> bool:
    """Whether a token's keys can be those of a row: the last is its run id."""
    return (
        len(keys) == len(order_by) + 1
        and isinstance(keys[-1], str)
        and all(map(_is_key, (sort.attribute for sort in order_by), keys))
    )


def _is_key(attribute: Attribute, key: SortKey) -> bool:
    if key is None or isinstance(key, bool):
        return key is None
    if attribute.type is ValueType.DOUBLE:
        return isinstance(key, int | float)
    if attribute.type in _TEXTS and attribute.field != "ExecutionStatus":
        return isinstance(key, str)
    return isinstance(key, int)


def _checked(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """The rows, each looked at before anything is done with it. Raises StoreDamagedError."""
    for values in rows:
        check_types(values)
        yield values
