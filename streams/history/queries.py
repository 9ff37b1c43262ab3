"""Queries: clients' questions about a run, carried by its next workflow task or by a task of their own."""

from __future__ import annotations

from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueResponse, RespondWorkflowTaskCompletedRequest

from streams import bodies
from streams.history.run import Run


def send(run: Run, response: PollWorkflowTaskQueueResponse) -> None:
    """Put the buffered queries on the workflow task that just started."""


def answer(run: Run, request: RespondWorkflowTaskCompletedRequest) -> None:
    """Answer the callers of queries that the completed task carried; others no longer have to wait for it."""


def close(run: Run) -> None:
    """The run closed: queries that waited for a workflow task get tasks of their own."""


def start_direct(run: Run, body: bodies.StartTask) -> bool:
    """Send a query that has a task of its own to the poll; False when nobody waits for it any more."""
    return False


def back_to_queue(run: Run, body: bodies.StartTask) -> None:
    """The poll ended before the query reached it: its task goes to the head of its queue."""


def reroute(run: Run, body: bodies.StickyUnavailable) -> None:
    """Nobody polls the sticky queue: the query goes to the normal one."""
