"""Which owners have fallen silent: work waits for a partition, and its changelog stands still for longer than it does.

An owner writes a checkpoint of what it folds within a second or so, and later, but with a rhythm of its own, where
writing them takes long. So others can tell that one may be gone, well before its session is over (decision 0014).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

LEAST_S: Final = 2.0
"""For how long at least work has to wait."""
RHYTHMS: Final = 2.0
"""And for how many times as long as it usually does."""
_FORGET: Final = 0.8
"""What a long wait counts for after each one that was not as long."""
KEEP_S: Final = 60.0
"""How long an owner counts as silent after it was."""


class _Rhythm(msgspec.Struct):
    """Of one partition: where both logs were when its changelog moved last, and how long work waits for that."""

    input_end: int
    changelog_end: int
    usual_s: float
    waits_since_s: float | None = None
    silent_until_s: float = 0.0


class Silences:
    """Looks at partitions again and again. `usual_s` is how far apart checkpoints are until that has been seen."""

    def __init__(self, usual_s: float) -> None:
        self._usual_s = usual_s
        self._rhythms: dict[int, _Rhythm] = {}

    def note(self, now_s: float, inputs: Mapping[int, int], changelogs: Mapping[int, int]) -> None:
        """Where the logs that partitions fold and their changelogs end now. Others are forgotten."""
        for number in self._rhythms.keys() - changelogs.keys():
            del self._rhythms[number]
        for number, changelog_end in changelogs.items():
            input_end = inputs[number]
            rhythm = self._rhythms.get(number)
            if rhythm is None:
                self._rhythms[number] = _Rhythm(input_end, changelog_end, self._usual_s)
            elif changelog_end != rhythm.changelog_end:
                if rhythm.waits_since_s is not None:
                    rhythm.usual_s = max(now_s - rhythm.waits_since_s, rhythm.usual_s * _FORGET)
                rhythm.input_end, rhythm.changelog_end, rhythm.waits_since_s = input_end, changelog_end, None
            elif rhythm.waits_since_s is None:
                rhythm.waits_since_s = now_s if input_end > rhythm.input_end else None
            elif now_s - rhythm.waits_since_s >= max(LEAST_S, RHYTHMS * rhythm.usual_s):
                rhythm.silent_until_s = now_s + KEEP_S

    def silent(self, now_s: float) -> frozenset[int]:
        """The partitions whose owners are silent, or were a moment ago."""
        return frozenset(number for number, rhythm in self._rhythms.items() if rhythm.silent_until_s > now_s)
