"""An owner counts as silent when work waits for longer than it usually does, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from streams.kafka.silence import KEEP_S, LEAST_S, Silences

LOOK_S = 0.5


class Owner:
    """A partition as others see it, from one look to the next: one that writes a checkpoint every `checkpoint_s`."""

    def __init__(self, checkpoint_s: float = 1.0) -> None:
        self.silences = Silences(1.0)
        self.now_s = self.written_s = 0.0
        self.input = self.changelog = 0
        self._checkpoint_s = checkpoint_s

    def works(self, seconds: float) -> bool:
        """Whether it ever counts as silent while work comes and is done, up to a checkpoint."""
        looks = [self._look(work=True, alive=True) for _ in _looks(seconds)]
        while self.written_s < self.now_s:
            looks.append(self._look(work=True, alive=True))
        return any(looks)

    def is_gone(self, seconds: float, *, work: bool = True) -> bool:
        """Whether it counts as silent in the end, having done nothing for so long."""
        return [self._look(work=work, alive=False) for _ in _looks(seconds)][-1]

    def _look(self, *, work: bool, alive: bool) -> bool:
        self.now_s += LOOK_S
        self.input += work
        if alive and self.now_s >= self.written_s + self._checkpoint_s:
            self.changelog += 1
            self.written_s = self.now_s
        self.silences.note(self.now_s, {0: self.input}, {0: self.changelog})
        return 0 in self.silences.silent(self.now_s)


def _looks(seconds: float) -> Iterable[int]:
    return range(int(seconds / LOOK_S))


def test_one_that_does_its_work_is_not_silent_and_one_that_is_gone_soon_is() -> None:
    owner = Owner()
    assert not owner.works(60)
    assert not owner.is_gone(LEAST_S)
    assert owner.is_gone(2 * LOOK_S)


def test_one_without_work_is_not_silent() -> None:
    owner = Owner()
    owner.works(10)
    assert not owner.is_gone(1000, work=False)
    quiet = Owner()
    assert not quiet.is_gone(1000, work=False)


def test_one_that_writes_seldom_has_longer() -> None:
    owner = Owner(checkpoint_s=10.0)
    owner.works(60)  # the first time it takes by surprise
    owner.now_s += KEEP_S
    assert not owner.works(60)
    assert not owner.is_gone(15)
    assert owner.is_gone(10)


def test_a_long_wait_is_forgotten_after_a_while() -> None:
    owner = Owner()
    owner.works(10)
    owner.is_gone(600)
    assert owner.works(1)
    owner.works(60)
    owner.works(60)
    assert not owner.is_gone(LEAST_S)
    assert owner.is_gone(2 * LOOK_S)


def test_one_that_came_back_counts_as_silent_for_a_while_longer() -> None:
    owner = Owner()
    owner.works(10)
    assert owner.is_gone(5)
    assert owner.works(LOOK_S)
    owner.works(KEEP_S)
    assert not owner.works(LOOK_S)


def test_a_partition_that_is_not_looked_at_any_more_is_forgotten() -> None:
    owner = Owner()
    owner.works(10)
    assert owner.is_gone(5)
    owner.silences.note(owner.now_s, {}, {})
    assert not owner.silences.silent(owner.now_s)
    assert not owner.is_gone(LEAST_S)
