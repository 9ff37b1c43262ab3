"""Error codes, messages and details across the methods; reading histories."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from temporalio.service import RPCError

from ..commands import command, complete, payloads, timer
from ..registry import scenario
from ..world import World, describe_error

NO_RUN = "11111111-2222-4333-8444-555555555555"


def _family(w: World) -> dict[str, dict[str, Any]]:
    """One well-formed request of each namespaced method."""
    execution = {"workflow_execution": w.ex()}
    activity = {"workflow_id": w.id("wf"), "activity_id": "a1"}
    return {
        "StartWorkflowExecution": {
            "workflow_id": w.id("wf"),
            "workflow_type": {"name": "Type"},
            "task_queue": w.queue(),
            "request_id": "request-1",
        },
        "SignalWithStartWorkflowExecution": {
            "workflow_id": w.id("wf"),
            "workflow_type": {"name": "Type"},
            "task_queue": w.queue(),
            "request_id": "request-1",
            "signal_name": "signal",
        },
        "SignalWorkflowExecution": {**execution, "signal_name": "signal"},
        "RequestCancelWorkflowExecution": execution,
        "TerminateWorkflowExecution": execution,
        "DeleteWorkflowExecution": execution,
        "ResetWorkflowExecution": {
            **execution,
            "request_id": "request-1",
            "workflow_task_finish_event_id": 4,
        },
        "DescribeWorkflowExecution": {"execution": w.ex()},
        "GetWorkflowExecutionHistory": {"execution": w.ex()},
        "GetWorkflowExecutionHistoryReverse": {"execution": w.ex()},
        "QueryWorkflow": {"execution": w.ex(), "query": {"query_type": "question"}},
        "UpdateWorkflowExecution": {
            **execution,
            "request": {"meta": {"update_id": "u1"}, "input": {"name": "change"}},
            "wait_policy": {"lifecycle_stage": 3},
        },
        "PollWorkflowExecutionUpdate": {"update_ref": {**execution, "update_id": "u1"}},
        "ListWorkflowExecutions": {},
        "ScanWorkflowExecutions": {},
        "CountWorkflowExecutions": {},
        "PollWorkflowTaskQueue": {"task_queue": w.queue()},
        "PollActivityTaskQueue": {"task_queue": w.queue()},
        "RespondActivityTaskCompletedById": activity,
        "RespondActivityTaskFailedById": activity,
        "RespondActivityTaskCanceledById": activity,
        "RecordActivityTaskHeartbeatById": activity,
        "ResetStickyTaskQueue": {"execution": w.ex()},
        "DescribeTaskQueue": {"task_queue": w.queue(), "task_queue_type": 1},
        "ListTaskQueuePartitions": {"task_queue": w.queue()},
        "DescribeNamespace": {},
        "UpdateNamespace": {},
        "ListSearchAttributes": {},
    }


@scenario()
async def namespace_not_found(w: World) -> None:
    for method, fields in _family(w).items():
        await w.try_call(method, method, **fields, namespace="oracle-nowhere")


@scenario()
async def namespace_missing(w: World) -> None:
    for method, fields in _family(w).items():
        if method != "ListSearchAttributes":
            await w.try_call(method, method, **fields, namespace="")


@scenario()
async def workflow_not_found(w: World) -> None:
    skipped = (
        "Start",
        "SignalWithStart",
        "List",
        "Scan",
        "Count",
        "Poll",
        "DescribeTask",
        "DescribeName",
        "UpdateName",
    )
    for method, fields in _family(w).items():
        if not method.startswith(skipped):
            await w.try_call(method, method, **fields)


@scenario()
async def namespace_admin(w: World) -> None:
    day = timedelta(days=1)

    async def register(record_as: str, name: str, **fields: Any) -> None:
        await w.try_call(
            record_as,
            "RegisterNamespace",
            namespace=name,
            **{"workflow_execution_retention_period": day, **fields},
        )

    await register("first", w.id("ns"), description="one", data={"a": "1"})
    await register("again", w.id("ns"))
    await register("empty name", "")
    await register("long name", "x" * 1001)
    await register("with a space", w.id("a b"))
    await w.try_call("describe unknown", "DescribeNamespace", namespace="oracle-nowhere")
    await w.try_call("describe unknown id", "DescribeNamespace", namespace="", id=NO_RUN)
    described = await w.call("DescribeNamespace", namespace=w.id("ns"))
    by_id = await w.call("DescribeNamespace", namespace="", id=described.namespace_info.id)
    w.record("by id", by_id)
    await w.try_call("update unknown", "UpdateNamespace", namespace="oracle-nowhere")
    await w.try_call(
        "update",
        "UpdateNamespace",
        namespace=w.id("ns"),
        update_info={"description": "two", "owner_email": "o@example.com", "data": {"b": "2"}},
    )
    await w.try_call("described after update", "DescribeNamespace", namespace=w.id("ns"))


@scenario()
async def namespace_list_describe(w: World) -> None:
    for name in ("one", "two"):
        await w.call(
            "RegisterNamespace", namespace=w.id(name), workflow_execution_retention_period=timedelta(days=1)
        )
    rows: list[Any] = []
    token = b""
    while True:
        page = await w.call("ListNamespaces", page_size=2, next_page_token=token)
        rows += page.namespaces
        token = page.next_page_token
        if not token:
            break
    own = [row for row in rows if row.namespace_info.name.startswith(w.prefix)]
    w.record("own rows", sorted(own, key=lambda row: row.namespace_info.name))
    w.record("has default", any(row.namespace_info.name == "default" for row in rows))


@scenario(namespace="own")
async def namespace_delete(w: World) -> None:
    await w.start()
    answer = await w.call("DeleteNamespace")
    w.record("renamed", answer.deleted_namespace.startswith(f"{w.namespace}-deleted-"))

    async def described() -> Any:
        try:
            return await w.call("DescribeNamespace")
        except grpc.aio.AioRpcError as error:
            return describe_error(error)

    gone = await w.until(described, lambda answer: isinstance(answer, dict) and answer, "the deletion")
    w.record("describe", gone)
    await w.try_call("delete unknown", "DeleteNamespace", namespace="oracle-nowhere")
    await w.try_call("delete nothing", "DeleteNamespace", namespace="")


@scenario()
async def unimplemented_methods(w: World) -> None:
    """A method that no server has; an unknown service."""
    for name, path in {
        "method": "/temporal.api.workflowservice.v1.WorkflowService/Nonsense",
        "service": "/temporal.api.nonsense.v1.Nonsense/Method",
    }.items():
        call = w.channel.unary_unary(path)
        try:
            await call(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            w.record(name, error.code().name)


@scenario()
async def history_errors(w: World) -> None:
    run = await w.start()
    other = await w.start("other")
    cases: dict[str, dict[str, Any]] = {
        "unknown": {"execution": w.ex("nobody")},
        "wrong run": {"execution": w.ex("wf", NO_RUN)},
        "run of another": {"execution": w.ex("wf", other.run_id)},
        "bad run": {"execution": w.ex("wf", "not-a-uuid")},
        "no execution": {},
        "no workflow id": {"execution": {"run_id": run.run_id}},
        "bad token": {"execution": w.ex(), "next_page_token": b"garbage"},
        "negative page size": {"execution": w.ex(), "maximum_page_size": -1},
    }
    for name, fields in cases.items():
        for method in ("GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse"):
            answer = await w.attempt_quietly(method, **fields)
            w.record(f"{name}: {method}", answer if isinstance(answer, dict) else len(answer.history.events))


def _flat(pages: list[list[int]]) -> list[int]:
    return [event_id for page in pages for event_id in page]


@scenario()
async def history_get(w: World) -> None:
    await w.start()
    await w.step(*(command("RECORD_MARKER", marker_name=f"m{n}") for n in range(5)))
    await w.signal()
    await w.step(complete("out"))

    async def pages(method: str, size: int) -> list[list[int]]:
        ids: list[list[int]] = []
        token = b""
        while True:
            page = await w.call(method, execution=w.ex(), maximum_page_size=size, next_page_token=token)
            ids.append([event.event_id for event in page.history.events])
            token = page.next_page_token
            if not token:
                return ids

    w.record("all", _flat(await pages("GetWorkflowExecutionHistory", 4)))
    w.record("reverse", _flat(await pages("GetWorkflowExecutionHistoryReverse", 4)))
    w.record("one at a time", _flat(await pages("GetWorkflowExecutionHistory", 1)))
    close = {"execution": w.ex(), "history_event_filter_type": 2}
    await w.try_call("close event", "GetWorkflowExecutionHistory", **close)
    await w.try_call("close event, waiting", "GetWorkflowExecutionHistory", **close, wait_new_event=True)
    await w.try_call("skip archival", "GetWorkflowExecutionHistory", **close, skip_archival=True)


@scenario()
async def history_wait(w: World) -> None:
    """A long poll answers what is there, then waits for what comes."""
    await w.start()
    await w.step(timer(timeout_s=600))
    first = await w.call("GetWorkflowExecutionHistory", execution=w.ex(), wait_new_event=True)
    w.record("at once", [e.event_id for e in first.history.events])
    waiting = w.later(
        "after the signal",
        "GetWorkflowExecutionHistory",
        execution=w.ex(),
        wait_new_event=True,
        next_page_token=first.next_page_token,
    )
    await asyncio.sleep(1)
    await w.signal()
    answer = await waiting
    w.record("has a token", bool(answer.next_page_token))
    closing = w.later(
        "close event",
        "GetWorkflowExecutionHistory",
        execution=w.ex(),
        wait_new_event=True,
        history_event_filter_type=2,
    )
    await w.step(complete())
    await closing


@scenario()
async def history_wait_across_close(w: World) -> None:
    first = await w.start()
    waiting = w.later(
        "close event of the first run",
        "GetWorkflowExecutionHistory",
        execution=w.ex(),
        wait_new_event=True,
        history_event_filter_type=2,
    )
    await asyncio.sleep(1)
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    await waiting
    await w.step(complete("end"))
    closed = await w.wait_closed()
    w.record("of the latest run", closed)
    w.record("of the first run", await w.wait_closed(run_id=first.run_id))


@scenario()
async def describe_errors(w: World) -> None:
    other = await w.start("other")
    await w.start()
    cases: dict[str, dict[str, Any]] = {
        "unknown": {"execution": w.ex("nobody")},
        "wrong run": {"execution": w.ex("wf", NO_RUN)},
        "run of another": {"execution": w.ex("wf", other.run_id)},
        "bad run": {"execution": w.ex("wf", "not-a-uuid")},
        "no execution": {},
        "no workflow id": {"execution": {}},
    }
    for name, fields in cases.items():
        await w.try_call(name, "DescribeWorkflowExecution", **fields)


@scenario()
async def by_run_id(w: World) -> None:
    """Requests that name an earlier run, closed, of a workflow id that runs again."""
    first = await w.start()
    await w.step(complete("first"))
    await w.start()
    await w.describe(run_id=first.run_id, record_as="first run")
    earlier = w.ex("wf", first.run_id)
    await w.try_call("signal", "SignalWorkflowExecution", workflow_execution=earlier, signal_name="signal")
    await w.try_call("cancel", "RequestCancelWorkflowExecution", workflow_execution=earlier)
    await w.try_call("terminate", "TerminateWorkflowExecution", workflow_execution=earlier)
    await w.history()


@scenario(sdk=True)
async def sdk_not_found(w: World) -> None:
    client = await w.client()
    handle = client.get_workflow_handle(w.id("nobody"))
    calls = {
        "describe": handle.describe(),
        "signal": handle.signal("signal"),
        "query": handle.query("question"),
        "cancel": handle.cancel(),
        "terminate": handle.terminate(),
        "result": handle.result(),
        "update": handle.execute_update("change"),
    }
    for name, call in calls.items():
        try:
            await call
        except RPCError as error:
            w.record(name, [type(error).__name__, error.status.name, error.message])


@scenario()
async def system_info(w: World) -> None:
    answer = await w.call("GetSystemInfo")
    capabilities = answer.capabilities
    w.record(
        "capabilities that an SDK acts on",
        {
            name: getattr(capabilities, name)
            for name in (
                "signal_and_query_header",
                "internal_error_differentiation",
                "activity_failure_include_heartbeat",
                "encoded_failure_attributes",
                "upsert_memo",
                "eager_workflow_start",
                "sdk_metadata",
                "count_group_by_execution_status",
            )
        },
    )
    cluster = await w.call("GetClusterInfo")
    w.record("cluster", sorted(field.name for field, _ in cluster.ListFields()))
    clusters = await w.call("ListClusters")
    w.record("clusters", len(clusters.clusters))


@scenario()
async def health(w: World) -> None:
    stub = health_pb2_grpc.HealthStub(w.channel)
    for service in (
        "temporal.api.workflowservice.v1.WorkflowService",
        "nonsense",
    ):
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        except grpc.aio.AioRpcError as error:
            w.record(service, error.code().name)
        else:
            w.record(service, answer)


@scenario()
async def transport(w: World) -> None:
    """What gRPC itself refuses."""
    service = "/temporal.api.workflowservice.v1.WorkflowService"
    large = b"\x0a\x80\x80\x80\x02" + bytes(4 * 1024 * 1024)
    largest = large[: 4 * 1024 * 1024]
    calls = {
        "too large": (f"{service}/GetSystemInfo", large, None),
        "too large once decompressed": (f"{service}/GetSystemInfo", large, grpc.Compression.Gzip),
        "largest": (f"{service}/NoSuchMethod", largest, None),
        "unknown method": (f"{service}/NoSuchMethod", b"", None),
        "unknown service": ("/temporal.api.NoService/Method", b"", None),
        "unknown path": ("/", b"", None),
    }
    for name, (path, request, compression) in calls.items():
        try:
            await w.channel.unary_unary(path)(request, timeout=10, compression=compression)
            w.record(name, "answered")
        except grpc.aio.AioRpcError as error:
            w.record(name, describe_error(error))


@scenario()
async def describe_task_queue(w: World) -> None:
    await w.start()
    await w.step(complete())
    answer = await w.call("DescribeTaskQueue", task_queue=w.queue(), task_queue_type=1)
    w.record("pollers", [poller.identity for poller in answer.pollers])
    empty = await w.call(
        "DescribeTaskQueue", task_queue=w.queue("nobody"), task_queue_type=2, report_stats=True
    )
    w.record(
        "empty queue", {"pollers": list(empty.pollers), "backlog": empty.stats.approximate_backlog_count}
    )
    for number in range(3):
        await w.start(f"waiting{number}", queue="backlog")
    backlog = await w.until(
        lambda: w.call(
            "DescribeTaskQueue", task_queue=w.queue("backlog"), task_queue_type=1, report_stats=True
        ),
        lambda answer: answer.stats.approximate_backlog_count == 3 and answer,
        "a backlog of three",
    )
    w.record("backlog", backlog.stats.approximate_backlog_count)
    w.record("backlog has an age", backlog.stats.approximate_backlog_age.ToNanoseconds() > 0)
    await w.try_call("no queue", "DescribeTaskQueue", task_queue_type=1)
    await w.try_call("empty name", "DescribeTaskQueue", task_queue={"name": ""}, task_queue_type=1)
    await w.try_call("long name", "DescribeTaskQueue", task_queue={"name": "x" * 1001}, task_queue_type=1)


@scenario()
async def task_queue_partitions(w: World) -> None:
    answer = await w.call("ListTaskQueuePartitions", task_queue=w.queue())
    # How many there are is a setting; that the first has the queue's own name is not.
    w.record("first activity partition", answer.activity_task_queue_partitions[0].key)
    w.record("first workflow partition", answer.workflow_task_queue_partitions[0].key)
    await w.try_call("no queue", "ListTaskQueuePartitions")


@scenario()
async def worker_calls(w: World) -> None:
    # Not RecordWorkerHeartbeat: the real server of this version has it switched off, ours accepts it.
    await w.try_call("shutdown", "ShutdownWorker", sticky_task_queue=w.id("sticky"), reason="done")
    await w.try_call("shutdown without a queue", "ShutdownWorker")


@scenario()
async def long_poll_empty(w: World) -> None:
    for method in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
        await w.try_call(method, method, task_queue=w.queue(), limit_s=4)


@scenario()
async def respond_mismatched_token(w: World) -> None:
    """A token given with the name of another namespace."""
    from ..commands import activity

    await w.start()
    await w.step(activity(queue=w.id("act")))
    running = await w.activity("act")
    await w.signal()
    task = await w.task()
    await w.try_call(
        "other namespace", "RespondActivityTaskCompleted", task_token=running.task_token, namespace="default"
    )
    await w.call("RespondActivityTaskCompleted", task_token=running.task_token, result=payloads(1))
    await w.done(task)
    await w.history()
