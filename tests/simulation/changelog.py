"""A changelog of one partition's tables, with transactions, fencing, compaction and all that goes wrong with them."""

from __future__ import annotations

from typing import Any

from streams.runtime import local_store
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.local_store import LocalHead
from streams.runtime.partition import Position
from streams.runtime.takeover import Committed
from tests.support.memory import MemoryStore

DELETE_RETENTION_MS = 60_000

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"
POSITION = ("position",)


class FencedError(Exception):
    """A later owner has initialised the transactional id."""


class Entry:
    """A record of the changelog; `key` begins with "row", "due" or "position"."""

    __slots__ = ("key", "offset", "time_ms", "txn", "value")

    def __init__(self, offset: int, txn: Transaction, key: tuple[str, ...], value: Any, time_ms: int) -> None:
        self.offset = offset
        self.txn = txn
        self.key = key
        self.value = value
        self.time_ms = time_ms


class Transaction:
    """One transaction; `hanging` ones are not ended by fencing."""

    __slots__ = ("epoch", "first", "hanging", "state")

    def __init__(self, epoch: int, first: int) -> None:
        self.epoch = epoch
        self.first = first
        self.state = OPEN
        self.hanging = False


class Disk:
    """What a host keeps of a partition: a store and what it says of itself."""

    def __init__(self) -> None:
        self.store: MemoryStore | None = None
        self.head = LocalHead("", 0, 0)


class Changelog:
    """The changelog of one partition."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.lineage = f"{name}-changelog-1"
        self.epoch = 0
        self.entries: list[Entry] = []
        self.end = 0
        self.open: list[Transaction] = []
        self._taken: list[Entry] = []

    # Writing

    def fence(self) -> int:
        """Initialise the transactional id."""
        self.epoch += 1
        for transaction in self.open:
            if not transaction.hanging:
                transaction.state = ABORTED
        self.open = [t for t in self.open if t.state == OPEN]
        return self.epoch

    def write(self, epoch: int, checkpoint: Checkpoint, now_ms: int) -> Transaction:
        """Begin a transaction and write the checkpoint's records into it. Raises FencedError."""
        self._check(epoch)
        transaction = Transaction(epoch, self.end)
        self.open.append(transaction)
        for table, key, kind, id, value in checkpoint.rows:
            self._add(transaction, ("row", table, key, kind, id), value, now_ms)
        for due_key, due_ms, payload in checkpoint.dues:
            self._add(transaction, ("due", due_key), None if due_ms is None else (due_ms, payload), now_ms)
        self._add(transaction, POSITION, checkpoint.position, now_ms)
        return transaction

    def _check(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise FencedError(self.name)

    def _add(self, transaction: Transaction, key: tuple[str, ...], value: Any, now_ms: int) -> None:
        self.entries.append(Entry(self.end, transaction, key, value, now_ms))
        self.end += 1

    def commit(self, transaction: Transaction) -> None:
        """End a transaction well. Raises FencedError."""
        self._check(transaction.epoch)
        transaction.state = COMMITTED
        self.open.remove(transaction)

    def abort(self, transaction: Transaction) -> None:
        """End a transaction without effect."""
        transaction.state = ABORTED
        self.open.remove(transaction)

    # Reading

    def last_stable_offset(self) -> int:
        """The offset below which every transaction has ended."""
        return min((transaction.first for transaction in self.open), default=self.end)

    def committed(self, from_offset: int = 0) -> list[Entry]:
        """What a reader with isolation read_committed gets."""
        stable = self.last_stable_offset()
        return [
            entry
            for entry in self.entries
            if from_offset <= entry.offset < stable and entry.txn.state == COMMITTED
        ]

    def compact(self, now_ms: int) -> None:
        """Keep the newest of each key; tombstones only for the time they are kept."""
        newest = {entry.key: entry.offset for entry in self.entries if entry.txn.state == COMMITTED}
        self.entries = [
            entry
            for entry in self.entries
            if entry.txn.state == OPEN
            or (
                newest.get(entry.key) == entry.offset
                and (entry.value is not None or now_ms - entry.time_ms < DELETE_RETENTION_MS)
            )
        ]

    # Trouble

    def tear(self) -> bool:
        """Lose a record of the last committed transaction; False when it has none to lose."""
        entries = self.committed()
        last = next((e.txn for e in reversed(entries) if e.key == POSITION), None)
        rows = [entry for entry in entries if entry.txn is last and entry.key != POSITION]
        if rows:
            self.entries.remove(rows[-1])
            self._taken.append(rows[-1])
        return bool(rows)

    def mend(self) -> None:
        """An operator undoes `tear`."""
        self.entries = sorted(self.entries + self._taken, key=lambda entry: entry.offset)
        self._taken = []


class Restoring:
    """The changelog as one takeover sees it; what is restored is in `store`, what of it in `head`."""

    def __init__(self, changelog: Changelog, disk: Disk, now_ms: int) -> None:
        self._changelog = changelog
        self._disk = disk
        self._now_ms = now_ms
        self.epoch = changelog.epoch
        self.store = MemoryStore()
        self.head = LocalHead(changelog.lineage, 0, now_ms)

    def fence(self) -> None:
        """See takeover.Changelog."""
        self.epoch = self._changelog.fence()

    def last_stable_offset(self) -> int:
        """See takeover.Changelog."""
        return self._changelog.last_stable_offset()

    def high_watermark(self) -> int:
        """See takeover.Changelog."""
        return self._changelog.end

    def restore(self) -> Committed:
        """See takeover.Changelog."""
        changelog, disk = self._changelog, self._disk
        stable = changelog.last_stable_offset()
        reason = local_store.reason_to_wipe(
            disk.head,
            lineage=changelog.lineage,
            committed_end=stable,
            now_ms=self._now_ms,
            delete_retention_ms=DELETE_RETENTION_MS,
        )
        since = 0
        if disk.store is not None and not reason:
            self.store = copied(disk.store)
            since = disk.head.changelog_offset
        for entry in changelog.committed(since):
            apply_entry(self.store, changelog, entry)
        last: Entry | None = None
        for entry in changelog.committed():
            if entry.key == POSITION:
                last = entry
        rows, dues = [], []
        for entry in changelog.committed():
            if last is not None and entry.txn is last.txn:
                if entry.key[0] == "row":
                    rows.append((*entry.key[1:], entry.value))
                elif entry.key[0] == "due":
                    dues.append((entry.key[1], *(entry.value or (None, 0))))
        self.head = LocalHead(changelog.lineage, stable, self._now_ms)
        position: Position | None = last.value if last is not None else None
        return Committed(position, tuple(rows), tuple(dues))


def copied(store: MemoryStore) -> MemoryStore:
    """An independent store with the same rows."""
    copy = MemoryStore()
    copy.rows = {place: dict(parts) for place, parts in store.rows.items()}
    copy.dues = {name: dict(dues) for name, dues in store.dues.items()}
    return copy


def apply_entry(store: MemoryStore, changelog: Changelog, entry: Entry) -> None:
    """Bring a store up to one record of the changelog."""
    if entry.key[0] == "row":
        _, table, key, kind, id = entry.key
        parts = store.rows.setdefault((table, changelog.number, key), {})
        if entry.value is None:
            parts.pop((kind, id), None)
        else:
            parts[kind, id] = entry.value
        if not parts:
            del store.rows[table, changelog.number, key]
    elif entry.key[0] == "due":
        dues = store.dues.setdefault(changelog.name, {})
        if entry.value is None:
            dues.pop(entry.key[1], None)
        else:
            dues[entry.key[1]] = entry.value
