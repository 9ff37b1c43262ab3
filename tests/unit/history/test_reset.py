"""Resetting runs, with the pages that a gateway would prepare."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import (
    EventType,
    ParentClosePolicy,
    ResetReapplyExcludeType,
    ResetReapplyType,
)
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as api

from streams import avro, bodies
from streams.history import errors, reset
from streams.history.refold import NoTaskError, Refold
from tests.unit.history.support import (
    IDENTITY,
    NAMESPACE,
    CallError,
    Workflows,
    activity,
    command,
    complete,
    payload,
    seconds,
)

NEW = "the-new-run"
EXCLUDE_ALL = [value for value in ResetReapplyExcludeType.values() if value]


@pytest.fixture
def workflows() -> Workflows:
    """A workflow that has been started, with nothing done."""
    world = Workflows()
    world.start()
    return world


class Preparation:
    """What a gateway sends to reset the current run, or `base`, to `event_id`."""

    def __init__(
        self, world: Workflows, event_id: int, base: str = "", new_run_id: str = NEW, **fields: Any
    ) -> None:
        self.world = world
        self.new_run_id = new_run_id
        self.request = api.ResetWorkflowExecutionRequest(
            namespace=NAMESPACE,
            reason="because",
            request_id=fields.pop("request_id", f"request-{new_run_id}"),
            workflow_task_finish_event_id=event_id,
            **fields,
        )
        self.base = self.ask(base)
        self.events = [
            event.SerializeToString(deterministic=True)
            for event in world.events[self.base.base_run_id][: event_id - 1]
        ]
        refold = Refold(NAMESPACE, "wf", new_run_id)
        for event in self.events:
            refold.add(event)
        self.parts = tuple(refold.parts())
        self.seen = self.base.next_event_id
        self.reapply = self.later(event_id)

    def ask(self, base: str) -> bodies.ResetBase:
        """Make the PrepareReset call."""
        self.world.calls += 1
        data = self.request.SerializeToString()
        call = bodies.Call("PrepareReset", NAMESPACE, "wf", base, data)
        ((_, reply),) = self.world.send(call, self.world.calls).replies
        if reply.code:
            raise CallError(reply.code, reply.message)
        return avro.decode(bodies.ResetBase, reply.body)

    def later(self, first: int) -> tuple[bytes, ...]:
        """The base run's events from `first` that come again."""
        types = reset.excluded(self.request)
        if reset.excludes_all(types):
            return ()
        return tuple(
            event.SerializeToString(deterministic=True)
            for event in self.world.events[self.base.base_run_id][first - 1 : self.seen - 1]
            if reset.comes_again(event, types)
        )

    def page(self, number: int = 0, **changes: Any) -> bodies.ResetPrepared:
        """The whole reset in one page, or another page of it."""
        page = bodies.ResetPrepared(
            NAMESPACE,
            "wf",
            self.base.base_run_id,
            self.new_run_id,
            number,
            1,
            tuple(self.events),
            self.parts,
            self.reapply,
            True,
            self.request.SerializeToString(),
            reset.point_hash(self.events[-1]),
            (bodies.NumberPair(self.base.base_run_id, self.seen),),
        )
        return msgspec.structs.replace(page, **changes)

    def send(self, page: bodies.ResetPrepared) -> str:
        """Send the last page. Returns the run id of the answer. Raises CallError."""
        self.world.calls += 1
        ((_, reply),) = [
            (where, reply)
            for where, reply in self.world.send(page, self.world.calls).replies
            if where.id == self.world.calls
        ]
        if reply.code:
            raise CallError(reply.code, reply.message)
        return api.ResetWorkflowExecutionResponse.FromString(reply.body).run_id


def do_reset(world: Workflows, event_id: int, **fields: Any) -> str:
    """Reset in one page."""
    preparation = Preparation(world, event_id, **fields)
    return preparation.send(preparation.page())


def names(events: list[HistoryEvent]) -> list[str]:
    """The types of events, without prefix."""
    return [EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in events]


def ids(events: list[HistoryEvent]) -> list[int]:
    """The ids of events."""
    return [event.event_id for event in events]


def test_new_run_begins_with_the_copied_events_and_a_failed_task(workflows: Workflows) -> None:
    (base,) = workflows.events
    workflows.step(command("RECORD_MARKER", marker_name="m"))
    assert do_reset(workflows, 4) == NEW
    events = workflows.events[NEW]
    assert events[:3] == workflows.events[base][:3]
    assert names(events)[3:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_SCHEDULED"]
    assert ids(events) == [1, 2, 3, 4, 5]
    failed = events[3].workflow_task_failed_event_attributes
    assert (failed.base_run_id, failed.new_run_id, failed.failure.message) == (base, NEW, "because")
    assert failed.failure.HasField("reset_workflow_failure_info")
    workflows.fold.check_refold()


def test_current_run_is_terminated(workflows: Workflows) -> None:
    (base,) = workflows.events
    workflows.step()
    do_reset(workflows, 4)
    terminated = workflows.events[base][-1].workflow_execution_terminated_event_attributes
    assert (terminated.reason, terminated.identity) == ("because", "history-resetter")
    described = workflows.call(api.DescribeWorkflowExecutionRequest(namespace=NAMESPACE), run_id=base)
    assert described.workflow_extended_info.reset_run_id == NEW


def test_new_run_goes_on_by_itself(workflows: Workflows) -> None:
    workflows.step()
    do_reset(workflows, 4)
    workflows.step(complete())
    assert names(workflows.events[NEW])[-1] == "WORKFLOW_EXECUTION_COMPLETED"
    described = workflows.call(api.DescribeWorkflowExecutionRequest(namespace=NAMESPACE), run_id=NEW)
    assert described.workflow_extended_info.HasField("last_reset_time")
    workflows.fold.check_refold()


def test_closed_run_can_be_reset_while_another_runs(workflows: Workflows) -> None:
    (base,) = workflows.events
    workflows.step(complete())
    between = workflows.start()
    do_reset(workflows, 4, base=base)
    assert names(workflows.events[between])[-1] == "WORKFLOW_EXECUTION_TERMINATED"
    assert names(workflows.events[base])[-1] == "WORKFLOW_EXECUTION_COMPLETED"


def test_pending_activity_is_dispatched_anew(workflows: Workflows) -> None:
    workflows.step(activity())
    task = workflows.poll_activity()
    workflows.signal()
    workflows.step()
    workflows.fold.now_ms += 5_000
    do_reset(workflows, 8)
    with pytest.raises(CallError, match="already completed"):
        workflows.call(api.RespondActivityTaskCompletedRequest(task_token=task.task_token))
    again = workflows.poll_activity()
    assert (again.attempt, again.workflow_execution.run_id) == (1, NEW)
    assert again.scheduled_time.ToMilliseconds() == workflows.fold.now_ms


def test_timer_keeps_its_time(workflows: Workflows) -> None:
    workflows.step(command("START_TIMER", timer_id="t", start_to_fire_timeout=seconds(60)))
    workflows.signal()
    workflows.step()
    workflows.pass_time(50)
    do_reset(workflows, 8)
    workflows.pass_time(9)
    assert "TIMER_FIRED" not in names(workflows.events[NEW])
    workflows.pass_time(1)
    assert names(workflows.events[NEW])[-1] == "TIMER_FIRED"


def test_timer_that_is_past_fires_at_once(workflows: Workflows) -> None:
    workflows.step(command("START_TIMER", timer_id="t", start_to_fire_timeout=seconds(60)))
    workflows.signal()
    workflows.step(complete())
    workflows.pass_time(100)
    do_reset(workflows, 8)
    workflows.pass_time(0)
    assert names(workflows.events[NEW])[-1] == "TIMER_FIRED"


def test_run_timeout_counts_from_the_reset() -> None:
    workflows = Workflows()
    workflows.start(workflow_run_timeout=seconds(10))
    workflows.step()
    workflows.pass_time(10)
    do_reset(workflows, 4)
    workflows.pass_time(9)
    assert names(workflows.events[NEW])[-1] == "WORKFLOW_TASK_SCHEDULED"
    workflows.pass_time(1)
    assert names(workflows.events[NEW])[-1] == "WORKFLOW_EXECUTION_TIMED_OUT"


@pytest.mark.parametrize(
    ("fields", "signals"),
    [
        ({}, 1),
        ({"reset_reapply_type": ResetReapplyType.RESET_REAPPLY_TYPE_SIGNAL}, 1),
        ({"reset_reapply_type": ResetReapplyType.RESET_REAPPLY_TYPE_NONE}, 0),
        ({"reset_reapply_exclude_types": [1]}, 0),
        ({"reset_reapply_exclude_types": [2]}, 1),
        ({"reset_reapply_exclude_types": EXCLUDE_ALL}, 0),
    ],
)
def test_later_signals_come_again_unless_excluded(
    workflows: Workflows, fields: dict[str, Any], signals: int
) -> None:
    workflows.step()
    workflows.signal()
    workflows.step()
    do_reset(workflows, 4, **fields)
    assert names(workflows.events[NEW]).count("WORKFLOW_EXECUTION_SIGNALED") == signals


def test_signal_in_the_buffer_comes_again(workflows: Workflows) -> None:
    workflows.step()
    workflows.signal()
    workflows.poll()
    workflows.signal()
    do_reset(workflows, 4)
    assert names(workflows.events[NEW])[3:] == [
        "WORKFLOW_TASK_FAILED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_TASK_SCHEDULED",
    ]
    assert ids(workflows.events[NEW]) == list(range(1, 8))


def test_signal_that_comes_while_the_reset_is_prepared_is_not_lost(workflows: Workflows) -> None:
    workflows.step()
    preparation = Preparation(workflows, 4)
    workflows.signal()
    with pytest.raises(CallError) as error:
        preparation.send(preparation.page())
    assert error.value.code == errors.ABORTED
    first, preparation.seen = preparation.seen, preparation.seen + 2
    late = preparation.page(
        1,
        first_event_id=4,
        events=(),
        parts=(),
        reapply=preparation.later(first),
        point_hash=reset.point_hash(preparation.events[-1]),
    )
    assert preparation.send(late) == NEW
    assert names(workflows.events[NEW]).count("WORKFLOW_EXECUTION_SIGNALED") == 1
    workflows.fold.check_refold()


def test_child_that_runs_goes_on_under_the_new_run(workflows: Workflows) -> None:
    workflows.step(child())
    workflows.step()
    workflows.signal()
    workflows.step()
    do_reset(workflows, 13)
    workflows.step(complete(), queue="child")
    assert names(workflows.events[NEW])[-1] == "CHILD_WORKFLOW_EXECUTION_COMPLETED"


def child(**fields: Any) -> Command:
    """A command that starts a child on a queue of its own."""
    given = {
        "workflow_id": "child",
        "workflow_type": {"name": "Child"},
        "task_queue": {"name": "child"},
    } | fields
    return command("START_CHILD_WORKFLOW_EXECUTION", **given)


def closed_before_start(world: Workflows, start: Command) -> str:
    """Close the parent, and hold the start of the child that it initiated before event 8. Returns its run."""
    (base,) = world.events
    world.hold()
    world.step(start)
    world.signal()
    world.step(complete())
    return base


def runs_of_child(world: Workflows) -> list[str]:
    """The runs of the child's id."""
    return [row.run_id for row in world.rows.values() if row.workflow_id == "child"]


def test_child_whose_start_was_not_told_of_goes_on_under_the_new_run(workflows: Workflows) -> None:
    base = closed_before_start(workflows, child())
    do_reset(workflows, 8, base=base)
    workflows.release()
    (run_id,) = runs_of_child(workflows)
    assert workflows.event("CHILD_WORKFLOW_EXECUTION_STARTED").workflow_execution.run_id == run_id
    first = workflows.history("child")[0].workflow_execution_started_event_attributes
    assert first.parent_workflow_execution.run_id == base
    workflows.step(complete(), queue="child")
    assert names(workflows.events[NEW])[-1] == "CHILD_WORKFLOW_EXECUTION_COMPLETED"
    workflows.fold.check_refold()


def test_child_that_ended_with_a_parent_that_did_not_know_it_starts_again(workflows: Workflows) -> None:
    start = child()
    start.user_metadata.summary.CopyFrom(payload("summary"))
    base = closed_before_start(workflows, start)
    workflows.release()
    (ended,) = runs_of_child(workflows)
    assert names(workflows.events[ended])[-1] == "WORKFLOW_EXECUTION_TERMINATED"
    workflows.take(bodies.WORKFLOW_TASK, "child")
    do_reset(workflows, 8, base=base)
    assert workflows.event("CHILD_WORKFLOW_EXECUTION_STARTED").workflow_execution.run_id != ended
    assert workflows.history("child")[0].user_metadata.summary == payload("summary")
    workflows.step(complete(), queue="child")
    assert names(workflows.events[NEW])[-1] == "CHILD_WORKFLOW_EXECUTION_COMPLETED"
    workflows.fold.check_refold()


def test_child_whose_id_is_taken_fails_for_the_new_run_too(workflows: Workflows) -> None:
    base = closed_before_start(workflows, child())
    workflows.start("child", queue="other")
    workflows.release()
    do_reset(workflows, 8, base=base)
    failed = workflows.event("START_CHILD_WORKFLOW_EXECUTION_FAILED")
    assert (failed.initiated_event_id, failed.workflow_id) == (5, "child")


def test_child_of_another_chain_is_not_taken_over(workflows: Workflows) -> None:
    base = closed_before_start(workflows, child())
    workflows.release()
    workflows.start()
    workflows.step(child(parent_close_policy=ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON))
    do_reset(workflows, 8, base=base)
    assert names(workflows.events[NEW])[-1] == "START_CHILD_WORKFLOW_EXECUTION_FAILED"
    workflows.fold.check_refold()


def test_end_of_a_child_tells_of_its_start_too_when_a_reset_cut_that_off(workflows: Workflows) -> None:
    workflows.hold()
    workflows.step(child())
    workflows.signal()
    workflows.step()
    workflows.release()
    workflows.hold()
    workflows.step(complete(), queue="child")
    do_reset(workflows, 9, reset_reapply_exclude_types=EXCLUDE_ALL)
    workflows.release()
    assert names(workflows.events[NEW])[8:] == [
        "WORKFLOW_TASK_FAILED",
        "WORKFLOW_TASK_SCHEDULED",
        "CHILD_WORKFLOW_EXECUTION_STARTED",
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
    ]
    workflows.fold.check_refold()


def test_childs_end_after_the_point_comes_again(workflows: Workflows) -> None:
    workflows.step(child())
    workflows.step()
    workflows.step(complete(), queue="child")
    workflows.step()
    do_reset(workflows, 9)
    assert names(workflows.events[NEW])[8:] == [
        "WORKFLOW_TASK_FAILED",
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
    ]


def test_request_to_another_workflow_without_an_answer_goes_out_again(workflows: Workflows) -> None:
    workflows.start("other", queue="other")
    workflows.step(queue="other")
    workflows.hold()
    workflows.step(
        command("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION", execution={"workflow_id": "other"}, signal_name="hello")
    )
    workflows.signal()
    workflows.step()
    do_reset(workflows, 8)
    workflows.release()
    assert workflows.kinds("other").count("WORKFLOW_EXECUTION_SIGNALED") == 2
    assert "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED" in names(workflows.events[NEW])


def test_point_at_the_started_event_starts_the_task_for_the_server(workflows: Workflows) -> None:
    workflows.step()
    do_reset(workflows, 3)
    started = workflows.events[NEW][2].workflow_task_started_event_attributes
    assert started.identity == "history-service"
    assert names(workflows.events[NEW])[3:] == ["WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_SCHEDULED"]


def test_point_after_a_failed_task_gets_a_task_of_its_own(workflows: Workflows) -> None:
    task = workflows.poll()
    workflows.call(api.RespondWorkflowTaskFailedRequest(task_token=task.task_token, identity=IDENTITY))
    workflows.signal()
    workflows.step(complete())
    do_reset(workflows, 5)
    assert names(workflows.events[NEW])[3:] == [
        "WORKFLOW_TASK_FAILED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_TASK_STARTED",
        "WORKFLOW_TASK_FAILED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_TASK_SCHEDULED",
    ]


def test_point_without_a_pending_task_is_refused(workflows: Workflows) -> None:
    workflows.step()
    workflows.signal()
    with pytest.raises(NoTaskError):
        Preparation(workflows, 5)


@pytest.mark.parametrize("event_id", [-1, 0, 1, 3, 99])
def test_point_outside_of_the_history_is_refused(workflows: Workflows, event_id: int) -> None:
    with pytest.raises(CallError, match="Workflow task finish ID must be > 1"):
        Preparation(workflows, event_id)


def test_same_request_is_carried_out_once(workflows: Workflows) -> None:
    workflows.step()
    first = Preparation(workflows, 4, request_id="r")
    racing = Preparation(workflows, 4, new_run_id="racing", request_id="r")
    assert first.send(first.page()) == NEW
    assert racing.send(racing.page()) == NEW
    assert "racing" not in workflows.events
    assert Preparation.ask(first, "").done_run_id == NEW


def test_reset_in_many_pages_makes_the_same_run(workflows: Workflows) -> None:
    workflows.step(activity())
    workflows.signal()
    workflows.step()
    one = Preparation(workflows, 8, request_id="one")
    events, parts = one.events, one.parts
    pages = [
        one.page(n, first_event_id=n + 1, events=(event,), parts=(), reapply=(), last=False)
        for n, event in enumerate(events)
    ]
    for page in pages:
        workflows.send(page)
    number = len(pages)
    for part in parts:
        workflows.send(
            one.page(number, first_event_id=len(events) + 1, events=(), parts=(part,), reapply=(), last=False)
        )
        number += 1
    workflows.fold.restart()
    assert one.send(one.page(number, first_event_id=len(events) + 1, events=(), parts=())) == NEW
    assert ids(workflows.events[NEW]) == list(range(1, 11))
    assert workflows.deliver(workflows.take(bodies.ACTIVITY_TASK, "act")) is None, "of the old run"
    assert workflows.poll_activity().activity_id == "a1"
    workflows.fold.check_refold()


def test_pages_that_never_end_are_forgotten(workflows: Workflows) -> None:
    workflows.step()
    preparation = Preparation(workflows, 4)
    workflows.send(preparation.page(last=False))
    assert NEW in workflows.events
    workflows.pass_time(reset.FORGET_AFTER_MS / 1000)
    assert NEW not in workflows.events
    late = preparation.page(1, first_event_id=4, events=(), parts=())
    with pytest.raises(CallError) as error:
        preparation.send(late)
    assert error.value.code == errors.UNAVAILABLE
    workflows.fold.checkpoint()
    assert not [place for place in workflows.fold.store.rows if NEW in place[2]]


def test_pages_of_another_point_are_refused(workflows: Workflows) -> None:
    workflows.step()
    preparation = Preparation(workflows, 4)
    with pytest.raises(CallError) as error:
        preparation.send(preparation.page(point_hash=reset.point_hash(b"another event")))
    assert error.value.code == errors.INTERNAL
    assert NEW not in workflows.events


def test_base_that_was_deleted_meanwhile_is_not_found(workflows: Workflows) -> None:
    (base,) = workflows.events
    workflows.step(complete())
    preparation = Preparation(workflows, 4, base=base)
    workflows.call(api.DeleteWorkflowExecutionRequest(namespace=NAMESPACE))
    with pytest.raises(CallError) as error:
        preparation.send(preparation.page())
    assert error.value.code == errors.NOT_FOUND
    assert NEW not in workflows.events
