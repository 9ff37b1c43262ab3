"""Search attributes in SQLite's JSON functions; importing this imports SQLAlchemy."""

from collections.abc import Sequence

import sqlalchemy as sa

from streams.stores.filter_model import Compare, In, Value
from streams.stores.search_attributes import Attribute
from streams.stores.visibility_columns import attribute_key
from streams.stores.visibility_sql import TABLE, AttributeSql, SqlCondition, SqlValue


class SqliteAttributeSql(AttributeSql):
    """Implements `AttributeSql`; Text needs the function that `SqliteReaders` registers."""

    def value(self, attribute: Attribute, value: Value) -> str | int | float | SqlValue:
        """See `AttributeSql.value`."""
        # SQLAlchemy takes booleans for keywords, which cannot be ordered.
        return int(value) if isinstance(value, bool) else value

    def scalar(self, attribute: Attribute) -> SqlValue:
        """See `AttributeSql.scalar`."""
        return sa.func.json_extract(TABLE.c.search_attributes, _path(attribute))

    def list_holds(self, attribute: Attribute, values: Sequence[str]) -> SqlCondition:
        """See `AttributeSql.list_holds`."""
        items = sa.func.json_each(TABLE.c.search_attributes, _path(attribute)).table_valued("value")
        return sa.exists(sa.select(sa.literal(1)).select_from(items).where(items.c.value.in_(values)))

    def text_matches(self, attribute: Attribute, wanted: str) -> SqlCondition:
        """See `AttributeSql.text_matches`."""
        return sa.func.text_matches(self.scalar(attribute), wanted, type_=sa.Boolean()) == 1

    def narrowed(self, term: Compare | In) -> SqlCondition | None:
        """See `AttributeSql.narrowed`: there is no index on search attributes."""
        return None


def _path(attribute: Attribute) -> str:
    return f'$."{attribute_key(attribute.field, attribute.type)}"'
