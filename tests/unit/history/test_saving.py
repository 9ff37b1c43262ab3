"""What a short run leaves unsaid, and where that is found meanwhile (fold.md rules 12 and 21, decision 0012)."""

from __future__ import annotations

from collections import Counter

from temporalio.api.common.v1 import WorkerVersionStamp
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice import v1 as api

from streams import avro, bodies
from streams.runtime.records import Record, Reply
from streams.topology import HISTORY, TASKS, TIMERS, VISIBILITY
from tests.unit.history.support import NAMESPACE, Workflows, activity, command, complete, seconds

STAMP = WorkerVersionStamp(build_id="one")


def emissions(workflows: Workflows) -> list[Record]:
    """All that left the partition so far."""
    return [record for outcome in workflows.fold.outcomes for record in outcome.emissions]


def read(workflows: Workflows, after_event_id: int = 0) -> Reply:
    """Ask for what the history is, and for the events that come beside the answer."""
    workflows.calls += 1
    call = bodies.Call("ReadHistory", NAMESPACE, "wf", "", b"", after_event_id=after_event_id)
    ((_, reply),) = workflows.send(call, workflows.calls).replies
    return reply


def run_eagerly(workflows: Workflows, **activity_fields: object) -> None:
    """A run of one activity, which comes with the answer that schedules it."""
    workflows.start()
    scheduled = activity(queue="tq", **activity_fields)
    scheduled.schedule_activity_task_command_attributes.request_eager_execution = True
    task = workflows.step(scheduled, worker_version_stamp=STAMP).activity_tasks[0]
    workflows.call(api.RespondActivityTaskCompletedRequest(namespace=NAMESPACE, task_token=task.task_token))
    workflows.step(complete(), worker_version_stamp=STAMP)


def test_a_run_of_one_activity_leaves_few_records() -> None:
    workflows = Workflows()
    run_eagerly(workflows)
    assert Counter(record.topic for record in emissions(workflows)) == {
        TASKS: 2,
        HISTORY: 1,
        VISIBILITY: 2,
    }
    assert [event.event_id for event in workflows.history()] == list(range(1, 12))
    workflows.fold.check_refold()
    rows, dues = workflows.fold.store.rows, workflows.fold.store.dues
    assert {key[0] for key in rows} == {"executions", "current", "registry"}
    assert [len(rows) for rows in dues.values()] == [1], "its retention"


def test_older_logic_leaves_what_it_left() -> None:
    workflows = Workflows(logic_version=1)
    run_eagerly(workflows)
    assert Counter(record.topic for record in emissions(workflows)) == {
        TASKS: 2,
        HISTORY: 6,
        VISIBILITY: 3,
        TIMERS: 2,
    }


def test_events_of_which_no_record_tells_come_beside_answers_also_from_the_next_owner() -> None:
    workflows = Workflows()
    workflows.start()
    workflows.poll()
    for _ in range(2):
        reply = read(workflows)
        assert (reply.attach_first, reply.attach_last, reply.held_first_id) == (1, 3, 1)
        events = [HistoryEvent.FromString(event) for event in reply.held]
        assert [event.event_id for event in events] == [1, 2, 3]
        assert read(workflows, after_event_id=2).held == reply.held
        workflows.fold.restart()
    assert not [record for record in emissions(workflows) if record.topic == HISTORY]
    workflows.terminate()
    (batch,) = [record.body for record in emissions(workflows) if record.topic == HISTORY]
    assert (batch.first_event_id, batch.last_event_id, batch.events[:3]) == (1, 5, reply.held)
    assert read(workflows).held == ()
    workflows.fold.check_refold()


def test_events_wait_for_a_second_and_no_more_than_a_few_bytes() -> None:
    workflows = Workflows()
    workflows.start()
    workflows.pass_time(1.1)
    for _ in range(200):
        workflows.signal()
    batches = [record.body for record in emissions(workflows) if record.topic == HISTORY]
    assert (batches[0].first_event_id, batches[0].last_event_id) == (1, 2)
    assert [len(batch.events) for batch in batches[1:]] == [65] * 3
    workflows.pass_time(2)
    batches = [record.body for record in emissions(workflows) if record.topic == HISTORY]
    assert batches[-1].last_event_id == 202
    workflows.fold.check_refold()


def test_a_reset_reads_up_to_the_last_event() -> None:
    workflows = Workflows()
    workflows.start()
    workflows.poll()
    request = api.ResetWorkflowExecutionRequest(namespace=NAMESPACE, workflow_task_finish_event_id=3)
    workflows.calls += 1
    call = bodies.Call("PrepareReset", NAMESPACE, "wf", "", request.SerializeToString())
    ((_, reply),) = workflows.send(call, workflows.calls).replies
    assert avro.decode(bodies.ResetBase, reply.body).next_event_id == 4
    assert (reply.attach_first, reply.attach_last, len(reply.held)) == (1, 3, 3)


def test_near_deadlines_stay_here_and_far_ones_go_to_the_timer_processor() -> None:
    workflows = Workflows()
    workflows.start()
    workflows.step(
        command("START_TIMER", timer_id="far", start_to_fire_timeout=seconds(3_600)),
        command("START_TIMER", timer_id="near", start_to_fire_timeout=seconds(20)),
    )
    workflows.pass_time(25)
    assert workflows.event("TIMER_FIRED").timer_id == "near"
    times_ms = [event.event_time.ToMilliseconds() for event in workflows.history()]
    assert times_ms[-2] - times_ms[0] == 20_000
    workflows.step()
    workflows.pass_time(3_600)
    assert workflows.kinds().count("TIMER_FIRED") == 2
    assert len({record.body.due_ms for record in emissions(workflows) if record.topic == TIMERS}) == 1
    workflows.fold.check_refold()


def test_a_near_deadline_is_forgotten_with_the_close() -> None:
    workflows = Workflows()
    workflows.start()
    workflows.poll()
    workflows.fold.checkpoint()
    assert [key for dues in workflows.fold.store.dues.values() for key in dues]
    workflows.terminate()
    before = len(workflows.fold.log)
    workflows.pass_time(120)
    assert not any(isinstance(record.body, bodies.FireTimer) for record in workflows.fold.log[before:])
    workflows.fold.check_refold()
    assert [len(rows) for rows in workflows.fold.store.dues.values()] == [1], "its retention"


def test_a_far_deadline_is_taken_back_with_the_close() -> None:
    workflows = Workflows()
    workflows.start(workflow_run_timeout=seconds(3_600))
    workflows.step(complete())
    assert [r.body.due_ms == 0 for r in emissions(workflows) if r.topic == TIMERS] == [False, True]
    workflows.pass_time(86_500)
    assert not workflows.events
    assert [r.body.due_ms == 0 for r in emissions(workflows) if r.topic == TIMERS] == [False, True]
    workflows.fold.check_refold()
    assert not any(workflows.fold.store.dues.values())


def test_lists_show_build_ids_of_a_run_that_stays_open() -> None:
    workflows = Workflows()
    run_id = workflows.start()
    workflows.step(worker_version_stamp=STAMP)
    assert not workflows.rows[run_id].search_attributes
    workflows.pass_time(1.1)
    assert b"unversioned:one" in workflows.rows[run_id].search_attributes
    workflows.fold.check_refold()
