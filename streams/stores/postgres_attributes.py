"""Search attributes in PostgreSQL's JSONB; importing this imports SQLAlchemy.

Two indexes serve equality, whatever the attributes' names: one on the attributes, one on the words of those of type
Text. Ranges and orders over an attribute read the namespace's runs in the order of their closing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from streams.stores.filter_model import Compare, In, Operator, Value
from streams.stores.search_attributes import Attribute, SearchValue, ValueType
from streams.stores.text_match import phrases_of, words_of
from streams.stores.visibility_columns import attribute_key
from streams.stores.visibility_sql import AttributeSql, SqlCondition, SqlValue

NUL_STANDS_AS: Final = "\u2400"
"""What replaces the character NUL, which PostgreSQL cannot hold in a text, in rows and in filters alike."""

_ATTRIBUTES: Final[SqlValue] = sa.literal_column("visibility.search_attributes", JSONB)
_WORDS: Final[SqlValue] = sa.literal_column("visibility.text_words", JSONB)


def storable(text: str) -> str:
    """A text as PostgreSQL can hold it."""
    return text.replace("\0", NUL_STANDS_AS) if "\0" in text else text


def text_words(attributes: Mapping[str, SearchValue]) -> str | None:
    """The words of attributes of type Text, as JSON, in their order; None without any."""
    words = {
        storable(name): words_of(str(held.value))
        for name, held in attributes.items()
        if held.type is ValueType.TEXT
    }
    return msgspec.json.encode(words).decode() if words else None


class PostgresAttributeSql(AttributeSql):
    """Implements `AttributeSql` over the columns `search_attributes` and `text_words`."""

    def value(self, attribute: Attribute, value: Value) -> str | int | float | SqlValue:
        """See `AttributeSql.value`."""
        if isinstance(value, str):
            return storable(value)
        if attribute.type is ValueType.DOUBLE:
            return sa.literal(float(value), sa.Double())
        if isinstance(value, float):
            # Compared with whole numbers exactly, as SQLite does.
            exact = math.isfinite(value)
            return sa.literal(Decimal(repr(value)), sa.Numeric()) if exact else sa.literal(value, sa.Double())
        return int(value)

    def scalar(self, attribute: Attribute) -> SqlValue:
        """See `AttributeSql.scalar`."""
        text = _ATTRIBUTES.op("->>", return_type=sa.Text())(_key(attribute))
        if attribute.type is ValueType.DOUBLE:
            return sa.cast(text, sa.Double())
        if attribute.type in (ValueType.INT, ValueType.DATETIME):
            return sa.cast(text, sa.BigInteger())
        if attribute.type is ValueType.BOOL:
            return sa.cast(sa.cast(text, sa.Boolean()), sa.Integer())
        collated: sa.ColumnElement[Any] = sa.collate(text, "C")
        return collated

    def list_holds(self, attribute: Attribute, values: Sequence[str]) -> SqlCondition:
        """See `AttributeSql.list_holds`."""
        return sa.func.coalesce(_holds_any(attribute, values), sa.false())

    def text_matches(self, attribute: Attribute, wanted: str) -> SqlCondition:
        """See `AttributeSql.text_matches`."""
        phrases = phrases_of(wanted)
        held: SqlValue = _WORDS.op("->")(sa.literal(storable(attribute.field), sa.Text()))
        conditions = [
            _holds_words(attribute, phrase)
            if len(phrase) == 1
            else sa.and_(_holds_words(attribute, phrase), _follow_each_other(held, phrase))
            for phrase in phrases
        ]
        return sa.func.coalesce(sa.or_(*conditions), sa.false()) if conditions else sa.false()

    def narrowed(self, term: Compare | In) -> SqlCondition | None:
        """See `AttributeSql.narrowed`."""
        if isinstance(term, In):
            if term.negated:
                return None
            values = term.values
        elif term.operator is Operator.EQUAL:
            values = (term.value,)
        else:
            return None
        if not all(math.isfinite(value) for value in values if isinstance(value, float)):
            return None
        if term.attribute.type is ValueType.TEXT:
            phrases = [phrase for value in values for phrase in phrases_of(str(value))]
            return sa.or_(*(_holds_words(term.attribute, phrase) for phrase in phrases)) if phrases else None
        return _holds_any(term.attribute, values)


def _key(attribute: Attribute) -> SqlValue:
    return sa.literal(storable(attribute_key(attribute.field, attribute.type)), sa.Text())


def _holds_any(attribute: Attribute, values: Sequence[Value]) -> SqlCondition:
    key = storable(attribute_key(attribute.field, attribute.type))
    listed = attribute.type is ValueType.KEYWORD_LIST
    held = [storable(value) if isinstance(value, str) else value for value in values]
    return sa.or_(*(_contains(_ATTRIBUTES, {key: [value] if listed else value}) for value in held))


def _holds_words(attribute: Attribute, words: Sequence[str]) -> SqlCondition:
    return _contains(_WORDS, {storable(attribute.field): list(words)})


def _contains(column: SqlValue, document: Mapping[str, Any]) -> SqlCondition:
    text = json.dumps(document, ensure_ascii=False)
    return column.op("@>", is_comparison=True)(sa.cast(sa.literal(text, sa.Text()), JSONB))


def _follow_each_other(held: SqlValue, words: Sequence[str]) -> SqlCondition:
    """Whether words stand one after the other: words hold no quotes, so a list's text tells."""
    wanted = ", ".join(f'"{word}"' for word in words)
    return sa.func.strpos(sa.cast(held, sa.Text()), wanted) > 0
