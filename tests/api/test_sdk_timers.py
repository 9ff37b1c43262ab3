"""Timers."""

import asyncio
import time
from datetime import timedelta

from temporalio import workflow
from temporalio.api.enums.v1 import EventType

from tests.api.sdk_environment import SdkEnvironment, event_types_of, events_of, wait_for_event


@workflow.defn
class Sleep:
    @workflow.run
    async def run(self, seconds: float) -> float:
        before_s = workflow.time()
        await workflow.sleep(seconds)
        return workflow.time() - before_s


@workflow.defn
class FirstOfTwoTimers:
    """Cancels a long timer once a short one has fired."""

    @workflow.run
    async def run(self) -> str:
        short = asyncio.create_task(workflow.sleep(timedelta(milliseconds=50)))
        long = asyncio.create_task(workflow.sleep(timedelta(days=90)))
        await short
        long.cancel()
        try:
            await long
        except asyncio.CancelledError:
            return "long one cancelled"
        return "long one fired"


@workflow.defn
class ManyTimers:
    @workflow.run
    async def run(self, count: int) -> int:
        await asyncio.gather(*(workflow.sleep(timedelta(milliseconds=i)) for i in range(1, count + 1)))
        return count


@workflow.defn
class SleepUntilSignalled:
    def __init__(self) -> None:
        self.woken = False

    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.wait_condition(lambda: self.woken, timeout=timedelta(days=180))
        except TimeoutError:
            return "timed out"
        return "woken"

    @workflow.signal
    def wake(self) -> None:
        self.woken = True


async def test_timer_never_fires_early(env: SdkEnvironment) -> None:
    async with env.worker([Sleep]):
        for seconds in (0.2, 1.5):
            before_s = time.monotonic()
            handle = await env.start(Sleep.run, seconds)
            assert await handle.result() >= seconds
            assert time.monotonic() - before_s >= seconds


async def test_timer_fires_while_no_worker_runs(env: SdkEnvironment) -> None:
    handle = await env.start(Sleep.run, 0.5)
    async with env.worker([Sleep]):
        await wait_for_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)
    await wait_for_event(handle, EventType.EVENT_TYPE_TIMER_FIRED)
    async with env.worker([Sleep]):
        assert await handle.result() >= 0.5


async def test_cancelled_timer_does_not_fire(env: SdkEnvironment) -> None:
    async with env.worker([FirstOfTwoTimers]):
        handle = await env.start(FirstOfTwoTimers.run)
        assert await handle.result() == "long one cancelled"
    types = await event_types_of(handle)
    assert (types.count("TIMER_STARTED"), types.count("TIMER_FIRED")) == (2, 1)


async def test_every_one_of_many_timers_fires_once(env: SdkEnvironment) -> None:
    async with env.worker([ManyTimers]):
        handle = await env.start(ManyTimers.run, 300)
        assert await handle.result() == 300
    fired = [
        event.timer_fired_event_attributes.started_event_id
        for event in await events_of(handle)
        if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED
    ]
    assert len(set(fired)) == len(fired) == 300


async def test_timer_of_months_can_be_waited_out_or_left(env: SdkEnvironment) -> None:
    async with env.worker([SleepUntilSignalled]):
        handle = await env.start(SleepUntilSignalled.run)
        started = await wait_for_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)
        timeout = started.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
        assert timeout == timedelta(days=180)
        await handle.signal(SleepUntilSignalled.wake)
        assert await handle.result() == "woken"
