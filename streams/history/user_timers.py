"""Timers that workflows start and cancel."""

from __future__ import annotations

from temporalio.api.command.v1 import CancelTimerCommandAttributes, StartTimerCommandAttributes
from temporalio.api.enums.v1 import CommandType, EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    TimerCanceledEventAttributes,
    TimerFiredEventAttributes,
    TimerStartedEventAttributes,
)

from streams.history import command_checks, state, workflow_tasks
from streams.history.calls import handles_command
from streams.history.commands import Commands
from streams.history.errors import BadCommand
from streams.history.evolve import applies
from streams.history.run import Run
from streams.history.values import copy_fields, duration_ms, timestamp_ms

CAUSE = WorkflowTaskFailedCause
BAD_START = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES
BAD_CANCEL = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES


@handles_command(CommandType.COMMAND_TYPE_START_TIMER, "start_timer_command_attributes")
def start_timer(commands: Commands, attributes: StartTimerCommandAttributes) -> None:
    """Start a timer. Ids are unique among the pending ones."""
    commands.require_attributes("StartTimer", BAD_START)
    timer_id = attributes.timer_id
    _check_id(commands, timer_id, BAD_START, "StartTimerCommand")
    if wrong := command_checks.cap_duration(attributes.start_to_fire_timeout):
        raise BadCommand(
            BAD_START,
            f"An invalid StartToFireTimeout is set on StartTimerCommand: {wrong}. TimerId={timer_id}",
        )
    run = commands.run
    if run.entity.get(state.TIMER, timer_id) is not None:
        raise BadCommand(
            CAUSE.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID,
            f"invalid history builder state for action: add-timer-started-event, TimerID: {timer_id}",
        )
    event = TimerStartedEventAttributes(
        timer_id=timer_id, workflow_task_completed_event_id=commands.completed_event_id
    )
    copy_fields(attributes, event, "start_to_fire_timeout")
    run.record(EventType.EVENT_TYPE_TIMER_STARTED, event, **commands.event_extra)


def _check_id(commands: Commands, timer_id: str, bad: CAUSE.ValueType, name: str) -> None:
    if not timer_id:
        raise BadCommand(bad, f"TimerId is not set on {name}.")
    commands.check_id(timer_id, bad, f"TimerId on {name}")


@applies(EventType.EVENT_TYPE_TIMER_STARTED)
def _started(run: Run, event: HistoryEvent) -> None:
    attributes = event.timer_started_event_attributes
    due_ms = timestamp_ms(event.event_time) + max(duration_ms(attributes.start_to_fire_timeout), 1)
    run.put(state.TIMER, attributes.timer_id, state.Timer(attributes.timer_id, event.event_id, due_ms))


@handles_command(CommandType.COMMAND_TYPE_CANCEL_TIMER, "cancel_timer_command_attributes")
def cancel_timer(commands: Commands, attributes: CancelTimerCommandAttributes) -> None:
    """Cancel a pending timer, also one whose firing waits in the buffer unseen."""
    commands.require_attributes("CancelTimer", BAD_CANCEL)
    timer_id = attributes.timer_id
    _check_id(commands, timer_id, BAD_CANCEL, "CancelTimerCommand")
    run = commands.run
    timer = run.entity.get(state.TIMER, timer_id)
    started_event_id = timer.started_event_id if timer is not None else _take_buffered_fire(run, timer_id)
    if not started_event_id:
        raise BadCommand(
            BAD_CANCEL,
            f"invalid history builder state for action: add-timer-canceled-event, TimerID: {timer_id}",
        )
    run.record(
        EventType.EVENT_TYPE_TIMER_CANCELED,
        TimerCanceledEventAttributes(
            timer_id=timer_id,
            started_event_id=started_event_id,
            workflow_task_completed_event_id=commands.completed_event_id,
            identity=commands.request.identity,
        ),
    )


def _take_buffered_fire(run: Run, timer_id: str) -> int:
    """Remove the buffered firing of a timer that the workflow cancels without having seen it fire."""
    for id, part in run.entity.items(state.BUFFERED):
        event = HistoryEvent.FromString(part.event)
        fired = event.timer_fired_event_attributes
        if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED and fired.timer_id == timer_id:
            run.set_part(state.BUFFERED, id, None)
            return fired.started_event_id
    return 0


def fire(run: Run, timer_id: str) -> None:
    """The timer is due."""
    timer = run.entity.get(state.TIMER, timer_id)
    run.record(
        EventType.EVENT_TYPE_TIMER_FIRED,
        TimerFiredEventAttributes(timer_id=timer_id, started_event_id=timer.started_event_id),
    )
    workflow_tasks.schedule_if_none(run)


@applies(EventType.EVENT_TYPE_TIMER_FIRED)
def _fired(run: Run, event: HistoryEvent) -> None:
    run.put(state.TIMER, event.timer_fired_event_attributes.timer_id, None)


@applies(EventType.EVENT_TYPE_TIMER_CANCELED)
def _canceled(run: Run, event: HistoryEvent) -> None:
    run.put(state.TIMER, event.timer_canceled_event_attributes.timer_id, None)
