"""What a read of a store fails with."""

import sqlite3


class StoreError(Exception):
    """The store cannot be read now; the message says why."""


class StoreDamagedError(StoreError):
    """What the store holds is not what was written: reading again does not help. The message says what it is."""


_DAMAGED = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))
_NOT_NOW = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    )
)
_DAMAGED_VALUES = ("malformed JSON", "Could not decode to UTF-8")
"""How SQLite and its Python module word that a value is not what its column holds; they have no code for it."""


def of_sqlite(error: sqlite3.Error) -> StoreError | None:
    """What a failed statement says of the file; None when the statement itself was wrong."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGED or any(words in str(error) for words in _DAMAGED_VALUES):
        return StoreDamagedError(f"the database file is damaged: {error}")
    return StoreError(f"the database file cannot be read: {error}") if code in _NOT_NOW else None
