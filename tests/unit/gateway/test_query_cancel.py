"""A query whose client goes away is not left for a worker."""

from __future__ import annotations

import asyncio

from temporalio.api.workflowservice.v1 import QueryWorkflowRequest

from gateway.backend import Backend
from gateway.histories import Histories
from gateway.workflow_calls import WorkflowCalls
from streams.bodies import Call, CancelQuery
from streams.limits import Limits
from streams.runtime.records import Reply
from tests.unit.gateway.conftest import NAMESPACE, settle
from tests.unit.gateway.test_polls import Caller, RecordingEngine


async def asked(engine: RecordingEngine) -> asyncio.Task[bytes]:
    """A query that waits for its answer."""
    backend = Backend(engine, Limits(), "gateway-0")
    backend.begin()
    request = QueryWorkflowRequest(namespace=NAMESPACE)
    request.execution.workflow_id, request.query.query_type = "w", "state"
    query = asyncio.ensure_future(
        WorkflowCalls(backend, Histories(backend)).query(request, b"request", Caller())
    )
    await settle()
    return query


async def test_history_is_told_when_the_client_goes_away() -> None:
    engine = RecordingEngine()
    query = await asked(engine)
    query.cancel()
    await settle()
    (_, _, call, correlation), (topic, key, canceled, _) = engine.appended
    assert isinstance(call, Call)
    assert correlation is not None
    assert (topic, key) == ("commands", "default/w")
    assert canceled == CancelQuery(NAMESPACE, "w", "", "gateway-0", correlation.epoch, correlation.id)


async def test_an_answered_query_is_not_canceled() -> None:
    engine = RecordingEngine()
    query = await asked(engine)
    engine.reply(1, Reply(body=b"answer"))
    assert await query == b"answer"
    assert len(engine.appended) == 1
