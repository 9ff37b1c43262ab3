"""What an owner passes on beside what waits for acknowledgements and checkpoints; for those see tests/simulation."""

from streams.bodies import Pair
from streams.embedded import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.owner import Owner
from streams.runtime.partition import Partition
from streams.runtime.records import Record
from tests.support.counting import CountingProcessor
from tests.support.memory import MemoryStore


def record(offset: int, what: str, value: str) -> Record:
    return Record(
        *("in", 0, "k", Pair(what, value)),
        source="gateway-1",
        origin_epoch=1,
        origin_offset=offset,
        offset=offset,
        time_ms=1_000,
    )


def test_warnings_wait_for_nothing() -> None:
    store = MemoryStore()
    partition = Partition(CountingProcessor(), 0, store, store, lambda topic, key: 0, lambda topic: 1)
    owner = Owner(partition, "in-1", Codec(BODY_TYPES))
    for offset, (what, value) in enumerate((("warn", "large"), ("add", "1"), ("warn", "larger"))):
        owner.fold(record(offset, what, value))
    assert list(owner.warnings) == ["large", "larger"]
    owner.fold(record(3, "fail", "x"))
    assert owner.must_checkpoint
    assert list(owner.warnings) == ["large", "larger"]
