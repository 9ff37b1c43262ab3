"""The ownership of one partition: what may leave when, and when a checkpoint may be written.

Sans-IO: a driver hands in the records of the log, appends what is in `emissions`, sends `replies` and
`letters`, reports what was acknowledged, and writes the checkpoints it is given. Any failed append ends the
ownership: the driver drops this object and takes the partition over again (fold.md rule 11). Rules 4, 7, 9,
13 and 14 live here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from streams.runtime import checkpoints
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.codec import Codec
from streams.runtime.logic import UnsupportedLogicError
from streams.runtime.partition import LETTERS_BYTES, DeadLetter, Outcome, Partition, Position
from streams.runtime.records import Correlation, Record, Reply


class Owner:
    """One partition in one owner's hands, from its takeover on.

    `emissions` are to be appended in order within each channel. `replies` carry the offset they are to be
    acknowledged with; `letters` go to `dead-letters`, where (source, offset) is their identity. `warnings` are
    sentences for the operator's log, which nothing waits for.
    `leaving` says why another release's code has to fold on, once it has to: nothing more is folded here.
    """

    def __init__(self, partition: Partition, topic_id: str, codec: Codec) -> None:
        self.partition = partition
        self.emissions: deque[Record] = deque()
        self.replies: deque[tuple[int, Correlation, Reply]] = deque()
        self.letters: deque[DeadLetter] = deque()
        self.warnings: deque[str] = deque()
        self.leaving: UnsupportedLogicError | None = None
        self._topic_id = topic_id
        self._codec = codec
        self._leader_epoch = 0
        self._unacknowledged: dict[int, int] = {}
        self._unsent_letters: list[DeadLetter] = []
        self._verdicts: list[DeadLetter] = []
        self._held: Outcome | None = None
        self._cut: Checkpoint | None = None
        self._written_parked: tuple[int, ...] = ()
        self._checkpointed = partition.offset

    def resume(self, position: Position, parked: Iterable[Record]) -> None:
        """Go on from a checkpoint: its verdicts are told again, and what they held back leaves.

        Raises UnsupportedLogicError.
        """
        self.partition.restore(position, parked)
        self._checkpointed = position.offset
        self._written_parked = position.parked
        self.letters.extend(position.letters)
        self._unsent_letters.extend(position.letters)
        self._release([self._codec.logged(record) for record in position.outbox], [])

    @property
    def checkpointed(self) -> int:
        """The offset up to which checkpoints stand, -1 for none."""
        return self._checkpointed

    @property
    def must_checkpoint(self) -> bool:
        """Whether a verdict waits for the checkpoint that covers it: until then nothing more may be folded.

        It is never judged again by other code, since neither its reply nor its letter, nor anything its step
        emitted, leaves before that (fold.md rule 7).
        """
        return bool(self._verdicts)

    @property
    def may_release(self) -> bool:
        """Whether everything folded before `leaving` is out and in a checkpoint: the next owner begins there.

        Releasing earlier does no harm, but leaves the next owner more to fold again.
        """
        return (
            self.leaving is not None
            and self._checkpointed == self.partition.offset
            and not (self._unacknowledged or self._unsent_letters)
        )

    def fold(self, record: Record, leader_epoch: int = 0) -> None:
        """Fold one record, unless that takes another release's code. `leader_epoch` is that of the log at its offset.

        Raises PartitionHaltedError, StorageError; either ends the ownership.
        """
        assert not self._verdicts, "a verdict is not yet covered by a checkpoint"
        assert self.leaving is None, "another release has to fold on"
        try:
            outcome = self.partition.step(record)
        except UnsupportedLogicError as error:
            self.leaving = error
            return
        self._leader_epoch = leader_epoch
        self.warnings.extend(outcome.warnings)
        if outcome.verdicts:
            self._verdicts, self._held = outcome.verdicts, outcome
        else:
            self._release(outcome.emissions, outcome.replies)

    def _release(self, emissions: Sequence[Record], replies: Sequence[tuple[Correlation, Reply]]) -> None:
        """Let what one step left go out. All of it has the step's offset as its origin."""
        if emissions or replies:
            offset = self.partition.offset
            self._unacknowledged[offset] = len(emissions) + len(replies)
            self.emissions.extend(emissions)
            self.replies.extend((offset, correlation, reply) for correlation, reply in replies)

    def acknowledge(self, offset: int) -> None:
        """One emission or reply with this origin is durable where it went."""
        left = self._unacknowledged.get(offset, 0) - 1
        if left > 0:
            self._unacknowledged[offset] = left
        else:
            self._unacknowledged.pop(offset, None)

    def letter_acknowledged(self, letter: DeadLetter) -> None:
        """The letter is durable in `dead-letters`."""
        self._unsent_letters.remove(letter)

    def cut(self) -> bool:
        """Freeze a checkpoint of everything folded; False while one is under way, nothing is new, or letters have to
        arrive first for it not to grow too large.
        """
        if self._cut is not None or self.partition.offset <= self._checkpointed:
            return False
        if sum(len(letter.body) for letter in self._unsent_letters) > LETTERS_BYTES:
            return False
        outbox = [] if self._held is None else self._held.emissions
        self._cut = checkpoints.cut(
            self.partition,
            topic_id=self._topic_id,
            leader_epoch=self._leader_epoch,
            letters=(*self._unsent_letters, *self._verdicts),
            outbox=tuple(map(self._codec.to_logged, outbox)),
        )
        return True

    def writable(self) -> Checkpoint | None:
        """The checkpoint to write now: the one cut, once everything emitted up to it is acknowledged.

        The same one until `written`: after anything but a clear success it is written again.
        """
        if self._cut is None:
            return None
        first = next(iter(self._unacknowledged), None)
        return None if first is not None and first <= self._cut.position.offset else self._cut

    def written(self) -> None:
        """The checkpoint is committed: what waited for it may leave."""
        assert self._cut is not None
        position, self._cut = self._cut.position, None
        self._checkpointed = position.offset
        self._written_parked = position.parked
        checkpoints.release(self.partition)
        if self._held is not None and position.offset == self.partition.offset:
            self.letters.extend(self._verdicts)
            self._unsent_letters.extend(self._verdicts)
            held, self._held, self._verdicts = self._held, None, []
            self._release(held.emissions, held.replies)

    def deletable_below(self, materialised: int, safety_span: int) -> int:
        """Records below this offset may be deleted from the log (fold.md rule 4).

        `materialised` is how far readers of what the partition emits have got, as an offset of its input.
        """
        needed = min((self._checkpointed + 1, materialised + 1, *self._written_parked))
        return max(0, needed - safety_span)
