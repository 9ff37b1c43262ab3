"""How rare checkpoints get when they are dear."""

from streams.kafka.checkpoint_writer import next_age_ms


def test_checkpoints_are_as_old_as_wanted_while_they_cost_little() -> None:
    assert next_age_ms(1_000, 0.0) == next_age_ms(1_000, 0.05) == 1_000


def test_checkpoints_that_take_longer_are_rarer() -> None:
    assert next_age_ms(1_000, 0.2) == 4_000


def test_one_that_had_to_wait_for_a_broker_holds_the_next_up_for_a_while_only() -> None:
    assert next_age_ms(1_000, 60.0) == 10_000
