"""The bodies of internal records, by topic. Each has an Avro schema of the same name in `schemas/avro/internal/`.

API messages travel inside as the bytes that the client sent, so that nothing of a request is lost on the way.
"""

from __future__ import annotations

import msgspec

WORKFLOW_TASK = "workflow"
ACTIVITY_TASK = "activity"
QUERY_TASK = "query"


class Pair(msgspec.Struct, frozen=True):
    """A key and its text."""

    key: str
    value: str


class NumberPair(msgspec.Struct, frozen=True):
    """A key and its number."""

    key: str
    value: int


# --- commands: keyed namespace/workflow_id, folded by the history processor ---


class Call(msgspec.Struct, frozen=True):
    """An API call about one workflow, appended by a gateway after validating what needs no state.

    `run_id` is empty for "the current run". `new_run_id` is the id for a run the call may open. `deadline_ms` is
    when the caller stops waiting. `wait` and `after_event_id` are for reading histories: "new_event" answers once
    an event above `after_event_id` exists or the run is closed, "close" once it is closed, "" at once. The answer
    names the events above `after_event_id` as those that belong to it, or the close event.

    A worker that completes a workflow task may offer to take the run's next one at once (decision 0017): its gateway
    awaits it under the number `offer_id` if it starts by `offer_deadline_ms`. 0 offers nothing.
    """

    method: str
    namespace: str
    workflow_id: str
    run_id: str
    request: bytes
    new_run_id: str = ""
    deadline_ms: int = 0
    wait: str = ""
    after_event_id: int = 0
    offer_id: int = 0
    offer_deadline_ms: int = 0


class Poll(msgspec.Struct, frozen=True):
    """A worker's long poll, waiting in matching. The correlation says whom to answer and is its identity.

    It takes up to `spares` more tasks if they wait, for the call ids that follow its own; the polls made for those
    have -1 (decision 0016).
    """

    gateway: str
    epoch: int
    id: int
    deadline_ms: int
    identity: str
    request: bytes
    queue: str
    spares: int = 0


class StartTask(msgspec.Struct, frozen=True):
    """Matching paired a task with a poll: record it as started and send it to the poll's gateway.

    `task_kind` is "workflow", "activity" or "query"; `scheduled_event_id`, `attempt` and `stamp` name the task,
    `query_id` a query task. Not past `poll.deadline_ms`. `backlog_count` is how many tasks were left in the queue.
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_kind: str
    scheduled_event_id: int
    attempt: int
    stamp: int
    query_id: str
    poll: Poll
    backlog_count: int = 0


class TaskUndelivered(msgspec.Struct, frozen=True):
    """A gateway got a started task that no poll was there for, or came for in time: undo the dispatch."""

    namespace: str
    workflow_id: str
    run_id: str
    task_kind: str
    scheduled_event_id: int
    attempt: int
    stamp: int
    query_id: str
    poll_id: int


class StickyUnavailable(msgspec.Struct, frozen=True):
    """Matching has no poller on a run's sticky queue: the task belongs on the normal queue."""

    namespace: str
    workflow_id: str
    run_id: str
    task_kind: str
    scheduled_event_id: int
    attempt: int
    stamp: int
    query_id: str


class FireTimer(msgspec.Struct, frozen=True):
    """The armed deadline of a run is due; stale unless `version` is the one armed."""

    namespace: str
    workflow_id: str
    run_id: str
    version: int


class StartChild(msgspec.Struct, frozen=True):
    """A parent's initiated child: `attributes` are its StartChildWorkflowExecutionInitiatedEventAttributes.

    `start` is the prepared WorkflowExecutionStartedEventAttributes of the child's first event, `user_metadata` the
    encoded UserMetadata that it carries; `reuse_policy` the WorkflowIdReusePolicy number. With `find`, a child that the
    id already has from a run of this parent is told of (ChildFound) instead: a reset may have cut off its start.
    """

    namespace: str
    workflow_id: str
    new_run_id: str
    parent_namespace: str
    parent_workflow_id: str
    parent_run_id: str
    initiated_event_id: int
    reuse_policy: int
    attributes: bytes
    start: bytes
    user_metadata: bytes = b""
    find: bool = False


class ChildStarted(msgspec.Struct, frozen=True):
    """The child's partition tells the parent that the child runs."""

    namespace: str
    workflow_id: str
    run_id: str
    initiated_event_id: int
    child_namespace: str
    child_workflow_id: str
    child_run_id: str


class ChildFound(msgspec.Struct, frozen=True):
    """The id that a child was to have is in use by a child of this parent, started by its run `child_parent_run_id`.

    `child_run_id` is the first run of that child; `closed` says that it is over.
    """

    namespace: str
    workflow_id: str
    run_id: str
    initiated_event_id: int
    child_workflow_id: str
    child_run_id: str
    child_parent_run_id: str
    closed: bool


class ChildStartFailed(msgspec.Struct, frozen=True):
    """The child could not be started; `cause` is the StartChildWorkflowExecutionFailedCause number."""

    namespace: str
    workflow_id: str
    run_id: str
    initiated_event_id: int
    cause: int


class ChildClosed(msgspec.Struct, frozen=True):
    """A child closed for good (no further run follows): `event` is its encoded close event.

    `child_run_id` is the run that closed, `child_first_run_id` the one that its parent started.
    """

    namespace: str
    workflow_id: str
    run_id: str
    initiated_event_id: int
    child_namespace: str
    child_workflow_id: str
    child_run_id: str
    event: bytes
    child_first_run_id: str


class ParentClosed(msgspec.Struct, frozen=True):
    """A parent closed: `policy` is the ParentClosePolicy number to apply to this child."""

    namespace: str
    workflow_id: str
    run_id: str
    policy: int
    parent_workflow_id: str
    parent_run_id: str


class SignalExternal(msgspec.Struct, frozen=True):
    """A workflow signals another: `attributes` are its SignalExternalWorkflowExecutionInitiatedEventAttributes."""

    namespace: str
    workflow_id: str
    run_id: str
    from_namespace: str
    from_workflow_id: str
    from_run_id: str
    initiated_event_id: int
    request_id: str
    attributes: bytes


class CancelExternal(msgspec.Struct, frozen=True):
    """A workflow asks another to cancel.

    `attributes` are its RequestCancelExternalWorkflowExecutionInitiatedEventAttributes.
    """

    namespace: str
    workflow_id: str
    run_id: str
    from_namespace: str
    from_workflow_id: str
    from_run_id: str
    initiated_event_id: int
    request_id: str
    attributes: bytes


class ExternalAnswered(msgspec.Struct, frozen=True):
    """The answer to SignalExternal or CancelExternal (`kind` "signal" or "cancel").

    `cause` is the API's failed-cause number, 0 when it took effect.
    """

    namespace: str
    workflow_id: str
    kind: str
    run_id: str
    initiated_event_id: int
    cause: int


class CancelQuery(msgspec.Struct, frozen=True):
    """The client of a query went away: no worker needs to answer it. `run_id` is the one it named, empty for none."""

    namespace: str
    workflow_id: str
    run_id: str
    gateway: str
    epoch: int
    call_id: int


class StatePart(msgspec.Struct, frozen=True):
    """A part of a run's state: its kind, its id, and its encoded value."""

    kind: str
    id: str
    data: bytes


class ResetPrepared(msgspec.Struct, frozen=True):
    """A page of a reset that was prepared outside the fold (fold.md rule 23), for the run `new_run_id`.

    Pages count from 0. `events` are encoded events of the base run before the reset point, in order and from
    `first_event_id`; `parts` the state that all of them make; `reapply` those of later events that the new run
    gets too, in order.

    The last page has the caller's `request`, the sha256 of the last event copied as `point_hash`, and in `seen`
    the runs whose later events were looked at, the base run first, with the id of the event each expects next. When
    history has moved on since, the answer says so and one more page follows.
    """

    namespace: str
    workflow_id: str
    base_run_id: str
    new_run_id: str
    page: int
    first_event_id: int
    events: tuple[bytes, ...] = ()
    parts: tuple[StatePart, ...] = ()
    reapply: tuple[bytes, ...] = ()
    last: bool = False
    request: bytes = b""
    point_hash: bytes = b""
    seen: tuple[NumberPair, ...] = ()


class NamespaceConfig(msgspec.Struct, frozen=True):
    """A namespace as every processor and gateway knows it; broadcast whenever it changes.

    `attributes` pairs custom search attribute names with their IndexedValueType numbers. `state` is the API's
    NamespaceState number. `data` pairs the user's keys and values.
    """

    name: str
    id: str
    state: int
    retention_ms: int
    description: str = ""
    owner_email: str = ""
    data: tuple[Pair, ...] = ()
    attributes: tuple[NumberPair, ...] = ()
    created_ms: int = 0


class NamespaceCall(msgspec.Struct, frozen=True):
    """A change to namespaces or their search attributes, keyed registry/namespaces.

    `method` is the API method; `request` its bytes; `new_id` the id of a namespace it may create.
    """

    method: str
    namespace: str
    request: bytes
    new_id: str


class NamespaceChanged(msgspec.Struct, frozen=True):
    """Broadcast to every partition of `commands`, and to `registry`: what a namespace is from here on."""

    config: NamespaceConfig


class NamespaceRemoved(msgspec.Struct, frozen=True):
    """Broadcast to every partition of `commands`, and to `registry`: the namespace is gone with all it holds."""

    name: str
    id: str


class LimitsChanged(msgspec.Struct, frozen=True):
    """Broadcast to every partition of `commands`: the limits in force, as pairs of dynamic config key and value."""

    values: tuple[NumberPair, ...]


# --- tasks: keyed namespace/queue/kind/n, folded by the matching processor ---


class AddTask(msgspec.Struct, frozen=True):
    """A task for a queue. `at_head` puts it back where it was taken from; `expires_ms` is 0 for never.

    `urgent` tasks are those that a caller waits for, an update's or a query's. `sticky` queues without a recent
    poller hand the task back at once.
    """

    namespace: str
    queue: str
    task_kind: str
    workflow_id: str
    run_id: str
    scheduled_event_id: int
    attempt: int
    stamp: int
    query_id: str = ""
    sticky: bool = False
    at_head: bool = False
    expires_ms: int = 0
    priority: int = 0
    scheduled_ms: int = 0
    urgent: bool = False


class PollTask(msgspec.Struct, frozen=True):
    """A worker polls: `request` is its PollWorkflowTaskQueueRequest or PollActivityTaskQueueRequest.

    It takes up to `spares` more tasks if they wait, under the call ids that follow its own (decision 0016).
    """

    namespace: str
    queue: str
    task_kind: str
    identity: str
    deadline_ms: int
    request: bytes
    sticky: bool = False
    spares: int = 0


class CancelPoll(msgspec.Struct, frozen=True):
    """The client of a waiting poll went away."""

    gateway: str
    epoch: int
    id: int


class DropQuery(msgspec.Struct, frozen=True):
    """Nobody waits for a query any more: its task leaves the queue."""

    query_id: str


class PollReturned(msgspec.Struct, frozen=True):
    """History did not start the task that this poll was matched with: it waits on, unless it was made for that task."""

    namespace: str
    task_kind: str
    poll: Poll


class GatewayLease(msgspec.Struct, frozen=True):
    """A gateway lives: polls of its earlier epochs are over. `expires_ms` 0 means until the next epoch."""

    gateway: str
    epoch: int
    expires_ms: int


class QueueCall(msgspec.Struct, frozen=True):
    """An API call about one queue: DescribeTaskQueue, or ShutdownWorker for a sticky queue."""

    method: str
    namespace: str
    queue: str
    task_kind: str
    request: bytes


# --- timers: keyed namespace/workflow_id, folded by the timer processor ---


class SetTimer(msgspec.Struct, frozen=True):
    """Arm the deadline of a run, in place of what was armed; `due_ms` 0 disarms it."""

    namespace: str
    workflow_id: str
    run_id: str
    due_ms: int
    version: int


# --- history and visibility: keyed namespace/workflow_id ---


class HistoryBatch(msgspec.Struct, frozen=True):
    """Events of one run that became part of its history together; ids are contiguous from `first_event_id`."""

    namespace: str
    workflow_id: str
    run_id: str
    first_event_id: int
    last_event_id: int
    time_ms: int
    events: tuple[bytes, ...]


class RunDeleted(msgspec.Struct, frozen=True):
    """A run is gone, by retention or by a client. In `history` it stands for both stores, else for lists alone."""

    namespace: str
    workflow_id: str
    run_id: str


class HistoryDeleted(RunDeleted, frozen=True):
    """The same where visibility hears of it by a record of its own (logic version 2)."""


class RunVisible(msgspec.Struct, frozen=True):
    """What lists show of a run; the highest `version` of a run stands. Times are ns since 1970, 0 for not yet."""

    namespace: str
    workflow_id: str
    run_id: str
    version: int
    workflow_type: str
    task_queue: str
    status: int
    start_time_ns: int
    execution_time_ns: int
    close_time_ns: int
    history_length: int
    history_size_bytes: int
    state_transition_count: int
    parent_workflow_id: str
    parent_run_id: str
    root_workflow_id: str
    root_run_id: str
    memo: bytes
    search_attributes: bytes


class HistoryState(msgspec.Struct, frozen=True):
    """The reply to a Call that reads a history: what the owner knows of the run.

    `last_event_id` is the newest event in the history (not counting what is buffered or transient); `closed`
    tells whether it is the close event. `transient` holds encoded events of a workflow task that is not in the
    history yet, shown to a worker that reads it.
    """

    run_id: str
    last_event_id: int
    closed: bool
    workflow_type: str = ""
    new_run_id: str = ""
    transient: tuple[bytes, ...] = ()


class ResetBase(msgspec.Struct, frozen=True):
    """The reply to a PrepareReset call: the run to start from and the id of the event it expects next.

    `done_run_id` is set when the same request was carried out before: the run that it made.
    """

    base_run_id: str
    next_event_id: int
    done_run_id: str = ""


# --- replies: in the partition that the gateway's address names ---


class ReplyRecord(msgspec.Struct, frozen=True):
    """A `Reply` on its way to the gateway of that address, epoch and call.

    `events` are the newest of the events `attach_first`..`attach_last` of the run `attach_run`, as far as the owner
    still has them: they begin with `events_first_id` and end with `attach_last`. Older ones are in the store.
    """

    gateway: str
    epoch: int
    call_id: int
    code: int = 0
    message: str = ""
    body: bytes = b""
    attach_run: str = ""
    attach_first: int = 0
    attach_last: int = 0
    kind: str = ""
    events_first_id: int = 0
    events: tuple[bytes, ...] = ()
