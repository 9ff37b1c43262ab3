"""The mutable state of a run, in parts: each is a row of the `executions` table with a schema of its own.

Times are ms since 1970; 0 means unset. Parts are immutable and replaced by the appliers of facts only.
"""

from __future__ import annotations

import msgspec

CORE = "core"
START = "start"
MEMO = "memo"
SEARCH = "search"
WORKFLOW_TASK = "wft"
BUFFERED = "buffered"
ACTIVITY = "activity"
TIMER = "timer"
CHILD = "child"
EXTERNAL_SIGNAL = "xsignal"
EXTERNAL_CANCEL = "xcancel"
SIGNALED = "signaled"
QUERY = "query"
UPDATE = "update"
WAITER = "waiter"
METADATA = "metadata"
LINKS = "links"
RESET_POINTS = "points"
WORKER = "worker"
ATTACHED = "attached"
LEFT_ACTIVITY = "left-activity"
LEFT_CHILD = "left-child"
LEFT_TASK = "left-task"
COPYING = "copying"
COPIED_CORE = "copied-core"
REAPPLY = "reapply"
UNTOLD = "untold"
FAR = "far"

NORMAL = "normal"
TRANSIENT = "transient"
SPECULATIVE = "speculative"

NEVER_MS = 0


def number_id(number: int) -> str:
    """A number as a part's id: sorts like the number."""
    return f"{number:012d}"


def earliest(*times_ms: int) -> int:
    """The earliest of the times that are set, or 0."""
    return min((t for t in times_ms if t), default=0)


class Offer(msgspec.Struct, frozen=True):
    """The worker `identity`, which has the run cached, takes its next workflow task at once (decision 0017).

    The gateway of this epoch awaits the task under the call number `id`, if it starts by `deadline_ms`.
    """

    gateway: str
    epoch: int
    id: int
    deadline_ms: int
    identity: str


class Core(msgspec.Struct):
    """What every run has. Only `Run.set_core` changes one.

    `status` is the API's WorkflowExecutionStatus; `next_event_id` the id that the next event of the history gets;
    `close_attempted` says that the last workflow task failed because it would have closed the run over events it had
    not seen; `update_count` counts the updates ever admitted; `copied_event_id` is the last event that a reset took
    from another run, 0 in a run that no reset made.
    """

    namespace: str
    workflow_id: str
    run_id: str
    first_run_id: str
    workflow_type: str
    task_queue: str
    status: int
    create_request_id: str
    start_ms: int
    execution_start_ms: int
    execution_timeout_ms: int
    run_timeout_ms: int
    task_timeout_ms: int
    execution_expires_ms: int
    run_expires_ms: int
    first_task_due_ms: int
    attempt: int
    next_event_id: int = 1
    history_size_bytes: int = 0
    close_ms: int = 0
    retention_due_ms: int = 0
    next_run_id: str = ""
    reset_run_id: str = ""
    cancel_requested: bool = False
    close_attempted: bool = False
    signal_count: int = 0
    buffered_bytes: int = 0
    buffered_count: int = 0
    sticky_queue: str = ""
    sticky_timeout_ms: int = 0
    task_attempt: int = 1
    task_stamp: int = 0
    last_started_event_id: int = 0
    last_completed_event_id: int = 0
    update_count: int = 0
    parent_namespace: str = ""
    parent_workflow_id: str = ""
    parent_run_id: str = ""
    parent_initiated_event_id: int = 0
    root_workflow_id: str = ""
    root_run_id: str = ""
    armed_due_ms: int = 0
    armed_version: int = 0
    visible_version: int = 0
    transition_count: int = 0
    faulted: str = ""
    build_id: str = ""
    original_start_ms: int = 0
    copied_event_id: int = 0
    offer: Offer | None = None

    def deadline_ms(self) -> int:
        """The earliest deadline of the run itself."""
        if self.close_ms:
            return self.retention_due_ms
        if not (self.run_expires_ms or self.execution_expires_ms or self.first_task_due_ms):
            return 0
        return earliest(self.run_expires_ms, self.execution_expires_ms, self.first_task_due_ms)


class Blob(msgspec.Struct, frozen=True):
    """An encoded API message: the start attributes and metadata, the memo, the search attributes, the points to
    reset to, the version of the worker seen last.
    """

    data: bytes


class StartLinks(msgspec.Struct, frozen=True):
    """The encoded temporal.api.common.v1.Link messages that the run started with, for the run that follows it."""

    links: tuple[bytes, ...]


class WorkflowTask(msgspec.Struct, frozen=True):
    """The pending workflow task. `started_event_id` is 0 until a worker has it.

    `kind` is normal, transient (a further attempt, its events not in the history yet) or speculative (made for
    updates, its events not in the history unless one is accepted). `poll_id` is the delivery it started with.
    """

    kind: str
    scheduled_event_id: int
    attempt: int
    stamp: int
    queue: str
    sticky: bool
    scheduled_ms: int
    original_scheduled_ms: int
    timeout_ms: int
    to_start_due_ms: int = 0
    started_event_id: int = 0
    started_ms: int = 0
    started_due_ms: int = 0
    request_id: str = ""
    identity: str = ""
    suggest_continue_as_new: bool = False
    history_size_bytes: int = 0
    poll_id: int = 0

    def deadline_ms(self) -> int:
        """When the task times out in the state it is in."""
        return self.started_due_ms if self.started_event_id else self.to_start_due_ms


class BufferedEvent(msgspec.Struct, frozen=True):
    """An event that waits for the running workflow task to end before it gets its id."""

    event: bytes


class Activity(msgspec.Struct, frozen=True):
    """A pending activity. `scheduled_event_id` is its key; `attempt_scheduled_ms` when this attempt was due.

    `retry_due_ms` is set while it waits for its next attempt. `failure` is the last attempt's, `details` the last
    heartbeat's. `scheduled` are its ActivityTaskScheduledEventAttributes.
    """

    activity_id: str
    scheduled_event_id: int
    activity_type: str
    task_queue: str
    scheduled: bytes
    attempt: int
    stamp: int
    first_scheduled_ms: int
    attempt_scheduled_ms: int
    schedule_to_start_ms: int
    schedule_to_close_ms: int
    start_to_close_ms: int
    heartbeat_ms: int
    started_ms: int = 0
    started_identity: str = ""
    request_id: str = ""
    poll_id: int = 0
    retry_due_ms: int = 0
    retry_interval_ms: int = 0
    heartbeat_at_ms: int = 0
    details: bytes = b""
    failure: bytes = b""
    cancel_requested_event_id: int = 0
    last_worker_identity: str = ""
    last_attempt_completed_ms: int = 0

    def deadline_ms(self) -> int:
        """The earliest of the retry and the timeouts that run now."""
        to_close = self.first_scheduled_ms + self.schedule_to_close_ms if self.schedule_to_close_ms else 0
        if self.started_ms:
            start_to_close = self.started_ms + self.start_to_close_ms if self.start_to_close_ms else 0
            alive_ms = max(self.started_ms, self.heartbeat_at_ms)
            heartbeat = alive_ms + self.heartbeat_ms if self.heartbeat_ms else 0
            return earliest(to_close, start_to_close, heartbeat)
        if self.retry_due_ms:
            return earliest(to_close, self.retry_due_ms)
        to_start = self.attempt_scheduled_ms + self.schedule_to_start_ms if self.schedule_to_start_ms else 0
        return earliest(to_close, to_start)


class Timer(msgspec.Struct, frozen=True):
    """A user timer."""

    timer_id: str
    started_event_id: int
    due_ms: int

    def deadline_ms(self) -> int:
        """When it fires."""
        return self.due_ms


class Child(msgspec.Struct, frozen=True):
    """A child workflow that was initiated and has not closed. `started_event_id` is 0 until it runs.

    `initiated` are its StartChildWorkflowExecutionInitiatedEventAttributes, `user_metadata` the encoded UserMetadata
    of that event. One that started only after its parent's close stays as started, without a run id.
    """

    initiated_event_id: int
    initiated: bytes
    namespace: str
    workflow_id: str
    workflow_type: str
    parent_close_policy: int
    run_id: str = ""
    started_event_id: int = 0
    started: bool = False
    user_metadata: bytes = b""


class External(msgspec.Struct, frozen=True):
    """A signal or cancel request to another workflow whose outcome is not known yet."""

    initiated_event_id: int
    request_id: str
    initiated: bytes


class Signaled(msgspec.Struct, frozen=True):
    """A request id that was applied, of a signal or attached to the run, and its event (0 while that is buffered)."""

    event_id: int = 0


class Query(msgspec.Struct, frozen=True):
    """A query that a client waits for. `state` is "buffered" (rides on the next workflow task) or "direct" (has a
    task of its own, of this `stamp`). The rest is where the answer goes, and until when it is awaited.
    """

    state: str
    query: bytes
    gateway: str
    epoch: int
    call_id: int
    deadline_ms: int
    stamp: int = 0


class Update(msgspec.Struct, frozen=True):
    """An update of this run. `stage` is "admitted", "sent" (with a started workflow task), "accepted" or "completed".

    `request` is the encoded temporal.api.update.v1.Request while it may have to be sent (again), empty when the worker
    finds it in the history; `sequence` orders updates as they came; `outcome` is the encoded Outcome once completed.
    """

    update_id: str
    stage: str
    request: bytes
    sequence: int
    accepted_event_id: int = 0
    completed_event_id: int = 0
    outcome: bytes = b""


class Waiter(msgspec.Struct, frozen=True):
    """A client's call that waits for something of this run.

    `kind` is "new_event" (an event above `after_event_id`, or the close), "close" or "update" (`update_id`
    reaching `stage`; `started` tells whether the call also started the run). Forgotten at `deadline_ms`, when the
    gateway has answered by itself.
    """

    kind: str
    gateway: str
    epoch: int
    call_id: int
    deadline_ms: int
    after_event_id: int = 0
    update_id: str = ""
    stage: int = 0
    method: str = ""
    started: bool = False


class Copying(msgspec.Struct, frozen=True):
    """How far the history of a run that a reset prepares has come, while the run is not there yet.

    `next_page` is the page to come, `next_event_id` the id of the event to come, `size_bytes` that of the events so
    far, `reapplied` the number of later events to apply again, `last_hash` the sha256 of the last event copied.
    Forgotten when its timer fires.
    """

    base_run_id: str
    next_page: int
    next_event_id: int
    size_bytes: int
    reapplied: int
    last_hash: bytes


class Untold(msgspec.Struct, frozen=True):
    """What records have yet to tell of a run: the last events of its history, from `first_event_id` on, and whether
    lists are to `show` it anew.
    """

    first_event_id: int = 0
    events: tuple[bytes, ...] = ()
    show: bool = False


class FarTimer(msgspec.Struct, frozen=True):
    """A timer of the run is out with the timer processor, armed with `version`; near ones are kept beside the run."""

    version: int


KINDS: dict[str, type[msgspec.Struct]] = {
    CORE: Core,
    START: Blob,
    MEMO: Blob,
    SEARCH: Blob,
    WORKFLOW_TASK: WorkflowTask,
    BUFFERED: BufferedEvent,
    ACTIVITY: Activity,
    TIMER: Timer,
    CHILD: Child,
    EXTERNAL_SIGNAL: External,
    EXTERNAL_CANCEL: External,
    SIGNALED: Signaled,
    QUERY: Query,
    UPDATE: Update,
    WAITER: Waiter,
    METADATA: Blob,
    LINKS: StartLinks,
    RESET_POINTS: Blob,
    WORKER: Blob,
    ATTACHED: Signaled,
    LEFT_ACTIVITY: Activity,
    LEFT_CHILD: Child,
    LEFT_TASK: WorkflowTask,
    COPYING: Copying,
    COPIED_CORE: Core,
    REAPPLY: BufferedEvent,
    UNTOLD: Untold,
    FAR: FarTimer,
}

CORE_DEADLINES = frozenset(
    ("close_ms", "retention_due_ms", "run_expires_ms", "execution_expires_ms", "first_task_due_ms")
)
"""The fields that `Core.deadline_ms` depends on."""

TIMED = frozenset((CORE, WORKFLOW_TASK, ACTIVITY, TIMER))
"""The kinds of parts that have a deadline."""


class Current(msgspec.Struct, frozen=True):
    """Which run of a workflow id is the current one."""

    run_id: str
    request_id: str
    status: int
    start_ms: int
    close_ms: int = 0
    first_run_id: str = ""


class AttachedRequest(msgspec.Struct, frozen=True):
    """A start request that was answered with an existing run."""

    run_id: str
