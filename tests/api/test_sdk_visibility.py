"""Search attributes, memo, list and count."""

from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.client import Client, WorkflowExecution
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from tests.api.sdk_environment import SdkEnvironment, eventually

STATUS = SearchAttributeKey.for_keyword("OrderStatus")
NOTE = SearchAttributeKey.for_text("OrderNote")
TOTAL = SearchAttributeKey.for_int("OrderTotal")
WEIGHT = SearchAttributeKey.for_float("OrderWeight")
PAID = SearchAttributeKey.for_bool("OrderPaid")
DUE = SearchAttributeKey.for_datetime("OrderDue")
TAGS = SearchAttributeKey.for_keyword_list("OrderTags")
KEYS: list[SearchAttributeKey[Any]] = [STATUS, NOTE, TOTAL, WEIGHT, PAID, DUE, TAGS]

ATTRIBUTES = TypedSearchAttributes(
    [
        SearchAttributePair(STATUS, "new"),
        SearchAttributePair(NOTE, "handle with care"),
        SearchAttributePair(TOTAL, 250),
        SearchAttributePair(WEIGHT, 1.5),
        SearchAttributePair(PAID, True),
        SearchAttributePair(DUE, datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        SearchAttributePair(TAGS, ["fragile", "express"]),
    ]
)


@workflow.defn
class Order:
    """Changes its search attributes and memo on a signal, and answers queries about them."""

    def __init__(self) -> None:
        self.shipped = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.shipped)
        workflow.upsert_search_attributes([STATUS.value_set("shipped"), TOTAL.value_unset()])
        workflow.upsert_memo({"carrier": "post", "removed": None})
        await workflow.wait_condition(lambda: False)
        return "never"

    @workflow.signal
    def ship(self) -> None:
        self.shipped = True

    @workflow.query
    def status(self) -> str | None:
        return workflow.info().typed_search_attributes.get(STATUS)


@workflow.defn
class Hello:
    @workflow.run
    async def run(self) -> str:
        return "Hello!"


@pytest.fixture(autouse=True)
async def _registered_attributes(client: Client) -> None:
    """Registers the search attributes that these tests use, where the server does not have them yet."""
    operator = client.operator_service
    request = ListSearchAttributesRequest(namespace=client.namespace)
    known = (await operator.list_search_attributes(request)).custom_attributes
    wanted = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in KEYS}
    missing = {name: kind for name, kind in wanted.items() if name not in known}
    if missing:
        await operator.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )


async def ids_of(env: SdkEnvironment, condition: str) -> set[str]:
    """The ids of the test's workflows that meet a condition of the list filter language."""
    query = f"TaskQueue = '{env.task_queue}' AND ({condition})"
    return {execution.id async for execution in env.client.list_workflows(query)}


async def test_attributes_of_all_seven_types_given_at_start_are_described_and_found(
    env: SdkEnvironment,
) -> None:
    order = await env.start(Order.run, search_attributes=ATTRIBUTES)
    other = await env.start(Order.run)
    described = (await order.describe()).typed_search_attributes
    assert {key.name: described.get(key) for key in KEYS} == {key.name: ATTRIBUTES.get(key) for key in KEYS}
    await eventually(lambda: ids_of(env, "ExecutionStatus = 'Running'"), {order.id, other.id})
    for condition in (
        "OrderStatus = 'new'",
        "OrderStatus STARTS_WITH 'ne'",
        "OrderStatus IN ('old', 'new')",
        "OrderNote = 'care'",
        "OrderTotal BETWEEN 200 AND 300",
        "OrderWeight > 1.25 AND OrderWeight <= 1.5",
        "OrderPaid = true",
        "OrderDue < '2030-01-03T00:00:00Z'",
        "OrderTags = 'express'",
        "OrderStatus IS NOT NULL",
    ):
        assert await ids_of(env, condition) == {order.id}, condition
    assert await ids_of(env, "OrderStatus IS NULL") == {other.id}
    assert await ids_of(env, "OrderTotal > 250 OR OrderStatus != 'new'") == set()
    for handle in (order, other):
        await handle.terminate()


async def test_upserted_attributes_and_memo_are_described_and_found(env: SdkEnvironment) -> None:
    async with env.worker([Order]):
        order = await env.start(Order.run, search_attributes=ATTRIBUTES, memo={"removed": 1, "kept": 2})
        await order.signal(Order.ship)
        await eventually(lambda: ids_of(env, "OrderStatus = 'shipped'"), {order.id})
        assert await ids_of(env, "OrderStatus = 'new' OR OrderTotal = 250") == set()
        assert await order.query(Order.status) == "shipped"
        description = await order.describe()
        assert await description.memo() == {"kept": 2, "carrier": "post"}
        assert description.typed_search_attributes.get(STATUS) == "shipped"
        assert description.typed_search_attributes.get(TOTAL) is None
        assert description.typed_search_attributes.get(WEIGHT) == 1.5
        await order.terminate()


async def test_unregistered_attribute_is_refused_at_start(env: SdkEnvironment) -> None:
    unknown = SearchAttributePair(SearchAttributeKey.for_keyword("NobodyRegisteredThis"), "x")
    with pytest.raises(RPCError, match="NobodyRegisteredThis") as raised:
        await env.start(Order.run, search_attributes=TypedSearchAttributes([unknown]))
    assert raised.value.status is RPCStatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "query",
    ["NobodyRegisteredThis = 'x'", "OrderDue = 'soon'", "ExecutionStatus = 'Nope'", "OrderTotal = = 1"],
)
async def test_bad_list_filter_is_an_invalid_argument(env: SdkEnvironment, query: str) -> None:
    with pytest.raises(RPCError) as raised:
        await ids_of(env, query)
    assert raised.value.status is RPCStatusCode.INVALID_ARGUMENT


async def test_list_pages_neither_skip_nor_repeat_and_go_from_new_to_old(env: SdkEnvironment) -> None:
    started = [(await env.start(Order.run)).id for _ in range(12)]
    query = f"TaskQueue = '{env.task_queue}'"

    async def listed() -> list[WorkflowExecution]:
        return [execution async for execution in env.client.list_workflows(query, page_size=5)]

    async def listed_ids() -> list[str]:
        return sorted(execution.id for execution in await listed())

    await eventually(listed_ids, sorted(started))
    start_times = [execution.start_time for execution in await listed()]
    assert start_times == sorted(start_times, reverse=True)
    for workflow_id in started:
        await env.client.get_workflow_handle(workflow_id).terminate()


async def test_count_by_status(env: SdkEnvironment) -> None:
    async with env.worker([Hello]):
        for _ in range(3):
            await env.execute(Hello.run)
    open_one = await env.start(Order.run)
    query = f"TaskQueue = '{env.task_queue}'"

    async def counts() -> dict[Any, int]:
        grouped = await env.client.count_workflows(f"{query} GROUP BY ExecutionStatus")
        return {group.group_values[0]: group.count for group in grouped.groups}

    await eventually(counts, {"Completed": 3, "Running": 1})
    assert (await env.client.count_workflows(query)).count == 4
    await open_one.terminate()


async def test_listed_execution_carries_what_describe_carries(env: SdkEnvironment) -> None:
    async with env.worker([Hello]):
        handle = await env.start(Hello.run, memo={"customer": "K."}, search_attributes=ATTRIBUTES)
        await handle.result()
    await eventually(lambda: ids_of(env, "ExecutionStatus = 'Completed'"), {handle.id})
    [listed] = [item async for item in env.client.list_workflows(f"WorkflowId = '{handle.id}'")]
    described = await handle.describe()
    for field in ("run_id", "status", "workflow_type", "start_time", "close_time", "history_length"):
        assert getattr(listed, field) == getattr(described, field), field
    assert await listed.memo() == {"customer": "K."}
    assert listed.typed_search_attributes.get(STATUS) == "new"
