"""How far histories are in the store, by partition of the commands they come from."""

from streams.kafka.materialised import offsets
from streams.runtime.partition import Applied, Position


def test_a_partition_is_as_far_as_the_slowest_of_those_it_writes_to() -> None:
    positions = {
        0: Position(50, 0, applied=(Applied("commands/0@id", 0, 40, 1), Applied("commands/1@id", 0, 7, 0))),
        1: Position(9, 0, applied=(Applied("commands/1@id", 0, 12, 2),)),
    }
    assert offsets(positions) == {0: 40, 1: 7}


def test_what_comes_from_elsewhere_does_not_count() -> None:
    assert (
        offsets({0: Position(3, 0, applied=(Applied("damaged", 1, 3, 0), Applied("tasks/0@id", 0, 1, 0)))})
        == {}
    )
