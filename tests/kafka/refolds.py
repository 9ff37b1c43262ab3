"""What a partition's changelog and local store hold, against what folding its whole log gives."""

from __future__ import annotations

from streams import avro
from streams.kafka import keys
from streams.kafka.admin import Cluster
from streams.kafka.member import ROLES
from streams.kafka.partitions import Partitions
from streams.kafka.rocks import open_store
from streams.kafka.settings import KafkaSettings
from streams.runtime.partition import Partition, Position
from tests.kafka.driving import read_all, records_of
from tests.support.memory import MemoryStore

CACHE_BYTES = 8 * 1024 * 1024


def last_position(settings: KafkaSettings, role: str, partition: int) -> Position:
    """The last position in a changelog."""
    positions = [
        message.value()
        for message in read_all(settings, f"{role}-changelog")
        if message.partition() == partition and message.key() == keys.POSITION
    ]
    return avro.decode(Position, positions[-1])


def check_refold(settings: KafkaSettings, role: str, partition: int) -> None:
    """What a member left on disk is what folding the log up to its position gives, byte for byte.

    What came later, such as a tick that was still on its way when the member left, is the next owner's.
    """
    store = open_store(
        settings.state_directory / settings.prefix / f"{role}-{partition}", CACHE_BYTES, lambda head: ""
    )
    found, position = dict(store.contents()), store.position()
    store.close()
    assert position is not None
    topics = Cluster(settings).check()
    partitions = Partitions({name: topic.partitions for name, topic in topics.items()})
    processor = ROLES[role]()
    memory = MemoryStore()
    name = processor.input_topic
    fold = Partition(
        processor,
        partition,
        memory,
        memory,
        partitions.of,
        partitions.count,
        source=f"{name}/{partition}@{topics[name].id}",
    )
    for record in records_of(settings, name):
        if record.partition == partition and record.offset <= position.offset:
            fold.step(record)
    memory.checkpoint(fold)
    wanted = {
        keys.row_key(table, key, kind, id): value
        for (table, _, key), parts in memory.rows.items()
        for (kind, id), value in parts.items()
    } | {keys.due_key(key): keys.due_value(*due) for key, due in memory.dues[fold.name].items()}
    assert found == wanted
    refolded = fold.position()
    assert (position.offset, position.now_ms) == (refolded.offset, refolded.now_ms)
    assert (position.applied, position.links) == (refolded.applied, refolded.links)
    assert position.logic_version == refolded.logic_version
    assert position == last_position(settings, role, partition)
