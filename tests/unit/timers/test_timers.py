"""The timer processor: never early, in order, the last arming counts."""

from __future__ import annotations

import random

from streams.bodies import FireTimer, SetTimer, StickyUnavailable
from streams.timer_processor import TimerProcessor
from tests.support.folding import START_MS, Folding, emitted

MONTH_MS = 30 * 86_400_000


def arm(folding: Folding, run: str, due_ms: int, version: int = 1, workflow: str = "w") -> None:
    folding.send(SetTimer("ns", workflow, run, due_ms, version), f"ns/{workflow}")


def fired(folding: Folding, for_ms: int) -> list[tuple[str, int]]:
    return [(body.run_id, body.version) for step in folding.pass_time(for_ms) for body in emitted(step)]


def test_a_timer_fires_as_a_command_of_its_workflow() -> None:
    folding = Folding(TimerProcessor)
    arm(folding, "run", START_MS + 10, version=7, workflow="a/b\x1fc/d")
    [record] = folding.tick(after_ms=10).emissions
    assert (record.topic, record.key) == ("commands", "ns/a/b\x1fc/d")
    assert record.body == FireTimer("ns", "a/b\x1fc/d", "run", 7)
    assert emitted(folding.tick(after_ms=1_000)) == []
    folding.check_refold()


def test_never_early() -> None:
    folding = Folding(TimerProcessor)
    arm(folding, "run", START_MS + 1_000)
    assert emitted(folding.tick(after_ms=999)) == []
    folding.restart()
    assert emitted(folding.tick()) == []
    assert len(emitted(folding.tick(after_ms=1))) == 1


def test_time_does_not_go_back() -> None:
    folding = Folding(TimerProcessor)
    folding.tick(after_ms=5_000)
    folding.now_ms -= 4_000
    arm(folding, "run", START_MS + 5_000)
    assert len(emitted(folding.tick())) == 1, "the partition has been later than the clock says"


def test_arming_again_replaces_and_zero_disarms() -> None:
    folding = Folding(TimerProcessor)
    arm(folding, "later", START_MS + 10, 1)
    arm(folding, "later", START_MS + 30, 2)
    arm(folding, "sooner", START_MS + 30, 1)
    arm(folding, "sooner", START_MS + 10, 2)
    arm(folding, "never", START_MS + 10, 1)
    folding.restart()
    arm(folding, "never", 0, 2)
    assert fired(folding, 20) == [("sooner", 2)]
    assert fired(folding, 20) == [("later", 2)]
    folding.check_refold()
    folding.store.checkpoint(folding.partition)
    assert folding.store.dues == {"timers/0": {}}


def test_a_timer_of_the_past_fires_with_the_next_tick() -> None:
    folding = Folding(TimerProcessor)
    arm(folding, "run", START_MS - 5)
    assert len(emitted(folding.tick())) == 1


def test_timers_pop_in_order_of_time_then_key() -> None:
    folding = Folding(TimerProcessor)
    for run, due in (("c", 20), ("a", 20), ("d", 10), ("b", 20)):
        arm(folding, run, START_MS + due)
    assert [body.run_id for body in emitted(folding.tick(after_ms=20))] == ["d", "a", "b", "c"]


def test_months_ahead_cost_no_memory_and_fire() -> None:
    folding = Folding(TimerProcessor)
    for i in range(100):
        arm(folding, f"run{i:03d}", START_MS + MONTH_MS + i)
    folding.tick()
    folding.restart()
    folding.tick()
    assert folding.partition.due.next_due_ms() < START_MS + 3_600_000
    assert fired(folding, MONTH_MS - 1) == []
    assert fired(folding, 50) == [(f"run{i:03d}", 1) for i in range(50)]


def test_ten_thousand_timers_fire_once_each_a_thousand_a_tick() -> None:
    folding = Folding(TimerProcessor)
    chance = random.Random(5)
    due = {f"run{i:05d}": START_MS + chance.randrange(1, 2_000_000) for i in range(10_000)}
    for i, (run, due_ms) in enumerate(due.items()):
        arm(folding, run, due_ms, workflow=f"w{i % 10}")
        if i == 5_000:
            folding.checkpoint()
    steps = [folding.tick(after_ms=1_000_000), *folding.pass_time(0), *folding.pass_time(1_000_000)]
    seen = [body.run_id for step in steps for body in emitted(step)]
    assert all(len(step.emissions) <= 1_000 for step in steps)
    assert seen == sorted(due, key=lambda run: (due[run], f"ns\x1fw{int(run[3:]) % 10}\x1f{run}"))
    folding.check_refold()


def test_a_body_of_another_topic_is_a_verdict() -> None:
    folding = Folding(TimerProcessor)
    outcome = folding.send(StickyUnavailable("ns", "a", "r", "workflow", 1, 1, 0, ""), "ns/a")
    assert "does not belong" in outcome.verdicts[0].reason
