"""Child workflows."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ChildWorkflowError

from ..commands import application_failure, command, complete, fail, payload, payloads, retry, seconds
from ..registry import scenario
from ..world import World

TERMINATE, ABANDON, REQUEST_CANCEL = 1, 2, 3


def _child(w: World, name: str = "child", **fields: object) -> object:
    fields.setdefault("workflow_type", {"name": "Child"})
    fields.setdefault("task_queue", w.queue("child"))
    return command("START_CHILD_WORKFLOW_EXECUTION", workflow_id=w.id(name), **fields)


def _cancel(w: World, name: str = "child", **fields: object) -> object:
    return command(
        "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION",
        workflow_id=w.id(name),
        child_workflow_only=True,
        **fields,
    )


async def _running(w: World, **fields: object) -> object:
    """A parent that knows that its child has started. Returns the child's first task."""
    await w.start(workflow_task_timeout=seconds(30))
    await w.step(_child(w, **fields))
    await w.step()
    return await w.task("child")


@scenario()
async def child_basic(w: World) -> None:
    await w.start()
    await w.step(_child(w, input=payloads("in"), control="control"))
    task = await w.task(record_as="child has started")
    await w.describe(record_as="pending child")
    await w.done(task)
    child = await w.task("child", record_as="child's task")
    await w.done(child, complete("out"))
    await w.step(complete())
    await w.history()
    await w.history("child")
    await w.describe("child")


@scenario(namespace="attributes")
async def child_all_fields(w: World) -> None:
    await w.start(workflow_execution_timeout=seconds(3000), priority={"priority_key": 1})
    await w.step(
        _child(
            w,
            input=payloads("in"),
            workflow_execution_timeout=seconds(300),
            workflow_run_timeout=seconds(200),
            workflow_task_timeout=seconds(7),
            parent_close_policy=ABANDON,
            workflow_id_reuse_policy=2,
            retry_policy=retry(4),
            header={"fields": {"trace": payload("abc")}},
            memo={"fields": {"note": payload("n")}},
            search_attributes={"indexed_fields": {"OracleKeyword": payload("k")}},
            priority={"priority_key": 5},
        )
    )
    await w.step()
    await w.task("child")
    await w.history()
    await w.history("child")
    await w.describe("child")


@scenario()
async def child_failed(w: World) -> None:
    child = await _running(w)
    await w.done(child, fail("child broke", details=payloads(1)))
    await w.step(complete())
    await w.history()


@scenario()
async def child_canceled(w: World) -> None:
    child = await _running(w)
    await w.done(child)
    await w.signal()
    await w.step(_cancel(w, reason="enough"))
    task = await w.task("child")
    await w.done(task, command("CANCEL_WORKFLOW_EXECUTION", details=payloads("bye")))
    await w.wait_event("CHILD_WORKFLOW_EXECUTION_CANCELED")
    await w.history("child")
    events = await w.events()
    w.record("event types", sorted(e.event_type for e in events))
    w.record("child events", [e for e in events if e.event_type in (21, 22, 23, 27, 28, 32)])


@scenario()
async def child_terminated(w: World) -> None:
    child = await _running(w)
    await w.done(child)
    await w.terminate("child", reason="enough", details=payloads(1))
    await w.step(complete())
    await w.history()


@scenario()
async def child_timed_out(w: World) -> None:
    await w.start()
    await w.step(_child(w, workflow_run_timeout=seconds(2), task_queue=w.queue("nobody")))
    await w.step()
    await w.step(complete())
    await w.history()


@scenario()
async def child_start_failed(w: World) -> None:
    await w.start("child", queue="other")
    await w.start()
    await w.step(_child(w, control="control"))
    await w.step(complete())
    await w.history()


@scenario()
async def child_reuse_policy(w: World) -> None:
    for policy in (1, 2, 3):
        name = f"child{policy}"
        await w.start(name, queue=name)
        await w.step(complete(), queue=name)
        parent = f"parent{policy}"
        await w.start(parent, queue=parent)
        await w.step(_child(w, name, workflow_id_reuse_policy=policy), queue=parent)
        await w.step(complete(), queue=parent)
        w.record(f"policy {policy}", (await w.events(parent))[4:6])


@scenario()
async def child_abandon(w: World) -> None:
    await _running(w, parent_close_policy=ABANDON)
    await w.signal()
    await w.step(complete())
    await w.signal(workflow="child")
    await w.history("child")
    await w.describe("child")


@scenario()
async def child_parent_close_terminate(w: World) -> None:
    await _running(w, parent_close_policy=TERMINATE)
    await w.signal()
    await w.step(complete())
    await w.wait_closed("child")
    await w.history("child")
    await w.history()


@scenario()
async def child_parent_close_default(w: World) -> None:
    child = await _running(w)
    await w.done(child)
    await w.terminate()
    await w.wait_closed("child")
    await w.history("child")


@scenario()
async def child_parent_close_request_cancel(w: World) -> None:
    child = await _running(w, parent_close_policy=REQUEST_CANCEL)
    await w.done(child)
    await w.signal()
    await w.step(complete())
    task = await w.task("child", record_as="child's task")
    await w.done(task, command("CANCEL_WORKFLOW_EXECUTION"))
    await w.history("child")


@scenario()
async def child_of_continued_parent(w: World) -> None:
    """The parent continues as new: the close policy applies."""
    child = await _running(w, parent_close_policy=TERMINATE)
    await w.done(child)
    await w.signal()
    await w.step(command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    await w.wait_closed("child")
    await w.history("child")


@scenario()
async def child_started_by_closing_task(w: World) -> None:
    """Started and abandoned, or not, by the task that closes the parent."""
    for policy in (TERMINATE, ABANDON):
        parent = f"parent{policy}"
        await w.start(parent, queue=parent)
        child = _child(w, f"child{policy}", parent_close_policy=policy, task_queue=w.queue(f"child{policy}"))
        await w.step(child, complete(), queue=parent)
        await w.history(parent)
    await w.no_task(f"child{ABANDON}")


@scenario()
async def child_cancel_before_start(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), _child(w), _cancel(w))
    await w.step()
    await w.history()


@scenario()
async def child_retry(w: World) -> None:
    child = await _running(w, retry_policy=retry(3))
    await w.done(child, fail("first"))
    await w.step(complete("second"), queue="child")
    await w.step(complete())
    await w.history()


@scenario()
async def child_retry_exhausted(w: World) -> None:
    child = await _running(w, retry_policy=retry(2))
    await w.done(child, fail("first"))
    await w.step(fail("second"), queue="child")
    await w.step(complete())
    await w.history()


@scenario()
async def child_continue_as_new(w: World) -> None:
    child = await _running(w)
    await w.done(child, command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION"))
    task = await w.task("child")
    await w.history("child", record_as="second run of the child")
    await w.describe(record_as="pending child")
    await w.done(task, complete("end"))
    await w.step(complete())
    await w.history()


@scenario()
async def child_cancel_not_found(w: World) -> None:
    child = await _running(w)
    await w.done(child, complete())
    await w.step(_cancel(w))
    await w.step(_cancel(w, "nobody"))
    await w.step()
    await w.history()


@scenario()
async def child_unknown_namespace(w: World) -> None:
    await w.start()
    await w.try_done("answer", await w.task(), _child(w, namespace="oracle-nowhere"))
    await w.history()


@scenario()
async def child_cron_and_delay(w: World) -> None:
    """A cron child: the parent hears of it when it is terminated."""
    child = await _running(w, cron_schedule="@every 1s")
    await w.done(child, complete(1))
    task = await w.task("child")
    w.record("second run's first event", task.history.events[0])
    await w.terminate("child")
    await w.step(complete())
    await w.history()


@scenario()
async def child_same_id_twice(w: World) -> None:
    """Two children of one id: the second is refused while the first runs, and allowed after its end."""
    child = await _running(w)
    await w.done(child)
    await w.signal()
    await w.step(_child(w))
    await w.step()
    await w.signal(workflow="child")
    await w.step(complete(), queue="child")
    await w.step(_child(w))
    await w.step(complete())
    await w.history()


@scenario()
async def grandchild_root(w: World) -> None:
    child = await _running(w)
    await w.done(child, _child(w, "grandchild", task_queue=w.queue("grand")))
    await w.task("grand")
    w.record("first event", (await w.events("grandchild"))[0])
    await w.describe("grandchild")


@scenario()
async def child_failure_with_unusual_info(w: World) -> None:
    child = await _running(w)
    failure = {"message": "bare", "cause": application_failure("cause")}
    await w.done(child, command("FAIL_WORKFLOW_EXECUTION", failure=failure))
    await w.step(complete())
    w.record("failed", [e for e in await w.events() if e.event_type == 31])


@workflow.defn(name="SdkChild")
class SdkChild:
    @workflow.run
    async def run(self, how: str) -> str:
        if how == "fail":
            raise ApplicationError("child broke", type="ChildBroke")
        return f"child says {how}"


@workflow.defn(name="SdkParent")
class SdkParent:
    @workflow.run
    async def run(self, prefix: str) -> list[str]:
        seen = [await workflow.execute_child_workflow(SdkChild.run, "hello", id=prefix + "good")]
        try:
            await workflow.execute_child_workflow(SdkChild.run, "fail", id=prefix + "bad")
        except ChildWorkflowError as error:
            cause = error.cause
            assert isinstance(cause, ApplicationError)
            seen.append(f"{error.workflow_type}: {cause.type}: {cause.message}")
        await workflow.sleep(timedelta(milliseconds=100))
        return seen


@scenario(sdk=True)
async def sdk_child(w: World) -> None:
    client = await w.client()
    async with w.worker([SdkParent, SdkChild], max_cached_workflows=0):
        result = await client.execute_workflow(SdkParent.run, w.prefix, id=w.id("wf"), task_queue=w.id("tq"))
    w.record("result", result)
    w.record("child events", [e for e in await w.events() if e.event_type in range(28, 35)])
    await w.history("good")
