"""Resets through the code of `gateway.reset`."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest, ResetWorkflowExecutionResponse

from gateway import reset as gateway_reset
from gateway.errors import ApiError
from gateway.reset import Resets
from tests.simulation.calls import Backend, Patient, drive

if TYPE_CHECKING:
    from tests.simulation.gateways import Gateway
    from tests.simulation.world import World

Answered = Callable[[ResetWorkflowExecutionResponse | ApiError | None], None]

PAGE_BYTES = (300, 3_000, 1_000_000)
READ_MS = (0, 5, 40)
"""How long a read takes while a reset is prepared: meanwhile the run moves on."""


@contextmanager
def drawn_from(rng: random.Random) -> Iterator[None]:
    """Have what resets leave to chance, and the size of their pages, drawn from the seed."""

    class Ids:
        @staticmethod
        def uuid4() -> uuid.UUID:
            return uuid.UUID(int=rng.getrandbits(128), version=4)

    with (
        patch.object(gateway_reset, "uuid", Ids),
        patch.object(gateway_reset, "_PAGE_BYTES", rng.choice(PAGE_BYTES)),
    ):
        yield


def reset(
    world: World,
    gateway: Gateway,
    request: ResetWorkflowExecutionRequest,
    timeout_ms: int,
    answered: Answered,
) -> None:
    """Reset a run through a gateway; `answered` gets the answer, or None when that takes too long."""
    over = False

    def answer(result: Any) -> None:
        nonlocal over
        if not over:
            over = True
            answered(
                ResetWorkflowExecutionResponse.FromString(result) if isinstance(result, bytes) else result
            )

    world.at(timeout_ms, answer, None)
    if gateway.up:
        data = request.SerializeToString()
        read_ms = world.rng.choice(READ_MS)
        drive(Resets(Backend(world, gateway, read_ms)).reset(request, data, Patient()), answer)
