"""Read connections to the engine's SQLite file, each used by a worker thread of its own."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from streams.stores.damage import of_sqlite
from streams.stores.text_match import text_matches

ResultT = TypeVar("ResultT")

BUSY_TIMEOUT_MS = 5_000


class SqliteReaders:
    """A few threads with a read-only connection each; the engine's write connection is another.

    Readers see what is committed, and in WAL mode neither wait for the writer nor hold it up.
    """

    def __init__(self, path: str | Path, threads: int = 2) -> None:
        """`path` is the database file, which must hold the stores' tables before the first read."""
        self._path = str(path)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store-reader")

    async def run(self, read: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Call `read` with a connection in a worker thread and return what it returns. Raises StoreError."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.run_blocking, read)

    def run_blocking(self, read: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Call `read` in the calling thread, with that thread's own connection. Raises StoreError."""
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._connect()
            return read(connection)
        except sqlite3.Error as error:
            failure = of_sqlite(error)
            if failure is None:
                raise
            raise failure from error

    def close(self) -> None:
        """Wait for running reads and close every connection; idempotent."""
        self._pool.shutdown(wait=True)
        with self._lock:
            while self._connections:
                self._connections.pop().close()

    def _connect(self) -> sqlite3.Connection:
        # Connections are closed by the thread that closes the pool, hence no thread check.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA query_only=ON")
        connection.create_function("text_matches", 2, text_matches, deterministic=True)
        with self._lock:
            self._connections.append(connection)
        return connection
