"""Timers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow

from ..commands import command, complete, payload, seconds, timer
from ..registry import scenario
from ..world import World


def _cancel(timer_id: str) -> object:
    return command("CANCEL_TIMER", timer_id=timer_id)


@scenario()
async def fire(w: World) -> None:
    await w.start()
    await w.step(timer("t1", 1))
    task = await w.task(record_as="task")
    await w.done(task, complete())
    await w.history()


@scenario()
async def not_early(w: World) -> None:
    """The fired event is at least the timer's length after the started one."""
    await w.start()
    await w.step(timer("short", 0.3), timer("longer", 1.7))
    await w.step()
    await w.step(complete())
    started, fired = {}, {}
    for event in await w.events():
        at = event.event_time.ToNanoseconds()
        if event.HasField("timer_started_event_attributes"):
            started[event.timer_started_event_attributes.timer_id] = at
        if event.HasField("timer_fired_event_attributes"):
            fired[event.timer_fired_event_attributes.timer_id] = at
    w.record("short not early", fired["short"] - started["short"] >= 300_000_000)
    w.record("longer not early", fired["longer"] - started["longer"] >= 1_700_000_000)


@scenario()
async def cancel(w: World) -> None:
    await w.start()
    await w.step(timer("t1", 600))
    await w.signal()
    await w.step(_cancel("t1"))
    await w.history()


@scenario()
async def cancel_same_task(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), timer("t1", 600), _cancel("t1"), timer("t1", 1))
    await w.step(complete())
    await w.history()


@scenario()
async def cancel_unknown(w: World) -> None:
    await w.start()
    await w.try_done("never started", await w.task(), _cancel("nobody"))
    await w.step(timer("t1", 0.1))
    await w.try_done("already fired", await w.task(), _cancel("t1"))
    await w.history()


@scenario()
async def duplicate_id(w: World) -> None:
    await w.start()
    await w.step(timer("t1", 600))
    await w.signal()
    await w.try_done("answer", await w.task(), timer("t1", 5))
    await w.history()


@scenario()
async def id_reuse(w: World) -> None:
    await w.start()
    for _ in range(3):
        await w.step(timer("t1", 0.2))
    await w.step(complete())
    await w.history()


@scenario()
async def bad_interval(w: World) -> None:
    bad = {
        "zero": timer(timeout_s=0),
        "negative": timer(timeout_s=-5),
        "none": command("START_TIMER", timer_id="t1"),
    }
    for name, one in bad.items():
        await w.start(name, queue=name)
        await w.try_done(name, await w.task(name), one)
        w.record(f"{name}: events", (await w.events(name))[3:5])


@scenario()
async def two_order(w: World) -> None:
    await w.start()
    await w.step(timer("second", 2), timer("first", 1))
    await w.step()
    await w.step(complete())
    await w.history()


@scenario()
async def fired_while_task_runs(w: World) -> None:
    await w.start(workflow_task_timeout=seconds(60))
    await w.step(timer("t1", 1))
    await w.signal("wake up")
    task = await w.task()
    await _fired(w, 1.5)
    await w.history(record_as="while the task runs")
    await w.done(task)
    await w.history(record_as="after completion")


async def _fired(w: World, wait_s: float) -> None:
    """Let a timer fire into the buffer, where no client can see it."""
    await asyncio.sleep(wait_s)
    await w.signal("behind the timer")


@scenario()
async def cancel_fired_buffered(w: World) -> None:
    await w.start(workflow_task_timeout=seconds(60))
    await w.step(timer("t1", 1))
    await w.signal("wake up")
    task = await w.task()
    await _fired(w, 1.5)
    await w.try_done("answer", task, _cancel("t1"))
    await w.history()


@scenario()
async def restart_fired_buffered(w: World) -> None:
    """The task during which a timer fired starts a timer of the same id."""
    await w.start(workflow_task_timeout=seconds(60))
    await w.step(timer("t1", 1))
    await w.signal("wake up")
    task = await w.task()
    await _fired(w, 1.5)
    await w.try_done("answer", task, timer("t1", 600))
    await w.history()


@scenario()
async def many(w: World) -> None:
    await w.start()
    await w.step(*(timer(f"t{n}", 1) for n in range(300)))
    await w.wait_event("TIMER_FIRED", count=300)
    events = await w.events()
    fired = {
        e.timer_fired_event_attributes.timer_id for e in events if e.HasField("timer_fired_event_attributes")
    }
    w.record("fired", len(fired))
    w.record("tasks scheduled", sum(e.event_type == 5 for e in events))


@scenario()
async def dropped_on_close(w: World) -> None:
    await w.start()
    await w.step(timer("t1", 1))
    await w.signal()
    await w.step(complete())
    await w.no_task()
    await w.history()


@scenario()
async def long_timer(w: World) -> None:
    await w.start()
    await w.step(
        timer("months", 200 * 24 * 3600),
        timer("years", 20 * 365 * 24 * 3600, user_metadata={"summary": payload("s")}),
    )
    await w.history()


@workflow.defn(name="Sleeper")
class Sleeper:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(timedelta(milliseconds=200))
        long = asyncio.create_task(asyncio.sleep(600))
        await workflow.sleep(timedelta(milliseconds=200))
        long.cancel()
        try:
            await long
        except asyncio.CancelledError:
            return "woke up"
        return "slept"


@scenario(sdk=True)
async def sdk_sleep(w: World) -> None:
    client = await w.client()
    async with w.worker([Sleeper]):
        w.record("result", await client.execute_workflow(Sleeper.run, id=w.id("wf"), task_queue=w.id("tq")))
    await w.history()
