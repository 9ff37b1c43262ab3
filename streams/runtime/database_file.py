"""The one file of the embedded log: whose it is, which format it has, and that no one else has it open."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
from pathlib import Path
from types import TracebackType
from typing import Final

APPLICATION_ID: Final = 0x4F444B31
"""Marks our files in SQLite's own header, as ``PRAGMA application_id``."""
FORMAT_VERSION: Final = 1
"""Raised when older code could not read what newer code writes; kept as ``PRAGMA user_version``."""

_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\x00"
_USER_VERSION_AT: Final = 60
_APPLICATION_ID_AT: Final = 68


class DatabaseFileError(Exception):
    """The file cannot be used; the message is one sentence for the user."""


class DatabaseFile:
    """Holds the file for this process while in the ``with`` block, which encloses all use of it.

    Entering creates a missing file. The lock is an advisory one that SQLite does not use, so read-only
    connections from elsewhere (``odradek inspect``, backups) work meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def __enter__(self) -> DatabaseFile:
        """Raises :class:`DatabaseFileError`."""
        self._descriptor = self._open()
        try:
            self._lock()
            header = os.pread(self._descriptor, _HEADER_BYTES, 0)
            if header:
                _check(header, self.path)
            else:
                self._initialise()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing any descriptor of the file drops the locks that SQLite holds on it, hence only now.
        os.close(self._descriptor)

    def _open(self) -> int:
        folder = self.path.parent
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise DatabaseFileError(f"the directory {folder} does not exist") from None
        except OSError as error:
            raise DatabaseFileError(f"cannot write {self.path}: {error.strerror}") from None
        if not os.access(folder, os.W_OK):
            os.close(descriptor)
            raise DatabaseFileError(
                f"cannot write in {folder}, where the database keeps files beside its own"
            )
        return descriptor

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatabaseFileError(f"{self.path} is in use by another process") from None

    def _initialise(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise DatabaseFileError(f"cannot write {self.path}: {error}") from None
        finally:
            connection.close()


def check_format(path: Path) -> None:
    """Returns if ``path`` is a database of this format. Raises :class:`DatabaseFileError`.

    Not for a file that this process has open through SQLite, whose locks it would drop.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise DatabaseFileError(f"cannot read {path}: {error.strerror}") from None
    _check(header, path)


def _check(header: bytes, path: Path) -> None:
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise DatabaseFileError(f"{path} is not an Odradek database")
    if _number(header, _APPLICATION_ID_AT) != APPLICATION_ID:
        raise DatabaseFileError(f"{path} is another program's SQLite database, not an Odradek one")
    version = _number(header, _USER_VERSION_AT)
    if version != FORMAT_VERSION:
        writer = "a newer" if version > FORMAT_VERSION else "an older"
        raise DatabaseFileError(
            f"{path} has format {version}, of {writer} version of Odradek; this one uses {FORMAT_VERSION}"
        )


def _number(header: bytes, offset: int) -> int:
    return int(struct.unpack_from(">I", header, offset)[0])
