"""The interfaces of a visibility store: one row a run, for listing and counting."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from streams.stores.run_key import RunKey
from streams.stores.search_attributes import SearchAttributes, SearchValue

TxT_contra = TypeVar("TxT_contra", contravariant=True)

STATUS_RUNNING = 1
"""``WORKFLOW_EXECUTION_STATUS_RUNNING``."""


class VisibilityRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a run in lists.

    Times are nanoseconds since the epoch; `close_time_ns` is None as long as the run is open. `status` is a
    number of ``WorkflowExecutionStatus``, `memo` an encoded ``temporal.api.common.v1.Memo``. Of two rows of
    a run the one of greater `version` holds.
    """

    namespace_id: str
    workflow_id: str
    run_id: str
    workflow_type: str
    status: int
    start_time_ns: int
    execution_time_ns: int
    close_time_ns: int | None = None
    task_queue: str
    history_length: int | None = None
    history_size_bytes: int | None = None
    execution_duration_ns: int | None = None
    state_transition_count: int | None = None
    parent_workflow_id: str | None = None
    parent_run_id: str | None = None
    root_workflow_id: str
    root_run_id: str
    memo: bytes = b""
    search_attributes: Mapping[str, SearchValue] = msgspec.field(default_factory=dict)
    version: int

    def __post_init__(self) -> None:
        if (self.status == STATUS_RUNNING) != (self.close_time_ns is None):
            raise ValueError(f"run {self.run_id}: status {self.status} with close time {self.close_time_ns}")


class VisibilityPage(msgspec.Struct, frozen=True):
    """A page of a list; `next_page_token` is empty after the last one."""

    rows: list[VisibilityRow]
    next_page_token: bytes


class VisibilityCount(msgspec.Struct, frozen=True):
    """How many runs a filter matches, and of each status where it asks for that."""

    total: int
    by_status: Mapping[int, int] | None


class VisibilityReader(Protocol):
    """What gateways list and count with."""

    async def list(
        self,
        namespace_id: str,
        query: str,
        attributes: SearchAttributes,
        page_size: int,
        next_page_token: bytes = b"",
    ) -> VisibilityPage:
        """List the committed rows of a namespace that match a filter, a page at a time.

        Without ORDER BY open runs come first, the latest started first, then closed runs, the latest closed
        first. Pages neither skip nor repeat a run that matches throughout, whatever is written between
        them, unless the filter sorts by a custom attribute that changes meanwhile.

        Raises `FilterError` for a bad filter and `PageTokenError` for a token that does not belong to it,
        and StoreError.
        """

    async def count(self, namespace_id: str, query: str, attributes: SearchAttributes) -> VisibilityCount:
        """Count the committed rows of a namespace that match a filter, which may group them by status.

        Raises `FilterError` for a bad filter, and StoreError.
        """


class VisibilityStore(VisibilityReader, Protocol[TxT_contra]):
    """Where the rows of runs rest for as long as their run is retained.

    `TxT_contra` is what a write joins: an open SQLite transaction, or a PostgreSQL one.
    """

    def write(self, tx: TxT_contra, rows: Sequence[VisibilityRow]) -> None:
        """Write rows, of any runs, in `tx`; never commits.

        A row whose version is not greater than the stored one's changes nothing.
        """

    def delete(self, tx: TxT_contra, runs: Sequence[RunKey]) -> None:
        """Delete the rows of `runs` in `tx`; a run without a row is no error."""
