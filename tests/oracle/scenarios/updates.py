"""Updates: acceptance, completion, rejection and their errors."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio.api.command.v1 import Command
from temporalio.api.protocol.v1 import Message

from ..commands import activity, application_failure, command, complete, payload, payloads, seconds, timer
from ..protocol import accepted, completed, rejected
from ..registry import scenario
from ..world import Later, World

ADMITTED, ACCEPTED, COMPLETED = 1, 2, 3


def update(
    w: World, record_as: str, update_id: str = "u1", *, stage: int = COMPLETED, **fields: Any
) -> Later:
    """Send an update; its answer is recorded when it is awaited."""
    fields.setdefault("workflow_execution", w.ex())
    fields.setdefault("wait_policy", {"lifecycle_stage": stage})
    fields.setdefault(
        "request",
        {
            "meta": {"update_id": update_id, "identity": "updater"},
            "input": {"name": "change", "args": payloads("arg")},
        },
    )
    return w.later(record_as, "UpdateWorkflowExecution", **fields)


async def answer(
    w: World, task: Any, *placed: tuple[Message, Command] | Message, more: Any = (), **fields: Any
) -> Any:
    """Complete a workflow task with protocol messages and their commands, then other commands."""
    messages = [one[0] if isinstance(one, tuple) else one for one in placed]
    commands = [one[1] for one in placed if isinstance(one, tuple)]
    return await w.done(task, *commands, *more, messages=messages, **fields)


async def idle(w: World) -> None:
    """A workflow that has completed its first task and waits."""
    await w.start()
    await w.step()


@scenario()
async def raw_accept_complete(w: World) -> None:
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), completed("u1", "out"))
    await request
    await w.history()
    await w.describe()


@scenario()
async def raw_accept_then_complete(w: World) -> None:
    await idle(w)
    first = update(w, "accepted", stage=ACCEPTED)
    task = await w.task()
    second = update(w, "completed", "u2")
    await answer(w, task, accepted(task.messages[0]), more=[timer(timeout_s=600)])
    await first
    task = await w.task(record_as="task with the second update")
    await answer(w, task, accepted(task.messages[0]), completed("u2", 2), completed("u1", 1))
    await second
    await update(w, "first again")
    await w.history()


@scenario()
async def raw_reject(w: World) -> None:
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await answer(w, task, rejected(task.messages[0]))
    await request
    await w.history()
    await w.describe()
    await w.signal()
    await w.task(record_as="next task")


@scenario()
async def raw_reject_with_other_events(w: World) -> None:
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await w.signal()
    await answer(w, task, rejected(task.messages[0]))
    await request
    await w.history()
    await w.task(record_as="next task")


@scenario()
async def raw_reject_with_commands(w: World) -> None:
    """A rejection in a task that does something else as well: the task stays in history."""
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await answer(w, task, rejected(task.messages[0]), more=[timer(timeout_s=600)])
    await request
    await w.history()


@scenario()
async def raw_reject_on_scheduled_task(w: World) -> None:
    """The update joins a task that a signal has scheduled."""
    await idle(w)
    await w.signal()
    request = update(w, "answer")
    await admitted(w)
    task = await w.task(record_as="task")
    await answer(w, task, rejected(task.messages[0]))
    await request
    await w.history()


async def admitted(w: World) -> None:
    """Wait long enough for an update that was sent just now to be admitted."""
    # Admitted updates are invisible to clients; what the recording shows next proves that it was there.
    await asyncio.sleep(3)


@scenario()
async def raw_fail_outcome(w: World) -> None:
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    failure = application_failure("update broke", details=payloads(1))
    await answer(w, task, accepted(task.messages[0]), completed("u1", failure=failure))
    await request
    await w.history()


@scenario()
async def speculative_task_shape(w: World) -> None:
    await idle(w)
    request = update(
        w,
        "answer",
        request={
            "meta": {"update_id": "u1", "identity": "updater"},
            "input": {
                "name": "change",
                "args": payloads("arg"),
                "header": {"fields": {"trace": payload("abc")}},
            },
        },
    )
    task = await w.task(record_as="task")
    await w.history(record_as="while the task runs")
    await w.describe(record_as="described while the task runs")
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1))
    await request


@scenario()
async def speculative_becomes_normal(w: World) -> None:
    """A signal arrives while the update's task runs."""
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await w.signal()
    await w.history(record_as="signalled")
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1))
    await request
    await w.history()


@scenario()
async def speculative_on_sticky(w: World) -> None:
    await w.start()
    task = await w.task()
    poll = await w.sticky_poll()
    await w.done(task, sticky_attributes=w.sticky())
    request = update(w, "answer")
    task = await poll
    w.record("task", task)
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1), sticky_attributes=w.sticky())
    await request
    await w.history()


@scenario()
async def sticky_lost(w: World) -> None:
    """Nobody polls the sticky queue any more: the update comes on the normal queue."""
    await w.start()
    await w.done(await w.task(), sticky_attributes=w.sticky(2))
    request = update(w, "answer")
    task = await w.task(record_as="task")
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1))
    await request
    await w.history()


@scenario()
async def two_in_one_task(w: World) -> None:
    await idle(w)
    await w.signal()
    first = update(w, "first")
    await admitted(w)
    second = update(w, "second", "u2")
    await admitted(w)
    task = await w.task(record_as="task")
    one, two = task.messages
    await answer(w, task, accepted(one), accepted(two), completed("u2", 2), completed("u1", 1))
    await first
    await second
    await w.history()


@scenario()
async def dedup_by_id(w: World) -> None:
    await idle(w)
    first = update(w, "first")
    task = await w.task()
    again = update(w, "again, while admitted")
    await admitted(w)
    await answer(w, task, accepted(task.messages[0]), completed("u1", "out"))
    await first
    await again
    await update(w, "again, completed")
    second = update(w, "second", "u2", stage=ACCEPTED)
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]))
    await second
    await update(w, "second again, wait for accepted", "u2", stage=ACCEPTED)
    await w.signal()
    task = await w.task()
    w.record("messages of the next task", len(task.messages))
    await answer(w, task, completed("u2", "late"))
    await update(w, "second again, completed", "u2")
    await w.history()


@scenario()
async def server_chosen_id(w: World) -> None:
    """Without an update id the server makes one."""
    await idle(w)
    request = update(w, "answer", request={"meta": {"identity": "updater"}, "input": {"name": "change"}})
    task = await w.task()
    message = task.messages[0]
    await answer(w, task, accepted(message), completed(message.protocol_instance_id, 1))
    await request


@scenario()
async def poll_stages(w: World) -> None:
    def poll(record_as: str, update_id: str, stage: int, **fields: Any) -> Later:
        reference = {"workflow_execution": w.ex(), "update_id": update_id}
        policy = {"lifecycle_stage": stage} if stage else None
        return w.later(
            record_as, "PollWorkflowExecutionUpdate", update_ref=reference, wait_policy=policy, **fields
        )

    await idle(w)
    await poll("unknown", "nobody", COMPLETED)
    request = update(w, "update", stage=ACCEPTED)
    task = await w.task()
    await poll("admitted, not waiting", "u1", 0)
    waiting = poll("waits for completed", "u1", COMPLETED)
    await answer(w, task, accepted(task.messages[0]))
    await request
    await poll("accepted, not waiting", "u1", 0)
    await poll("accepted, waiting for accepted", "u1", ACCEPTED)
    await w.signal()
    task = await w.task()
    await answer(w, task, completed("u1", "out"))
    await waiting
    await poll("completed, not waiting", "u1", 0)
    await poll("completed, waiting for completed", "u1", COMPLETED)
    await poll("waiting for admitted", "u1", ADMITTED)
    await w.try_call("no reference", "PollWorkflowExecutionUpdate")
    await w.try_call(
        "unknown workflow",
        "PollWorkflowExecutionUpdate",
        update_ref={"workflow_execution": w.ex("nobody"), "update_id": "u1"},
        wait_policy={"lifecycle_stage": COMPLETED},
    )


@scenario()
async def errors(w: World) -> None:
    await idle(w)
    await w.start("closed", queue="closed")
    await w.step(complete(), queue="closed")
    good = {"meta": {"update_id": "u1"}, "input": {"name": "change"}}
    cases: dict[str, dict[str, Any]] = {
        "unknown workflow": {"workflow_execution": w.ex("nobody")},
        "closed": {"workflow_execution": w.ex("closed")},
        "wrong run": {"workflow_execution": w.ex("wf", "11111111-2222-4333-8444-555555555555")},
        "bad run": {"workflow_execution": w.ex("wf", "not-a-uuid")},
        "no workflow id": {"workflow_execution": {}},
        "no name": {"request": {"meta": {"update_id": "u1"}, "input": {}}},
        "no input": {"request": {"meta": {"update_id": "u1"}}},
        "no request": {"request": None},
        "no meta": {"request": {"input": {"name": "change"}}},
        "long id": {"request": {**good, "meta": {"update_id": "x" * 1001}}},
        "wait for admitted": {"stage": ADMITTED},
        "wrong first run": {"first_execution_run_id": "11111111-2222-4333-8444-555555555555"},
    }
    for name, fields in cases.items():
        await update(w, name, **fields)


@scenario()
async def aborted_by_close(w: World) -> None:
    """The run closes while one update is accepted and another admitted."""
    await idle(w)
    first = update(w, "accepted one")
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]))
    second = update(w, "admitted one", "u2")
    task = await w.task()
    await w.try_done("completion", task, complete())
    await first
    await second
    await update(w, "accepted one again")
    await w.history()


@scenario()
async def aborted_by_terminate(w: World) -> None:
    await idle(w)
    first = update(w, "accepted one")
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]))
    second = update(w, "admitted one", "u2")
    await w.task()
    await w.terminate()
    await first
    await second
    await w.history()


@scenario()
async def accepted_by_closing_task(w: World) -> None:
    """The task that accepts an update also closes the run."""
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), more=[complete()])
    await request
    await w.history()


@scenario()
async def completed_by_closing_task(w: World) -> None:
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1), more=[complete()])
    await request
    await w.history()
    await update(w, "again after close")
    await update(w, "another after close", "u2")


@scenario()
async def continue_as_new(w: World) -> None:
    """A run continues as new while an update waits: what its caller is told."""
    await idle(w)
    request = update(w, "accepted one", stage=COMPLETED)
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), more=[command("CONTINUE_AS_NEW_WORKFLOW_EXECUTION")])
    await request
    w.record("last events", (await w.events(run_id=task.workflow_execution.run_id))[7:])


@scenario()
async def retried_after_task_failure(w: World) -> None:
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await w.call(
        "RespondWorkflowTaskFailed", task_token=task.task_token, cause=1, failure=application_failure()
    )
    task = await w.task(record_as="second attempt")
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1))
    await request
    await w.history()


@scenario()
async def lost_worker(w: World) -> None:
    """The speculative task times out; the update is delivered again."""
    await w.start(workflow_task_timeout=seconds(2))
    await w.step()
    request = update(w, "answer")
    await w.task()
    task = await w.task(record_as="second task")
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1))
    await request
    await w.history()


@scenario()
async def first_task(w: World) -> None:
    await w.start()
    request = update(w, "answer")
    await admitted(w)
    task = await w.task(record_as="first task")
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1))
    await request
    await w.history()


@scenario()
async def while_task_runs(w: World) -> None:
    await idle(w)
    await w.signal()
    task = await w.task()
    request = update(w, "answer")
    await admitted(w)
    await w.done(task)
    task = await w.task(record_as="task")
    await answer(w, task, accepted(task.messages[0]), completed("u1", 1))
    await request
    await w.history()


@scenario()
async def with_activity(w: World) -> None:
    """The update's handler runs an activity between acceptance and completion."""
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await answer(w, task, accepted(task.messages[0]), more=[activity(queue=w.id("act"))])
    await w.act(payloads("from the activity"), queue="act")
    task = await w.task()
    await answer(w, task, completed("u1", "out"))
    await request
    await w.history()


@scenario()
async def ignored_by_worker(w: World) -> None:
    """A completion without a word on the update: the real server rejects it for the worker."""
    await idle(w)
    request = update(w, "answer")
    task = await w.task()
    await w.try_done("completion", task)
    await request
    await w.history()


@scenario()
async def caller_gone(w: World) -> None:
    """The caller gives up; the update goes on and its result is found by its id."""
    await idle(w)
    request = update(w, "never awaited", limit_s=3)
    task = await w.task()
    await request
    await answer(w, task, accepted(task.messages[0]), completed("u1", "out"))
    await update(w, "again")
    await w.history()
