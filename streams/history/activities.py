"""Activities: scheduled by workflows, started by workers, retried, timed out, canceled."""

from __future__ import annotations

from streams import bodies
from streams.history.run import Run


def start(run: Run, body: bodies.StartTask) -> bool:
    """Record that a worker has an activity's attempt and send it to the poll; False when it is obsolete."""
    raise NotImplementedError


def back_to_queue(run: Run, body: bodies.StartTask) -> None:
    """The poll ended before the task reached it: the attempt goes to the head of its queue."""
    raise NotImplementedError


def undeliver(run: Run, body: bodies.TaskUndelivered) -> None:
    """The worker never got the attempt: it is dispatched again without counting."""
    raise NotImplementedError


def expire(run: Run, id: str) -> None:
    """A retry or a timeout of the activity is due."""
    raise NotImplementedError
