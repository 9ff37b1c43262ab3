"""Updates: requests that a workflow accepts or rejects and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.protocol.v1 import Message
from temporalio.api.workflowservice.v1 import (
    PollWorkflowTaskQueueResponse,
    RespondWorkflowTaskCompletedRequest,
    UpdateWorkflowExecutionRequest,
)

from streams.history import state
from streams.history.run import Run

if TYPE_CHECKING:
    from streams.history.commands import Commands


def admit(run: Run, request: UpdateWorkflowExecutionRequest, deadline_ms: int) -> None:
    """Take an update, or find the one of the same id, and have the caller wait for the stage it asked for."""


def send(run: Run, response: PollWorkflowTaskQueueResponse) -> None:
    """Put the updates to be sent on the workflow task that just started."""


def any_to_send(run: Run) -> bool:
    """Whether an update waits to be sent to a worker."""
    return False


def discards_speculative(
    run: Run, task: state.WorkflowTask, request: RespondWorkflowTaskCompletedRequest
) -> bool:
    """Whether a completed speculative task leaves no events in the history."""
    return False


def handle_message(commands: Commands, message: Message) -> None:
    """Apply a worker's message to the update it is about."""


def reject_unprocessed(run: Run) -> None:
    """Reject the updates that the completed task carried and said nothing about."""


def readmit(run: Run) -> None:
    """The task that carried updates failed: they will be sent again."""


def abort_for_failed_task(run: Run) -> None:
    """The task fails for its commands: updates it carried are sent again."""


def abort_all(run: Run, continuing: bool) -> None:
    """The run closes: answer those who wait for updates that it will never complete."""
