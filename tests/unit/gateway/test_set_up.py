"""The set-up of these tests itself."""

from pathlib import Path

import grpc
import grpc.aio
import pytest

from streams.limits import Limits
from tests.unit.gateway.conftest import serving


async def test_a_set_up_that_fails_leaves_no_engine_behind(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    async with serving(path, Limits()):
        pass
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async with serving(path, Limits()):
                pass
        assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS
