"""One partition's fold: origins, chains, time, the step and what it leaves for a checkpoint.

Sans-IO: a log drives it by calling `step` with each record in order, and appends what it returns. `fold.md` rules
2, 3, 5, 7, 9, 10 and 13 live here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable

import msgspec

from streams import avro
from streams.runtime.codec import LoggedRecord
from streams.runtime.context import Context, Partitioner, Processor
from streams.runtime.due import DueIndex, DueStore
from streams.runtime.logic import Logic
from streams.runtime.records import Correlation, Record, Reply, Tick, Undecodable
from streams.runtime.tables import RowStore, StorageError, Table

TICK_LIMIT = 1_000
"""Due keys that one tick pops at most (fold.md rule 2)."""

PARKED_LIMIT = 10_000
"""Records that may wait behind a gap before the partition halts (fold.md rule 10)."""

LETTER_BODY_BYTES = 512 * 1024
"""What a dead letter has of a record's body at most."""

LETTER_REASON_CHARS = LETTER_KEY_CHARS = 2_000

LETTERS_BYTES = 4 * 1024 * 1024
"""What dead letters in one checkpoint may amount to, about: more have to leave first."""

NO_LINK = -1
"""Stands for "no emission before this one" in a record's previous origin."""

INTERNAL = 13
"""gRPC status code of a reply to a record that could not be applied."""


class PartitionHaltedError(Exception):
    """The partition cannot go on without an operator: the message says why."""


class Applied(msgspec.Struct, frozen=True):
    """The highest origin applied from a source."""

    source: str
    epoch: int
    offset: int
    index: int


class Link(msgspec.Struct, frozen=True):
    """The origin of the last emission on a channel."""

    channel: str
    offset: int
    index: int


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that changed nothing, with the reason and where it stood."""

    source: str
    offset: int
    key: str
    type: str
    reason: str
    body: bytes


def dead_letter(source: str, record: Record, reason: str, key: str = "") -> DeadLetter:
    """The letter of a record of `source`; `key` is what it is about, the record's own unless given.

    It has to fit into a checkpoint, and into a record (fold.md rule 8): of a body too large it has the beginning.
    """
    body = record.body
    data = body.data if isinstance(body, Undecodable) else avro.encode(body)
    reason = reason[:LETTER_REASON_CHARS]
    if len(data) > LETTER_BODY_BYTES:
        reason += f" (these are the first {LETTER_BODY_BYTES} of its {len(data)} bytes)"
        data = data[:LETTER_BODY_BYTES]
    key = (key or record.key)[:LETTER_KEY_CHARS]
    return DeadLetter(source, record.offset, key, type(body).__name__, reason, data)


class Position(msgspec.Struct, frozen=True):
    """What a checkpoint stands for: everything up to `offset` is in it.

    `row_count` and `checksum` are of the rows written with it (fold.md rule 14); `topic_id` and `leader_epoch`
    let a restore recognise another log under the same name (rule 3); `logic_version` is the one in force (rule 9).
    `parked` are offsets of records that wait behind a gap; `letters` are verdicts whose dead letters may not have
    left yet, `outbox` what the step of such a verdict emitted (rule 7).
    """

    offset: int
    now_ms: int
    topic_id: str = ""
    leader_epoch: int = 0
    logic_version: int = 0
    row_count: int = 0
    checksum: int = 0
    applied: tuple[Applied, ...] = ()
    links: tuple[Link, ...] = ()
    parked: tuple[int, ...] = ()
    letters: tuple[DeadLetter, ...] = ()
    outbox: tuple[LoggedRecord, ...] = ()


class Outcome:
    """What a step leaves: records to append, replies to send, verdicts if there were any, sentences to log."""

    __slots__ = ("emissions", "replies", "verdicts", "warnings")

    def __init__(self) -> None:
        self.emissions: list[Record] = []
        self.replies: list[tuple[Correlation, Reply]] = []
        self.verdicts: list[DeadLetter] = []
        self.warnings: list[str] = []


class Partition:
    """The fold of one input partition by one processor.

    `partitioner` gives the partition of a key in a topic; `partition_counts` how many partitions a topic has, for
    broadcasts. `supported_logic` is the newest logic version of its code, that of this release unless given.
    `source` is what emissions name as their source, the partition's name unless given: where a topic may be made anew
    under its name, it has to tell the one from the other (fold.md rule 3).
    """

    def __init__(
        self,
        processor: Processor,
        number: int,
        rows: RowStore,
        dues: DueStore,
        partitioner: Partitioner,
        partition_counts: Callable[[str], int],
        cache_parts: int = 20_000,
        supported_logic: int | None = None,
        source: str | None = None,
    ) -> None:
        self.processor = processor
        self.number = number
        self.name = f"{processor.input_topic}/{number}"
        self.source = self.name if source is None else source
        self.due = DueIndex(self.name, dues)
        self.tables = {spec.name: Table(spec, number, rows, cache_parts) for spec in processor.tables}
        self.logic = Logic(self.name, supported_logic)
        self.offset = -1
        self.now_ms = 0
        self._context = Context(number, self.tables, self.due)
        self._partitioner = partitioner
        self._partition_counts = partition_counts
        self._applied: dict[str, tuple[int, int, int]] = {}
        self._links: dict[str, tuple[int, int]] = {}
        self._parked: dict[str, dict[tuple[int, int, int], Record]] = {}

    def restore(self, position: Position, parked: Iterable[Record] = ()) -> None:
        """Start from a checkpoint's position, its rows being in the stores given, and its parked records.

        Raises UnsupportedLogicError when other code has to fold on from there.
        """
        parked = list(parked)
        self.logic.restore(position.logic_version, parked)
        self.offset = position.offset
        self.now_ms = position.now_ms
        self._applied = {a.source: (a.epoch, a.offset, a.index) for a in position.applied}
        self._links = {link.channel: (link.offset, link.index) for link in position.links}
        for record in parked:
            self._parked.setdefault(record.source, {})[_origin(record)] = record

    def newest_epoch(self) -> int:
        """The highest epoch of any gateway it has applied records of, 0 for none."""
        return max((epoch for epoch, _, _ in self._applied.values()), default=0)

    def last_emissions(self, topic: str) -> dict[int, tuple[int, int]]:
        """Offset and index of the origin of its last emission to each partition of a topic that it has emitted to."""
        prefix = f"{topic}/"
        return {
            int(channel.removeprefix(prefix)): link
            for channel, link in self._links.items()
            if channel.startswith(prefix)
        }

    def position(self, row_count: int = 0, checksum: int = 0) -> Position:
        """What a checkpoint taken now stands for."""
        return Position(
            offset=self.offset,
            now_ms=self.now_ms,
            logic_version=self.logic.version,
            row_count=row_count,
            checksum=checksum,
            applied=tuple(Applied(source, *self._applied[source]) for source in sorted(self._applied)),
            links=tuple(Link(channel, *self._links[channel]) for channel in sorted(self._links)),
            parked=tuple(sorted(r.offset for records in self._parked.values() for r in records.values())),
        )

    def step(self, record: Record) -> Outcome:
        """Fold one record and return what it leaves.

        Raises PartitionHaltedError when a gap cannot be waited out, StorageError when a store fails, and
        UnsupportedLogicError, with nothing changed, when other code has to fold on from here.
        """
        marker = self.logic.take(record)
        self._context.logic_version = self.logic.version
        self.offset = record.offset
        self.now_ms = max(self.now_ms, record.time_ms)
        outcome = Outcome()
        if marker:
            return outcome
        if isinstance(record.body, Tick) and record.source == self.source:
            self._tick(record, outcome)
        elif self._is_next(record):
            self._apply(record, outcome)
            if record.source in self._parked:
                self._unpark(record.source, outcome)
        return outcome

    def _tick(self, record: Record, outcome: Outcome) -> None:
        """Pop what is due one by one, so that what one key's step cancels or puts off does not fire."""
        for _ in range(TICK_LIMIT):
            taken = self.due.pop_due(self.now_ms, 1)
            if not taken:
                return
            key, _, payload = taken[0]
            self._guarded(record, outcome, (key, payload))

    def _is_next(self, record: Record) -> bool:
        """Whether the record is the next of its source; duplicates are dropped, records behind a gap parked."""
        origin = _origin(record)
        last = self._applied.get(record.source)
        if last is not None and origin <= last:
            return False
        if record.previous_offset == NO_LINK:
            if last is not None and not record.from_gateway:
                raise PartitionHaltedError(f"{self.name}: {record!r} starts a chain that has already begun")
            return True
        if last is not None and (record.previous_offset, record.previous_index) == last[1:]:
            return True
        parked = self._parked.setdefault(record.source, {})
        if len(parked) >= PARKED_LIMIT:
            raise PartitionHaltedError(
                f"{self.name}: {PARKED_LIMIT} records of {record.source} wait behind a gap"
            )
        parked[origin] = record
        return False

    def _unpark(self, source: str, outcome: Outcome) -> None:
        parked = self._parked[source]
        for origin in sorted(parked):
            last = self._applied[source]
            record = parked[origin]
            if origin > last and (record.previous_offset, record.previous_index) != last[1:]:
                break
            del parked[origin]
            if origin > last:
                self._apply(record, outcome)
        if not parked:
            del self._parked[source]

    @property
    def parked_count(self) -> int:
        """Records waiting behind a gap. A checkpoint names them; the log has to keep them."""
        return sum(len(records) for records in self._parked.values())

    def _apply(self, record: Record, outcome: Outcome) -> None:
        self._applied[record.source] = _origin(record)
        self._guarded(record, outcome)

    def _guarded(self, record: Record, outcome: Outcome, due: tuple[str, int] | None = None) -> None:
        """Run pure code as a step of its own: kept whole, or undone and judged (fold.md rule 7).

        `due` is the key that fell due and its payload, when that is what the step is about.
        """
        context = self._context
        context.begin(record, self.now_ms)
        try:
            if due is not None:
                self.processor.due(context, *due)
            elif isinstance(record.body, Undecodable):
                raise avro.DecodeError(record.body.reason)
            else:
                self.processor.fold(context, record)
        except (StorageError, MemoryError):
            context.revert()
            raise
        except Exception as error:
            context.revert()
            self._judge(record, outcome, error, due[0] if due else "")
            return
        self._keep(outcome)

    def _judge(self, record: Record, outcome: Outcome, error: Exception, due_key: str) -> None:
        reason = f"{type(error).__name__}: {error}"
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason += f" (in {where.name}, line {where.lineno})"
        letter = dead_letter(self.source, record, reason, due_key)
        outcome.verdicts.append(letter)
        context = self._context
        context.begin(record, self.now_ms)
        try:
            self.processor.judged(context, record, letter.reason)
        except (StorageError, MemoryError):
            context.revert()
            raise
        except Exception:
            context.revert()
        if record.correlation is not None and not context.replies:
            context.reply(
                record.correlation,
                Reply(code=INTERNAL, message="the record could not be applied; it changed nothing"),
            )
        self._keep(outcome)

    def _keep(self, outcome: Outcome) -> None:
        context = self._context
        context.keep()
        outcome.replies.extend(context.replies)
        outcome.warnings.extend(context.warnings)
        for topic, key, partition, body, correlation in context.emissions:
            if partition is None:
                self._emit(outcome, topic, self._partitioner(topic, key), key, body, correlation)
            else:
                for number in range(self._partition_counts(topic)):
                    self._emit(outcome, topic, number, key, body, correlation)

    def _emit(
        self,
        outcome: Outcome,
        topic: str,
        partition: int,
        key: str,
        body: object,
        correlation: Correlation | None,
    ) -> None:
        index = len(outcome.emissions)
        channel = f"{topic}/{partition}"
        previous = self._links.get(channel, (NO_LINK, NO_LINK))
        self._links[channel] = (self.offset, index)
        outcome.emissions.append(
            Record(
                topic,
                partition,
                key,
                body,
                source=self.source,
                origin_offset=self.offset,
                index=index,
                previous_offset=previous[0],
                previous_index=previous[1],
                correlation=correlation,
            )
        )


def _origin(record: Record) -> tuple[int, int, int]:
    return (record.origin_epoch, record.origin_offset, record.index)
