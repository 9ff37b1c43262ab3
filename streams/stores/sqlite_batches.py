"""Multi-row statements for SQLite.

A statement costs the interpreter lock twice a step, so rows are written many to a statement. Statement
texts are made once for each of a few row counts, which also lets the connection keep them prepared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

_ROW_COUNTS = (128, 32, 8, 4, 2, 1)


class RowsStatement:
    """A statement with a list of parenthesised rows between a fixed head and tail."""

    def __init__(self, head: str, columns: int, tail: str = "") -> None:
        """`columns` is the number of values in each row."""
        row = "(" + ",".join("?" * columns) + ")"
        self._columns = columns
        self._texts = {count: f"{head} {','.join([row] * count)} {tail}" for count in _ROW_COUNTS}

    @classmethod
    def deleting(cls, table: str, *key: str) -> RowsStatement:
        """Deletes rows by the columns of a unique key.

        A comparison for each row, and not a list of rows to be in: SQLite looks for that by reading the table.
        """
        statement = cls("", len(key))
        row = "(" + " AND ".join(f"{column} = ?" for column in key) + ")"
        statement._texts = {
            count: f"DELETE FROM {table} WHERE {' OR '.join([row] * count)}" for count in _ROW_COUNTS
        }
        return statement

    def run(self, tx: sqlite3.Connection, values: Sequence[Any]) -> None:
        """Execute for rows whose values are laid end to end in `values`."""
        at = 0
        left = len(values) // self._columns
        for count, text in self._texts.items():
            while left >= count:
                end = at + count * self._columns
                tx.execute(text, values[at:end])
                at = end
                left -= count
