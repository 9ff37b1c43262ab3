"""Visibility: the list filter, counting, paging."""

from __future__ import annotations

from typing import Any

from ..commands import command, complete, fail, payload, seconds
from ..registry import scenario
from ..world import World


async def found(w: World, query: str, method: str = "ListWorkflowExecutions", **fields: Any) -> list[str]:
    """The workflow ids that a query finds, without the scenario's prefix, sorted."""
    answer = await w.call(method, query=query, **fields)
    return sorted(row.execution.workflow_id.removeprefix(w.prefix) for row in answer.executions)


async def _rows(w: World, count: int) -> None:
    """Wait until visibility shows all the workflows of the namespace."""
    await w.until(
        lambda: w.call("CountWorkflowExecutions"), lambda answer: answer.count == count, f"{count} rows"
    )


def _without_message(answer: dict[str, Any]) -> dict[str, Any]:
    """An error of the query language: its wording is the parser's, and ours tells the position as well."""
    return {key: value for key, value in answer.items() if key != "message"}


async def _ask_all(w: World, queries: dict[str, str] | list[str]) -> None:
    """Record what each query finds, or its error."""
    named = queries.items() if isinstance(queries, dict) else ((query, query) for query in queries)
    for name, query in named:
        answer = await w.attempt_quietly("ListWorkflowExecutions", query=query)
        if isinstance(answer, dict):
            w.record(name, _without_message(answer))
        else:
            w.record(
                name, sorted(row.execution.workflow_id.removeprefix(w.prefix) for row in answer.executions)
            )


async def _ask_for_errors(w: World, queries: list[str]) -> None:
    """Record the error of each query; what an accepted one finds in a namespace with others is no matter."""
    for query in queries:
        answer = await w.attempt_quietly("ListWorkflowExecutions", query=query)
        w.record(query, _without_message(answer) if isinstance(answer, dict) else "accepted")


@scenario(namespace="own")
async def status_filters(w: World) -> None:
    closings = {
        "completed": complete(),
        "failed": fail(),
        "canceled": command("CANCEL_WORKFLOW_EXECUTION"),
        "continued": command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"),
    }
    for name, closing in closings.items():
        await w.start(name, queue=name)
        if name == "canceled":
            await w.cancel(name)
        await w.step(closing, queue=name)
    await w.start("running", memo={"fields": {"note": payload("n")}})
    await w.start("terminated")
    await w.terminate("terminated")
    await w.start("timed-out", workflow_run_timeout=seconds(1))
    await w.wait_closed("timed-out")
    await _rows(w, 8)
    statuses = ("Running", "Completed", "Failed", "Canceled", "Terminated", "ContinuedAsNew", "TimedOut")
    for status in statuses:
        await w.until(
            lambda status=status: found(w, f"ExecutionStatus = '{status}'"),
            lambda ids: ids,
            f"a {status} row",
        )
    await _ask_all(w, [f"ExecutionStatus = '{status}'" for status in statuses])
    await _ask_all(
        w,
        [
            "ExecutionStatus != 'Running'",
            "ExecutionStatus IN ('Completed', 'Failed')",
            "ExecutionStatus NOT IN ('Completed', 'Failed', 'Running')",
            "ExecutionStatus = 2",
            "ExecutionStatus = 'completed'",
            "ExecutionStatus = 'Nonsense'",
            "CloseTime IS NULL",
            "CloseTime IS NOT NULL",
        ],
    )
    for name in ("running", "completed"):
        rows = await w.call("ListWorkflowExecutions", query=f"WorkflowId = '{w.id(name)}'")
        w.record(f"row of {name}", list(rows.executions))


async def _some(w: World) -> None:
    """Five workflows with attributes; "none" has none."""
    rows: dict[str, dict[str, Any]] = {
        "one": {"OracleInt": 1, "OracleKeyword": "apple", "OracleBool": True, "OracleDouble": 1.5},
        "two": {"OracleInt": 2, "OracleKeyword": "apricot", "OracleBool": False, "OracleDouble": -2.5},
        "three": {"OracleInt": 3, "OracleKeyword": "banana", "OracleText": "the quick brown fox"},
        "four": {
            "OracleInt": -4,
            "OracleKeyword": "it's",
            "OracleKeywordList": ["red", "green"],
            "OracleDatetime": "2024-05-06T07:08:09Z",
        },
        "none": {},
    }
    for name, fields in rows.items():
        attributes = {"indexed_fields": {key: payload(value) for key, value in fields.items()}}
        await w.start(name, search_attributes=attributes, workflow_type={"name": f"Type-{name}"})
    await w.until(lambda: found(w, _mine(w)), lambda ids: len(ids) == 5, "five rows")


def _mine(w: World, condition: str = "") -> str:
    """A query over the workflows of this scenario: the namespace with attributes is shared."""
    mine = f"WorkflowId STARTS_WITH '{w.prefix}'"
    return f"{mine} AND ({condition})" if condition else mine


async def _ask_mine(w: World, conditions: list[str]) -> None:
    await _ask_all(w, {condition: _mine(w, condition) for condition in conditions})


@scenario(namespace="attributes")
async def operators(w: World) -> None:
    await _some(w)
    await _ask_mine(
        w,
        [
            "OracleInt = 2",
            "OracleInt != 2",
            "OracleInt < 2",
            "OracleInt <= 2",
            "OracleInt > 1",
            "OracleInt >= 2",
            "OracleInt IN (1, 3)",
            "OracleInt NOT IN (1, 3)",
            "OracleInt BETWEEN 1 AND 2",
            "OracleInt NOT BETWEEN 1 AND 2",
            "OracleInt IS NULL",
            "OracleInt IS NOT NULL",
            "OracleInt = -4",
            "OracleKeyword = 'apple'",
            'OracleKeyword = "apple"',
            "OracleKeyword != 'apple'",
            "OracleKeyword > 'apple'",
            "OracleKeyword BETWEEN 'apple' AND 'apricot'",
            "OracleKeyword IN ('apple', 'banana')",
            "OracleKeyword NOT IN ('apple', 'banana')",
            "OracleKeyword STARTS_WITH 'ap'",
            "OracleKeyword NOT STARTS_WITH 'ap'",
            "OracleKeyword = 'it''s'",
            "OracleKeyword = 'APPLE'",
            "OracleKeyword LIKE 'ap%'",
            "`OracleKeyword` = 'apple'",
            "oracleKeyword = 'apple'",
        ],
    )


@scenario(namespace="attributes")
async def logic(w: World) -> None:
    await _some(w)
    await _ask_mine(
        w,
        [
            "OracleInt = 1 OR OracleInt = 2",
            "OracleInt = 1 AND OracleKeyword = 'apple'",
            "OracleInt = 1 AND OracleKeyword = 'banana'",
            "NOT OracleInt = 1",
            "NOT (OracleInt = 1 OR OracleInt = 2)",
            "OracleInt = 1 OR OracleInt = 2 AND OracleKeyword = 'banana'",
            "(OracleInt = 1 OR OracleInt = 2) AND OracleKeyword = 'apricot'",
            "((OracleInt = 3))",
            "oracleint = 1 or OracleInt = 2",
            "OracleInt = 1 or OracleInt = 2",
            "not OracleInt in (1, 2)",
        ],
    )


@scenario(namespace="attributes")
async def types(w: World) -> None:
    await _some(w)
    await _ask_mine(
        w,
        [
            "OracleBool = true",
            "OracleBool = false",
            "OracleBool != true",
            "OracleDouble = 1.5",
            "OracleDouble > 0",
            "OracleDouble < 1",
            "OracleInt = 1.0",
            "OracleText = 'quick'",
            "OracleText = 'brown quick'",
            "OracleText = 'qui'",
            "OracleText != 'quick'",
            "OracleKeywordList = 'red'",
            "OracleKeywordList != 'red'",
            "OracleKeywordList IN ('red', 'blue')",
            "OracleKeywordList NOT IN ('red', 'blue')",
            "OracleKeywordList IS NULL",
            # Not "=": the real server on SQLite compares texts there, and finds nothing.
            "OracleDatetime > '2024-05-06T07:08:08Z'",
            "OracleDatetime < '2024-05-06T00:00:00+02:00'",
            "OracleDatetime BETWEEN '2024-01-01T00:00:00Z' AND '2024-12-31T00:00:00Z'",
        ],
    )
    rows = await w.call("ListWorkflowExecutions", query=f"WorkflowId = '{w.id('four')}'")
    w.record("row", list(rows.executions))
    await w.describe("one")


@scenario(namespace="attributes")
async def times(w: World) -> None:
    await w.start()
    await w.step(complete())
    await w.start("delayed", workflow_start_delay=seconds(3600))
    await w.until(
        lambda: found(w, _mine(w, "ExecutionStatus = 'Completed'")), lambda ids: ids, "the closed row"
    )
    await _ask_mine(
        w,
        [
            "StartTime > '2020-01-01T00:00:00Z'",
            "StartTime < '2020-01-01T00:00:00Z'",
            "StartTime > '2020-01-01'",
            "StartTime > '2020-01-01T00:00:00.123456789Z'",
            "StartTime > '2020-01-01 00:00:00'",
            "StartTime > 1577836800000000000",
            "StartTime > 'yesterday'",
            # Not "CloseTime >": the real server on SQLite counts open runs as closed at the end of time.
            "CloseTime < '2099-01-01T00:00:00+02:00'",
            "ExecutionTime > '2020-01-01T00:00:00Z'",
            "ExecutionTime > StartTime",
            "ExecutionDuration < '1h'",
            "ExecutionDuration > '1h'",
            "ExecutionDuration < 3600000000000",
            "ExecutionDuration < '00:10:00'",
            "ExecutionDuration < '10 minutes'",
        ],
    )


@scenario(namespace="attributes")
async def system_attributes(w: World) -> None:
    run = await w.start("wf", workflow_type={"name": "Special"})
    await w.step(complete())
    await w.until(
        lambda: found(w, _mine(w, "ExecutionStatus = 'Completed'")), lambda ids: ids, "the closed row"
    )
    await _ask_all(
        w,
        {
            "WorkflowId": f"WorkflowId = '{w.id('wf')}'",
            "WorkflowId in": f"WorkflowId IN ('{w.id('wf')}', 'nobody')",
            "RunId": f"RunId = '{run.run_id}'",
            "WorkflowType": _mine(w, "WorkflowType = 'Special'"),
            "WorkflowType starts with": _mine(w, "WorkflowType STARTS_WITH 'Spec'"),
            "TaskQueue": f"TaskQueue = '{w.id('tq')}'",
            "HistoryLength": _mine(w, "HistoryLength = 5"),
            "HistorySizeBytes": _mine(w, "HistorySizeBytes > 0"),
            "StateTransitionCount": _mine(w, "StateTransitionCount > 0"),
            "ParentWorkflowId": _mine(w, "ParentWorkflowId IS NULL"),
            "RootWorkflowId": f"RootWorkflowId = '{w.id('wf')}'",
            "RootRunId": f"RootRunId = '{run.run_id}'",
            "BuildIds": _mine(w, "BuildIds = 'unversioned'"),
            "ExecutionStatus": _mine(w, "ExecutionStatus = 'Completed'"),
            "NamespaceId": _mine(w, "NamespaceId = 'x'"),
            "Memo": _mine(w, "Memo = 'x'"),
            "VisibilityTime": _mine(w, "VisibilityTime > '2020-01-01T00:00:00Z'"),
            "BatcherUser": _mine(w, "BatcherUser IS NULL"),
            "TemporalChangeVersion": _mine(w, "TemporalChangeVersion IS NULL"),
            "TemporalSchedulePaused": _mine(w, "TemporalSchedulePaused IS NULL"),
        },
    )


@scenario(namespace="attributes")
async def default_order(w: World) -> None:
    """The real server on SQLite refuses ORDER BY, which ours allows; without, both answer so."""
    for name in ("first", "second", "third"):
        await w.start(name, queue=name)
    await w.step(complete(), queue="second")
    await w.until(lambda: found(w, _mine(w)), lambda ids: len(ids) == 3, "three rows")
    await w.until(
        lambda: found(w, _mine(w, "ExecutionStatus = 'Completed'")), lambda ids: ids, "the closed row"
    )
    answer = await w.call("ListWorkflowExecutions", query=_mine(w))
    w.record("order", [row.execution.workflow_id.removeprefix(w.prefix) for row in answer.executions])


@scenario(namespace="attributes")
async def paging(w: World) -> None:
    for number in range(7):
        await w.start(f"wf{number}")
    await w.until(lambda: found(w, _mine(w)), lambda ids: len(ids) == 7, "seven rows")
    for method in ("ListWorkflowExecutions", "ScanWorkflowExecutions"):
        pages: list[list[str]] = []
        token = b""
        while True:
            page = await w.call(method, query=_mine(w), page_size=3, next_page_token=token)
            pages.append([row.execution.workflow_id.removeprefix(w.prefix) for row in page.executions])
            token = page.next_page_token
            if not token:
                break
        w.record(f"{method}: pages", [len(page) for page in pages])
        w.record(f"{method}: all", sorted(one for page in pages for one in page))
    w.record("first page", pages[0])


@scenario(namespace="attributes")
async def count(w: World) -> None:
    await _some(w)
    await w.terminate("two")
    await w.terminate("three")
    await w.until(
        lambda: found(w, _mine(w, "ExecutionStatus = 'Terminated'")),
        lambda ids: len(ids) == 2,
        "two closed rows",
    )
    queries = {
        "all": _mine(w),
        "filtered": _mine(w, "OracleInt > 0"),
        "none": _mine(w, "OracleInt > 100"),
        "group by status": f"{_mine(w)} GROUP BY ExecutionStatus",
        "group by status, none": f"{_mine(w, 'OracleInt > 100')} GROUP BY ExecutionStatus",
    }
    for name, query in queries.items():
        answer = await w.attempt_quietly("CountWorkflowExecutions", query=query)
        if not isinstance(answer, dict):
            groups = sorted(answer.groups, key=lambda group: group.group_values[0].data)
            answer = {"count": answer.count, "groups": groups}
        w.record(name, answer)


@scenario(namespace="attributes")
async def count_errors(w: World) -> None:
    queries = {
        "by type": "GROUP BY WorkflowType",
        "by custom": "GROUP BY OracleKeyword",
        "by two": "GROUP BY ExecutionStatus, WorkflowType",
        "by unknown": "GROUP BY Nobody",
        "with order": "GROUP BY ExecutionStatus ORDER BY StartTime",
        "in a list": "GROUP BY ExecutionStatus",
        "syntax": "WorkflowId =",
    }
    for name, query in queries.items():
        method = "ListWorkflowExecutions" if name == "in a list" else "CountWorkflowExecutions"
        w.record(name, _without_message(await w.attempt_quietly(method, query=query)))


@scenario(namespace="attributes")
async def syntax_errors(w: World) -> None:
    await _ask_for_errors(
        w,
        [
            "WorkflowId",
            "WorkflowId =",
            "= 'x'",
            "WorkflowId = 'x' AND",
            "WorkflowId = 'x' OR OR WorkflowId = 'y'",
            "(WorkflowId = 'x'",
            "WorkflowId = 'x')",
            "WorkflowId = 'x",
            "WorkflowId == 'x'",
            "WorkflowId = x",
            "WorkflowId IN ()",
            "WorkflowId IN 'x'",
            "WorkflowId BETWEEN 'a'",
            "WorkflowId IS",
            "WorkflowId IS 'x'",
            "'x' = WorkflowId",
            "1 = 1",
            "true",
            "SELECT * FROM executions",
            "WorkflowId = 'x'; DROP TABLE executions",
            "WorkflowId = (SELECT 1)",
            "WorkflowId = UPPER('x')",
            "WorkflowId = 'x' LIMIT 1",
            "WorkflowId STARTS_WITH",
            "HistoryLength = 1 + 1",
            "WorkflowId = NULL",
            "   ",
        ],
    )


@scenario(namespace="attributes")
async def unknown_attribute(w: World) -> None:
    await _ask_for_errors(
        w,
        [
            "Nobody = 1",
            "WorkflowId = 'x' AND Nobody = 'y'",
            "workflowid = 'x'",
            "Nobody IS NULL",
            "Keyword01 = 'x'",
            "CustomKeywordField = 'x'",
        ],
    )
    for method in ("CountWorkflowExecutions", "ScanWorkflowExecutions"):
        w.record(method, _without_message(await w.attempt_quietly(method, query="Nobody = 1")))


@scenario(namespace="attributes")
async def type_errors(w: World) -> None:
    """Only what the real server refuses: it lets pass, without a row, much that ours refuses as ill-typed."""
    await _ask_for_errors(
        w,
        [
            "OracleDatetime = 'yesterday'",
            "OracleKeywordList > 'a'",
            "OracleKeywordList STARTS_WITH 'a'",
            "OracleKeywordList BETWEEN 'a' AND 'b'",
            "OracleText > 'a'",
            "OracleText STARTS_WITH 'a'",
            "OracleText IN ('a', 'b')",
            "ExecutionStatus = 'Nonsense'",
            "ExecutionDuration = 'soon'",
            "StartTime > 'yesterday'",
        ],
    )
