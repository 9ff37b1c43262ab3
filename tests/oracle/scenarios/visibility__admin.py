"""Visibility: the older list methods, search attributes and their administration."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..commands import attribute, command, complete, fail, payload
from ..registry import scenario
from ..world import World
from .visibility import _rows, found

EVER = {"earliest_time": datetime(2020, 1, 1, tzinfo=UTC), "latest_time": datetime(2090, 1, 1, tzinfo=UTC)}


async def _listed(w: World, record_as: str, method: str, **fields: Any) -> None:
    answer = await w.attempt_quietly(method, **fields)
    if not isinstance(answer, dict):
        answer = sorted(row.execution.workflow_id.removeprefix(w.prefix) for row in answer.executions)
    w.record(record_as, answer)


@scenario(namespace="own")
async def list_open_closed(w: World) -> None:
    for name in ("one", "two"):
        await w.start(name, workflow_type={"name": f"Type-{name}"})
    for name, closing in {"completed": complete(), "failed": fail()}.items():
        await w.start(name, queue=name)
        await w.step(closing, queue=name)
    await w.until(lambda: found(w, "ExecutionStatus = 'Failed'"), lambda ids: ids, "the failed row")
    await w.until(lambda: found(w, "ExecutionStatus = 'Completed'"), lambda ids: ids, "the completed row")
    await _rows(w, 4)
    is_open, is_closed = "ListOpenWorkflowExecutions", "ListClosedWorkflowExecutions"
    by_id = {"execution_filter": {"workflow_id": w.id("one")}}
    await _listed(w, "open", is_open, start_time_filter=EVER)
    await _listed(w, "open by id", is_open, start_time_filter=EVER, **by_id)
    await _listed(w, "open by type", is_open, start_time_filter=EVER, type_filter={"name": "Type-two"})
    await _listed(w, "closed", is_closed, start_time_filter=EVER)
    await _listed(
        w, "closed by id", is_closed, start_time_filter=EVER, execution_filter={"workflow_id": w.id("failed")}
    )
    await _listed(w, "closed by type", is_closed, start_time_filter=EVER, type_filter={"name": "Type"})
    await _listed(w, "closed by status", is_closed, start_time_filter=EVER, status_filter={"status": 3})
    long_ago = {**EVER, "latest_time": datetime(2021, 1, 1, tzinfo=UTC)}
    await _listed(w, "long ago", is_open, start_time_filter=long_ago)
    await _listed(w, "page of one", is_open, start_time_filter=EVER, maximum_page_size=0, **by_id)


@scenario(namespace="own")
async def list_open_closed_errors(w: World) -> None:
    for method in ("ListOpenWorkflowExecutions", "ListClosedWorkflowExecutions"):
        await _listed(w, f"{method}: no time filter", method)
        await _listed(
            w, f"{method}: only earliest", method, start_time_filter={"earliest_time": EVER["earliest_time"]}
        )
        reverse = {"earliest_time": EVER["latest_time"], "latest_time": EVER["earliest_time"]}
        await _listed(w, f"{method}: reversed", method, start_time_filter=reverse)
        await _listed(w, f"{method}: page size", method, start_time_filter=EVER, maximum_page_size=100000)
        await _listed(
            w, f"{method}: negative page size", method, start_time_filter=EVER, maximum_page_size=-1
        )
    closed = "ListClosedWorkflowExecutions"
    for status in (0, 1):
        await _listed(
            w,
            f"closed with status {status}",
            closed,
            start_time_filter=EVER,
            status_filter={"status": status},
        )


@scenario(namespace="own")
async def scan(w: World) -> None:
    for number in range(3):
        await w.start(f"wf{number}")
    await _rows(w, 3)
    w.record("all", await found(w, "", "ScanWorkflowExecutions"))
    w.record("some", await found(w, f"WorkflowId = '{w.id('wf1')}'", "ScanWorkflowExecutions"))
    w.record("empty query lists all", await found(w, ""))


@scenario(namespace="own")
async def search_attribute_admin(w: World) -> None:
    await w.try_call("fresh", "ListSearchAttributes")
    kinds = {
        "OwnText": 1,
        "OwnKeyword": 2,
        "OwnInt": 3,
        "OwnDouble": 4,
        "OwnBool": 5,
        "OwnDatetime": 6,
        "OwnList": 7,
    }
    await w.try_call("add", "AddSearchAttributes", search_attributes=kinds)
    listed = await w.until(
        lambda: w.call("ListSearchAttributes"),
        lambda answer: answer.custom_attributes and answer,
        "the attributes",
    )
    w.record("custom", dict(sorted(listed.custom_attributes.items())))
    w.record("system", dict(sorted(listed.system_attributes.items())))
    await w.try_call("remove", "RemoveSearchAttributes", search_attributes=["OwnInt"])
    listed = await w.until(
        lambda: w.call("ListSearchAttributes"),
        lambda answer: "OwnInt" not in answer.custom_attributes and answer,
        "the removal",
    )
    w.record("custom after removal", dict(sorted(listed.custom_attributes.items())))
    refused = await w.attempt_quietly("CountWorkflowExecutions", query="OwnInt = 1")
    w.record("removed in a query", refused["error"])


@scenario()
async def get_search_attributes(w: World) -> None:
    answer = await w.attempt_quietly("GetSearchAttributes")
    if not isinstance(answer, dict):
        # Custom ones by internal column are the real server's way on SQL; its names are not ours.
        known = dict(answer.keys)
        answer = {name: known.get(name) for name in ("WorkflowId", "StartTime", "ExecutionStatus", "RunId")}
    w.record("system attributes", answer)


@scenario(namespace="own")
async def search_attribute_admin_errors(w: World) -> None:
    await w.call("AddSearchAttributes", search_attributes={"OwnInt": 3})
    await w.until(
        lambda: w.call("ListSearchAttributes"), lambda answer: answer.custom_attributes, "the attribute"
    )
    await w.try_call("again, same type", "AddSearchAttributes", search_attributes={"OwnInt": 3})
    await w.try_call("system", "AddSearchAttributes", search_attributes={"WorkflowId": 2})
    await w.try_call("predefined", "AddSearchAttributes", search_attributes={"BuildIds": 7})
    await w.try_call("unknown type", "AddSearchAttributes", search_attributes={"OwnNone": 99})
    await w.try_call("none", "AddSearchAttributes")
    await w.try_call("too many", "AddSearchAttributes", search_attributes={f"Own{n}": 5 for n in range(30)})
    await w.try_call("remove unknown", "RemoveSearchAttributes", search_attributes=["Nobody"])
    await w.try_call("remove system", "RemoveSearchAttributes", search_attributes=["WorkflowId"])
    await w.try_call("remove none", "RemoveSearchAttributes")
    await w.try_call("list, unknown namespace", "ListSearchAttributes", namespace="oracle-nowhere")
    await w.try_call(
        "add, unknown namespace",
        "AddSearchAttributes",
        namespace="oracle-nowhere",
        search_attributes={"A": 3},
    )


@scenario(namespace="attributes")
async def start_with_bad_attribute(w: World) -> None:
    cases = {
        "unknown": {"Nobody": payload("x")},
        "system": {"WorkflowId": payload("x")},
        "wrong type int": {"OracleInt": payload("five")},
        "wrong type bool": {"OracleBool": payload("yes")},
        "wrong type keyword": {"OracleKeyword": payload(5)},
        "wrong type datetime": {"OracleDatetime": payload("yesterday")},
        "type in metadata": {"OracleInt": attribute("5", "Keyword")},
        "list where one is due": {"OracleInt": payload([1, 2])},
        "list of one": {"OracleInt": payload([1])},
        "no encoding": {"OracleInt": {"data": b"5"}},
        "change version": {"TemporalChangeVersion": payload(["a"])},
    }
    for number, (name, fields) in enumerate(cases.items()):
        answer = await w.attempt_quietly(
            "StartWorkflowExecution",
            workflow_id=w.id(f"wf{number}"),
            workflow_type={"name": "Type"},
            task_queue=w.queue(),
            request_id="request-1",
            search_attributes={"indexed_fields": fields},
        )
        w.record(name, answer if isinstance(answer, dict) else "started")


@scenario(namespace="own")
async def page_size_errors(w: World) -> None:
    for method in ("ListWorkflowExecutions", "ScanWorkflowExecutions"):
        await _listed(w, f"{method}: negative", method, page_size=-1)
        await _listed(w, f"{method}: too large", method, page_size=100000)


@scenario(namespace="own")
async def children(w: World) -> None:
    await w.start("parent", queue="parent")
    child = {"workflow_id": w.id("child"), "workflow_type": {"name": "Child"}, "task_queue": w.queue("child")}
    await w.step(command("START_CHILD_WORKFLOW_EXECUTION", **child), queue="parent")
    await w.task("child")
    await _rows(w, 2)
    for query in (
        f"ParentWorkflowId = '{w.id('parent')}'",
        f"RootWorkflowId = '{w.id('parent')}'",
        "ParentWorkflowId IS NULL",
    ):
        w.record(query.replace(w.prefix, ""), await found(w, query))
    rows = await w.call("ListWorkflowExecutions", query=f"WorkflowId = '{w.id('child')}'")
    w.record("row", list(rows.executions))
