"""One command's step: the runs it touches, and how their facts become emissions when it ends."""

from __future__ import annotations

import hashlib

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from streams import bodies
from streams.history import state
from streams.history.errors import Rejected
from streams.history.run import Run
from streams.history.values import to_timestamp
from streams.limits import Limits
from streams.runtime.context import Context
from streams.runtime.records import Correlation, Reply

EXECUTIONS = "executions"
CURRENT = "current"
REQUEST = "request"
REGISTRY_TABLE = "registry"

SAVING_RECORDS = 2
"""The logic version from which a run leaves fewer records (decision 0012)."""

HEAD_OF_QUEUE = 3
"""The logic version from which an undelivered workflow task goes to the head of its queue (decision 0016)."""

OFFERS = 4
"""The logic version from which a workflow task may start for a worker that offered to take it (decision 0017)."""

SEPARATOR = "\x1f"
"""Between the parts of a key in a table: cannot be in a run id and is refused in namespaces and ids."""


def run_key(namespace: str, workflow_id: str, run_id: str) -> str:
    """The key of a run in the executions table."""
    return f"{namespace}{SEPARATOR}{workflow_id}{SEPARATOR}{run_id}"


def split_run_key(key: str) -> tuple[str, str, str]:
    """Namespace, workflow id and run id of the key of a run."""
    namespace, workflow_id, run_id = key.split(SEPARATOR)
    return namespace, workflow_id, run_id


def current_key(namespace: str, workflow_id: str) -> str:
    """The key of a workflow id in the current table."""
    return f"{namespace}{SEPARATOR}{workflow_id}"


class Step:
    """What deciding on one record may use. `correlation` is where its own reply goes, None when nobody waits."""

    def __init__(self, context: Context, namespace: str, workflow_id: str, limits: Limits) -> None:
        self.context = context
        self.namespace = namespace
        self.workflow_id = workflow_id
        self.limits = limits
        self.now_ms = context.now_ms
        self.correlation: Correlation | None = context.record.correlation if context.record else None
        self.runs: dict[str, Run] = {}
        self._timestamp: Timestamp | None = None

    @property
    def saves_records(self) -> bool:
        """Whether the logic in force is that of fewer records."""
        return self.context.logic_version >= SAVING_RECORDS

    @property
    def returns_to_head(self) -> bool:
        """Whether an undelivered workflow task goes to the head of its queue."""
        return self.context.logic_version >= HEAD_OF_QUEUE

    @property
    def takes_offers(self) -> bool:
        """Whether workers may offer to take a run's next workflow task."""
        return self.context.logic_version >= OFFERS

    @property
    def timestamp(self) -> Timestamp:
        """The step's time, for events."""
        if self._timestamp is None:
            self._timestamp = to_timestamp(self.now_ms)
        return self._timestamp

    # Runs

    def run(self, run_id: str) -> Run:
        """The run of this workflow id, which may not exist."""
        run = self.runs.get(run_id)
        if run is None:
            entity = self.context.table(EXECUTIONS).entity(run_key(self.namespace, self.workflow_id, run_id))
            run = entity.view or Run(entity)
            run.step = self
            run.facts = []
            run.new = not run.exists
            run.state_size.at_start_bytes = run.state_size.size_bytes
            run.history = []
            self.runs[run_id] = run
        return run

    @property
    def current(self) -> state.Current | None:
        """Which run is the current one."""
        entity = self.context.table(CURRENT).entity(current_key(self.namespace, self.workflow_id))
        current: state.Current | None = entity.get(CURRENT)
        return current

    def set_current(self, current: state.Current | None) -> None:
        """Make a run the current one."""
        entity = self.context.table(CURRENT).entity(current_key(self.namespace, self.workflow_id))
        if current is None:
            entity.drop(CURRENT)
        else:
            entity.put(CURRENT, "", current)

    def namespace_config(self, name: str = "") -> bodies.NamespaceConfig | None:
        """A namespace as of this record; this step's own by default."""
        config: bodies.NamespaceConfig | None = (
            self.context.table(REGISTRY_TABLE).peek("namespaces").get("namespace", name or self.namespace)
        )
        return config

    def derived_id(self, *parts: object) -> str:
        """A uuid that follows from `parts` and the record's time: the same on every refold.

        Version 7, so that ids made one after the other lie side by side in the stores' indexes.
        """
        digest = hashlib.md5("\x1f".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
        time, variant = f"{self.now_ms:012x}", "89ab"[int(digest[0], 16) & 3]
        return f"{time[:8]}-{time[8:]}-7{digest[1:4]}-{variant}{digest[5:8]}-{digest[8:20]}"

    # Effects

    def reply(self, body: Message | bytes, correlation: Correlation | None = None) -> None:
        """Answer the call of this step (or another that waited) with an API response."""
        data = body if isinstance(body, bytes) else body.SerializeToString(deterministic=True)
        self.context.reply(correlation or self.correlation, Reply(body=data))

    def reply_error(self, error: Rejected, correlation: Correlation | None = None) -> None:
        """Answer with an error although the step takes effect (raise it to undo the step as well)."""
        reply = Reply(code=error.code, message=error.message, body=error.status_bytes())
        self.context.reply(correlation or self.correlation, reply)
