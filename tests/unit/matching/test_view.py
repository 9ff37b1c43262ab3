"""What a queue keeps in memory agrees with its parts after any step, kept or undone."""

from __future__ import annotations

import random

import pytest

from streams.bodies import AddTask, Poll
from streams.matching.rates import NEVER, Pace, rate_uhz, ready_ms, used
from streams.matching.state import QueuedTask
from streams.matching.view import QueueView, place_after, place_before, view_of
from streams.runtime.tables import Entity


def put_task(view: QueueView, entity: Entity, number: int, *, at_head: bool, urgent: bool) -> None:
    task = AddTask("ns", "q", "workflow", "w", "r", 1, 1, 0, at_head=at_head, urgent=urgent)
    entity.put("task", view.tasks.place_for(task), QueuedTask(number * 100, task))


def drained(view: QueueView, entity: Entity) -> tuple[list[str], list[str], list[int]]:
    """Take everything out by way of the view: tasks, polls by place, and deadlines, each in order."""
    tasks, polls, deadlines = [], [], []
    while view.tasks:
        tasks.append(view.tasks.first)
        entity.drop("task", tasks[-1])
    while (lapse := view.next_lapse()) is not None:
        deadlines.append(lapse[0])
        if len(deadlines) % 2:
            entity.drop("poll", lapse[1])
        else:
            polls.append(view.head_of_polls())
            deadlines[-1] = -view.waiting[polls[-1]].deadline_ms
            entity.drop("poll", polls[-1])
    assert not view.polls
    assert not view.places
    return tasks, polls, deadlines


@pytest.mark.parametrize("seed", range(60))
def test_the_view_agrees_with_the_parts(seed: int) -> None:
    chance = random.Random(seed)
    entity = Entity("ns/q/workflow/0")
    view = view_of(entity, None)
    number = 0
    for _ in range(chance.randrange(10, 120)):
        for _ in range(chance.randrange(1, 6)):
            number += 1
            pick = chance.random()
            line = view.tasks
            if pick < 0.4:
                put_task(view, entity, number, at_head=pick > 0.3, urgent=chance.random() < 0.4)
            elif pick < 0.5 and line:
                entity.drop("task", chance.choice([line.first, *sorted(entity.group("task"))]))
            elif pick < 0.8:
                end = place_after(view.end_of_polls()) if pick < 0.7 else place_before(view.head_of_polls())
                entity.put("poll", end, Poll(chance.choice("ab"), 1, number, number * 7 % 90, "", b"", "q"))
            elif view.waiting:
                entity.drop("poll", chance.choice(sorted(view.waiting)))
        if chance.random() < 0.3:
            entity.revert()
        else:
            entity.keep()
    other = Entity(entity.key)
    other.parts = {kind: dict(group) for kind, group in entity.parts.items()}
    assert view.waiting == entity.group("poll")
    assert drained(view, entity) == drained(view_of(other, None), other)


def test_a_rate_lets_a_second_of_tasks_out_at_once_and_then_keeps_its_pace() -> None:
    now_ms, pace, times = 1_000_000, Pace(rate_uhz(10.0), 0), []
    for _ in range(40):
        now_ms = ready_ms(pace, now_ms)
        times.append(now_ms - 1_000_000)
        pace = used(pace, now_ms)
    assert times == [0] * 10 + [100 * i for i in range(1, 31)]


def test_rates_of_requests() -> None:
    assert rate_uhz(0.5) == 500_000
    assert rate_uhz(-3.0) == 0
    assert ready_ms(Pace(0, 0), 5) == NEVER
    assert rate_uhz(100_000.0) == rate_uhz(float("inf")) == rate_uhz(float("nan")) == -1
    slow = used(Pace(rate_uhz(0.5), 0), 10_000)
    assert ready_ms(slow, 10_000) == 12_000
