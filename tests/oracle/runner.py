"""Run scenarios against prepared servers, many at a time, and keep what they recorded."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from .registry import Scenario
from .servers import Target, make_namespace
from .world import World, describe_error

SCENARIO_LIMIT_S = 180.0
LINE = 110


@dataclass(frozen=True)
class Outcome:
    """What one run of a scenario gave: a recording, or the reason why there is none."""

    scenario: Scenario
    recording: Any
    failure: str | None
    elapsed_s: float

    @property
    def text(self) -> str:
        """The recording as it stands in a golden file."""
        return pretty(self.recording) + "\n"


def pretty(value: Any, indent: str = "") -> str:
    """JSON with everything on one line that fits there: short to read, and small differences stay small."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= LINE or not isinstance(value, (dict, list)) or not value:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}: {pretty(item, inner)}" for key, item in value.items()
        ]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + pretty(item, inner) for item in value) + f"\n{indent}]"


async def run_all(
    scenarios: Sequence[Scenario],
    targets: dict[str, Target],
    *,
    at_once: int = 24,
    on_done: Callable[[Outcome], None] = lambda _: None,
) -> dict[str, Outcome]:
    """Run scenarios, `at_once` at a time. Returns outcomes by scenario id; a failing script is one, too."""
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)  # failing on purpose is what many scripts do
    places = asyncio.Semaphore(at_once)

    async def run(scenario: Scenario) -> Outcome:
        async with places:
            outcome = await run_one(scenario, targets[scenario.server])
        on_done(outcome)
        return outcome

    outcomes = await asyncio.gather(*(run(scenario) for scenario in scenarios))
    return {outcome.scenario.id: outcome for outcome in outcomes}


async def run_one(scenario: Scenario, target: Target) -> Outcome:
    """Run one scenario to its end or its time limit."""
    began = time.monotonic()
    failure = None
    world = None
    try:
        async with asyncio.timeout(SCENARIO_LIMIT_S):
            world = await _world(scenario, target)
            await scenario.script(world)
    except Exception as error:
        failure = _explain(error)
    recording = world.recording() if world else None
    return Outcome(scenario, recording, failure, time.monotonic() - began)


async def _world(scenario: Scenario, target: Target) -> World:
    if scenario.namespace != "own":
        return World(scenario, target.channel, target.address, target.namespace(scenario.namespace))
    world = World(scenario, target.channel, target.address, "")
    world.namespace = await make_namespace(target.channel, world.id("ns"))
    return world


def _explain(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)[-6:])
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{describe_error(error)}\n{text}"
    return text
