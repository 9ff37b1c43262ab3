"""The ownership of one partition: what may leave when, and when a checkpoint may be written.

Sans-IO: a driver hands in the records of the log, appends what is in `emissions`, sends `replies` and
`letters`, reports what was acknowledged, and writes the checkpoints it is given. Any failed append ends the
ownership: the driver drops this object and takes the partition over again (fold.md rule 11). Rules 4, 7, 13 and
14 live here.
"""

from __future__ import annotations

from collections import deque

from streams.runtime import checkpoints
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.partition import DeadLetter, Partition
from streams.runtime.records import Correlation, Record, Reply


class Owner:
    """One partition in one owner's hands, from its takeover on.

    `emissions` are to be appended in order within each channel. `replies` carry the offset they are to be
    acknowledged with; `letters` go to `dead-letters`, where (source, offset) is their identity.
    """

    def __init__(self, partition: Partition, topic_id: str, letters: tuple[DeadLetter, ...] = ()) -> None:
        self.partition = partition
        self.emissions: deque[Record] = deque()
        self.replies: deque[tuple[int, Correlation, Reply]] = deque()
        self.letters: deque[DeadLetter] = deque(letters)
        self._topic_id = topic_id
        self._leader_epoch = 0
        self._unacknowledged: dict[int, int] = {}
        self._unsent_letters: list[DeadLetter] = list(letters)
        self._verdicts: list[DeadLetter] = []
        self._held: list[tuple[int, Correlation, Reply]] = []
        self._cut: Checkpoint | None = None
        self._written_parked: tuple[int, ...] = ()
        self._checkpointed = partition.offset

    @property
    def checkpointed(self) -> int:
        """The offset up to which checkpoints stand, -1 for none."""
        return self._checkpointed

    @property
    def must_checkpoint(self) -> bool:
        """Whether a verdict waits for the checkpoint that covers it: until then nothing more may be folded.

        It is never judged again by other code, since neither its reply nor its letter, nor anything emitted
        later, leaves before that (fold.md rule 7).
        """
        return bool(self._verdicts)

    def fold(self, record: Record, leader_epoch: int = 0) -> None:
        """Fold one record. `leader_epoch` is that of the log at its offset.

        Raises PartitionHaltedError, StorageError; either ends the ownership.
        """
        assert not self._verdicts, "a verdict is not yet covered by a checkpoint"
        outcome = self.partition.step(record)
        self._leader_epoch = leader_epoch
        replies = [(record.offset, correlation, reply) for correlation, reply in outcome.replies]
        if outcome.verdicts:
            self._verdicts = outcome.verdicts
            self._held = replies
            replies = []
        awaited = len(outcome.emissions) + len(replies)
        if awaited:
            self._unacknowledged[record.offset] = awaited
            self.emissions.extend(outcome.emissions)
            self.replies.extend(replies)

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
        """Freeze a checkpoint of everything folded; False while one is under way or nothing is new."""
        if self._cut is not None or self.partition.offset <= self._checkpointed:
            return False
        letters = (*self._unsent_letters, *self._verdicts)
        self._cut = checkpoints.cut(self.partition, self._topic_id, self._leader_epoch, letters)
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
        if self._verdicts and position.offset >= self._verdicts[-1].offset:
            self.letters.extend(self._verdicts)
            self._unsent_letters.extend(self._verdicts)
            self.replies.extend(self._held)
            self._verdicts, self._held = [], []

    def deletable_below(self, materialised: int, safety_span: int) -> int:
        """Records below this offset may be deleted from the log (fold.md rule 4).

        `materialised` is how far readers of what the partition emits have got, as an offset of its input.
        """
        needed = min((self._checkpointed + 1, materialised + 1, *self._written_parked))
        return max(0, needed - safety_span)
