"""The list filter language of Temporal's API."""

from streams.stores.filter_model import FilterError, ListFilter
from streams.stores.search_attributes import SearchAttributes

__all__ = ["FilterError", "parse", "quote"]

_EVERYTHING = ListFilter(condition=None)


def parse(query: str, attributes: SearchAttributes) -> ListFilter:
    """Parse and check a filter, as the real server's SQL visibility stores read it.

    Knows =, !=, <, <=, >, >=, [NOT] IN, [NOT] BETWEEN, IS [NOT] NULL, [NOT] STARTS_WITH, AND, OR, NOT,
    parentheses, ORDER BY and GROUP BY ExecutionStatus. Strings stand in single or double quotes, names
    may stand in backquotes; letter case counts in names and values, not in keywords.

    Raises `FilterError` for every text that is not a filter over `attributes`.
    """
    if not query.strip():
        return _EVERYTHING
    from streams.stores import filter_syntax  # imports sqlglot, which takes long

    return filter_syntax.parse_query(query, attributes)


def quote(value: str) -> str:
    """Write a string as a literal of the filter language."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
