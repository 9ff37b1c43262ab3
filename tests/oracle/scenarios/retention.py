"""Retention of closed runs.

The real server keeps closed runs for at least an hour, so what happens at its end is not recorded here:
it is the same as an explicit delete, which `cancel_terminate/delete_closed` pins down.
"""

from __future__ import annotations

from datetime import timedelta

from ..commands import complete
from ..registry import scenario
from ..world import World


async def _register(
    w: World, record_as: str, name: str, retention: timedelta | None, **fields: object
) -> object:
    return await w.try_call(
        record_as,
        "RegisterNamespace",
        namespace=w.id(name),
        workflow_execution_retention_period=retention,
        **fields,
    )


@scenario()
async def too_short(w: World) -> None:
    await _register(w, "a minute", "minute", timedelta(minutes=1))
    await _register(w, "zero", "zero", timedelta(0))
    await _register(w, "negative", "negative", timedelta(hours=-1))
    await _register(w, "just under an hour", "under", timedelta(seconds=3599))
    await _register(w, "an hour", "hour", timedelta(hours=1))
    await _register(w, "global, an hour", "global-hour", timedelta(hours=1), is_global_namespace=True)


@scenario()
async def missing(w: World) -> None:
    await _register(w, "none", "none", None)


async def _config(w: World, record_as: str) -> None:
    answer = await w.call("DescribeNamespace", namespace=w.id("ns"))
    w.record(record_as, answer.config)


@scenario()
async def update(w: World) -> None:
    await _register(w, "register", "ns", timedelta(days=2))
    await _config(w, "registered")

    async def change(record_as: str, retention: timedelta) -> None:
        await w.try_call(
            record_as,
            "UpdateNamespace",
            namespace=w.id("ns"),
            config={"workflow_execution_retention_ttl": retention},
        )

    await change("to five days", timedelta(days=5))
    await _config(w, "updated")
    await change("to a minute", timedelta(minutes=1))
    await change("to negative", timedelta(days=-1))
    await w.try_call("nothing changed", "UpdateNamespace", namespace=w.id("ns"))
    await _config(w, "at the end")


@scenario()
async def describe_default(w: World) -> None:
    await _register(
        w,
        "register",
        "ns",
        timedelta(days=3),
        description="about it",
        owner_email="owner@example.com",
        data={"team": "oracle"},
    )
    await w.try_call("describe", "DescribeNamespace", namespace=w.id("ns"))


@scenario()
async def closed_stays_until_then(w: World) -> None:
    await w.start()
    await w.step(complete("kept"))
    rows = await w.until(
        lambda: w.call(
            "ListWorkflowExecutions", query=f"WorkflowId = '{w.id('wf')}' AND ExecutionStatus = 'Completed'"
        ),
        lambda answer: answer.executions,
        "the closed row",
    )
    w.record("row", list(rows))
    await w.describe()
    await w.history()
