"""The local store of one partition on RocksDB: what committed checkpoints hold, to be read by its fold.

A copy of the changelog, for restarts on the same disk and for reading what is not in memory; never the truth
(fold.md rule 16). Each owner opens a directory of its own if a former one still holds the last.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, RdictIter, WriteBatch, WriteOptions

from streams import avro
from streams.kafka import keys, packing
from streams.kafka.keys import Change
from streams.runtime.local_store import LocalHead
from streams.runtime.partition import Position
from streams.runtime.tables import StorageError

LOG = logging.getLogger(__name__)

_BY_TIME: Final = b"t"
_HEAD: Final = b"h"
_TIME: Final = struct.Struct(">Q")
_MACHINE: Final = tuple(
    os.strerror(code)
    for code in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.EACCES,
        errno.EROFS,
    )
)
_MEMTABLE_BYTES: Final = 8 * 1024 * 1024

_cache_lock = threading.Lock()
_cache: Cache | None = None


class Head(msgspec.Struct, frozen=True):
    """What the store says of itself. The last checkpoint begins in the changelog at `checkpoint_offset` or later."""

    local: LocalHead
    checkpoint_offset: int


class PartitionStore:
    """RowStore and DueStore of one partition. Get it from `open_store`.

    One thread writes while another reads.
    """

    def __init__(self, path: Path, cache_bytes: int) -> None:
        self.path = path
        self._closed = False
        self._db = Rdict(str(path), _options(cache_bytes))

    # Reading

    def load(self, table: str, partition: int, key: str) -> list[tuple[str, str, bytes]]:
        """See RowStore."""
        with _storage_errors(self.path):
            value = self._db.get(keys.row_key(table, key, packing.PACKED, packing.PACKED))
            if value is None:
                return []
            return packing.unpacked(value) if value != packing.APART else list(self._apart(table, key))

    def parts(self, table: str, key: str) -> tuple[packing.Parts, bool]:
        """The parts of an entity, and whether they are in rows of their own. Raises StorageError."""
        with _storage_errors(self.path):
            value = self._db.get(keys.row_key(table, key, packing.PACKED, packing.PACKED))
            if value is None:
                return {}, False
            apart = value == packing.APART
            parts = self._apart(table, key) if apart else packing.unpacked(value)
            return {(kind, id): part for kind, id, part in parts}, apart

    def _apart(self, table: str, key: str) -> Iterator[tuple[str, str, bytes]]:
        for name, value in self._scan(keys.entity_prefix(table, key)):
            _, _, kind, id = keys.parts(name)
            if kind != packing.PACKED:
                yield kind, id, value

    def keys(self, table: str, partition: int, prefix: str) -> list[str]:
        """See RowStore."""
        start = keys.ROW + keys.part(table) + keys.open_part(prefix)
        found: list[str] = []
        with _storage_errors(self.path):
            rows = self._db.iter()
            rows.seek(start)
            while rows.valid():
                name: bytes = rows.key()
                if not name.startswith(start):
                    break
                entity = keys.parts(name)[1]
                found.append(entity)
                if rows.value() == packing.APART:
                    rows.seek(keys.behind(keys.entity_prefix(table, entity)))  # behind the last of its rows
                else:
                    rows.next()
            rows.status()
        return found

    def load_due(self, partition_name: str, after_ms: int, until_ms: int) -> list[tuple[str, int, int]]:
        """See DueStore."""
        found = []
        with _storage_errors(self.path):
            rows = self._db.iter()
            rows.seek(_BY_TIME + _TIME.pack(max(after_ms + 1, 0)))
            while rows.valid():
                name: bytes = rows.key()
                if not name.startswith(_BY_TIME):
                    break
                (due_ms,) = _TIME.unpack_from(name, 1)
                if due_ms > until_ms:
                    break
                (payload,) = _TIME.unpack(rows.value())
                found.append((name[1 + _TIME.size :].decode(), due_ms, payload))
                rows.next()
            rows.status()
        return found

    def due_row(self, partition_name: str, key: str) -> tuple[int, int] | None:
        """See DueStore."""
        with _storage_errors(self.path):
            value = self._db.get(keys.due_key(key))
            return None if value is None else keys.due_entry(value)

    def head(self) -> Head | None:
        """What it says of itself, None when it is new. Raises StorageError."""
        with _storage_errors(self.path):
            value = self._db.get(_HEAD)
            return None if value is None else msgspec.msgpack.decode(value, type=Head)

    def position(self) -> Position | None:
        """The position of the last checkpoint it holds. Raises StorageError."""
        with _storage_errors(self.path):
            value = self._db.get(keys.POSITION)
            return None if value is None else avro.decode(Position, value)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Every row as the changelog has it, but for the position, in order of keys. Raises StorageError."""
        with _storage_errors(self.path):
            yield from self._scan(keys.DUE)
            yield from self._scan(keys.ROW)

    def contents(self) -> Iterator[tuple[bytes, bytes]]:
        """Every part and due row with its key (see `streams.kafka.keys`), in order. Raises StorageError."""
        with _storage_errors(self.path):
            yield from self._scan(keys.DUE)
            for name, value in self._scan(keys.ROW):
                table, key, kind, _ = keys.parts(name)
                if kind != packing.PACKED:
                    yield name, value
                elif value != packing.APART:
                    for part_kind, id, part in packing.unpacked(value):
                        yield keys.row_key(table, key, part_kind, id), part

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows: RdictIter = self._db.iter()
        rows.seek(prefix)
        while rows.valid():
            name: bytes = rows.key()
            if not name.startswith(prefix):
                return
            yield name, rows.value()
            rows.next()
        rows.status()

    # Writing

    def apply(self, changed: Iterable[Change], head: Head, *, logged: bool = True) -> None:
        """Write changes and what the store says of itself from then on, all or nothing. Raises StorageError.

        What is not `logged`, at half the cost, is safe once `flush` was called, which has to come before anything
        that is. A crash until then leaves the store at an earlier moment.
        """
        with _storage_errors(self.path):
            batch: Any = WriteBatch(raw_mode=True)
            dues: dict[bytes, bytes | None] = {}
            for name, value in changed:
                if value is None:
                    batch.delete(name)
                else:
                    batch.put(name, value)
                if name.startswith(keys.DUE):
                    self._index(batch, name, value, dues)
            batch.put(_HEAD, msgspec.msgpack.encode(head))
            self._db.write(batch, None if logged else _unlogged())

    def flush(self) -> None:
        """Have all that was applied in files. Raises StorageError."""
        with _storage_errors(self.path):
            self._db.flush()

    def _index(self, batch: Any, name: bytes, value: bytes | None, dues: dict[bytes, bytes | None]) -> None:
        """Keep the order by time that `load_due` reads. `dues` are the changes of this batch so far."""
        old = dues[name] if name in dues else self._db.get(name)
        dues[name] = value
        (entity,) = keys.parts(name)
        suffix = entity.encode()
        if old is not None:
            batch.delete(_BY_TIME + _TIME.pack(keys.due_entry(old)[0]) + suffix)
        if value is not None:
            due_ms, payload = keys.due_entry(value)
            batch.put(_BY_TIME + _TIME.pack(due_ms) + suffix, _TIME.pack(payload))

    def close(self) -> None:
        """Let go of the directory; again does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._db.close()
        except Exception as error:
            LOG.warning("the local store %s cannot write any more: %s", self.path, error)
        finally:
            del self._db  # whatever came of it: with the last reference goes the lock on the directory

    def wipe(self) -> None:
        """Close it and remove what it held."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)


def open_store(folder: Path, cache_bytes: int, reason_to_wipe: Callable[[LocalHead], str]) -> PartitionStore:
    """The newest store in `folder` that nobody holds and that may be used, else a new one; others are removed.

    Raises StorageError.
    """
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        chosen: PartitionStore | None = None
        for path in sorted(folder.iterdir(), reverse=True):
            try:
                store = PartitionStore(path, cache_bytes)
            except Exception as error:
                if _is_locked(error):
                    continue
                if _is_of_the_machine(error):
                    raise  # it is none the worse for that
                LOG.warning("the local store %s is wiped: it cannot be opened: %s", path, error)
                shutil.rmtree(path, ignore_errors=True)
                continue
            reason = "a newer one is used" if chosen is not None else reason_against(store, reason_to_wipe)
            if reason:
                LOG.info("the local store %s is wiped: %s", path, reason)
                store.wipe()
            else:
                chosen = store
        return chosen or PartitionStore(folder / f"{time.time_ns():020d}", cache_bytes)


def reason_against(store: PartitionStore, reason_to_wipe: Callable[[LocalHead], str]) -> str:
    """Why a store may not be used, empty when it may."""
    try:
        head = store.head()
    except StorageError as error:
        return str(error)
    return "it says nothing of itself" if head is None else reason_to_wipe(head.local)


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the disk has no room, or the process no more files: nothing that a store could help."""
    return any(words in str(error) for words in _MACHINE)


def _is_locked(error: Exception) -> bool:
    text = str(error)
    return "lock hold by current process" in text or "While lock file" in text


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"the local store {path} failed: {error}") from error


def _options(cache_bytes: int) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_keep_log_file_num(2)
    # A takeover writes everything at once: compacting it meanwhile took a seventh of its CPU. Bloom filters keep reads
    # of many files cheap.
    options.set_level_zero_file_num_compaction_trigger(16)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(60)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_shared_cache(cache_bytes))
    blocks.set_bloom_filter(10, False)
    options.set_block_based_table_factory(blocks)
    return options


def _unlogged() -> WriteOptions:
    options = WriteOptions()
    options.disable_wal = True  # type: ignore[method-assign,assignment]  # a property, whatever its stub says
    return options


def _shared_cache(cache_bytes: int) -> Cache:
    """The block cache that all stores of the process share."""
    global _cache
    with _cache_lock:
        if _cache is None:
            _cache = Cache(cache_bytes)
        return _cache
