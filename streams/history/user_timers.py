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

from streams.history import state, workflow_tasks
from streams.history.calls import handles_command
from streams.history.commands import Commands
from streams.history.errors import BadCommand
from streams.history.evolve import applies
from streams.history.run import Run
from streams.history.values import duration_ms, timestamp_ms

CAUSE = WorkflowTaskFailedCause


@handles_command(CommandType.COMMAND_TYPE_START_TIMER, "start_timer_command_attributes")
def start_timer(commands: Commands, attributes: StartTimerCommandAttributes) -> None:
    """Start a timer. Ids are unique among the pending ones."""
    timer_id = attributes.timer_id
    if not timer_id:
        raise BadCommand(
            CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES, "TimerId is not set on StartTimerCommand."
        )
    commands.check_id(
        timer_id, CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES, "TimerId on StartTimerCommand"
    )
    timeout = attributes.start_to_fire_timeout
    if timeout.seconds < 0 or timeout.nanos < 0:
        raise BadCommand(
            CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES,
            f"An invalid StartToFireTimeout is set on StartTimerCommand: TimerId={timer_id}",
        )
    run = commands.run
    if run.entity.get(state.TIMER, timer_id) is not None:
        raise BadCommand(
            CAUSE.WORKFLOW_TASK_FAILED_CAUSE_START_TIMER_DUPLICATE_ID,
            f"StartTimerCommand: TimerId={timer_id} is already in use",
        )
    run.record(
        EventType.EVENT_TYPE_TIMER_STARTED,
        TimerStartedEventAttributes(
            timer_id=timer_id,
            start_to_fire_timeout=timeout,
            workflow_task_completed_event_id=commands.completed_event_id,
        ),
        **commands.event_extra,
    )


@applies(EventType.EVENT_TYPE_TIMER_STARTED)
def _started(run: Run, event: HistoryEvent) -> None:
    attributes = event.timer_started_event_attributes
    due_ms = timestamp_ms(event.event_time) + max(duration_ms(attributes.start_to_fire_timeout), 1)
    run.put(state.TIMER, attributes.timer_id, state.Timer(attributes.timer_id, event.event_id, due_ms))


@handles_command(CommandType.COMMAND_TYPE_CANCEL_TIMER, "cancel_timer_command_attributes")
def cancel_timer(commands: Commands, attributes: CancelTimerCommandAttributes) -> None:
    """Cancel a pending timer, also one whose firing waits in the buffer unseen."""
    timer_id = attributes.timer_id
    bad = CAUSE.WORKFLOW_TASK_FAILED_CAUSE_BAD_CANCEL_TIMER_ATTRIBUTES
    if not timer_id:
        raise BadCommand(bad, "TimerId is not set on CancelTimerCommand.")
    commands.check_id(timer_id, bad, "TimerId on CancelTimerCommand")
    run = commands.run
    timer = run.entity.get(state.TIMER, timer_id)
    started_event_id = timer.started_event_id if timer is not None else _take_buffered_fire(run, timer_id)
    if not started_event_id:
        raise BadCommand(bad, f"CancelTimerCommand: TimerId={timer_id} is not known")
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
