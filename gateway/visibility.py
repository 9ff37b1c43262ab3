"""Lists and counts of runs, from the visibility store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Memo
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.filter.v1 import StartTimeFilter, WorkflowExecutionFilter, WorkflowTypeFilter
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    CountWorkflowExecutionsResponse,
    ListClosedWorkflowExecutionsRequest,
    ListClosedWorkflowExecutionsResponse,
    ListOpenWorkflowExecutionsRequest,
    ListOpenWorkflowExecutionsResponse,
    ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
    ScanWorkflowExecutionsRequest,
    ScanWorkflowExecutionsResponse,
)

from gateway import errors, visibility_payloads
from gateway.backend import Backend, Context
from streams.bodies import NamespaceConfig
from streams.stores.damage import StoreDamagedError, StoreError
from streams.stores.filter_model import FilterError
from streams.stores.list_filter import quote
from streams.stores.search_attributes import SearchAttributes, ValueType
from streams.stores.visibility import VisibilityReader, VisibilityRow

Status = WorkflowExecutionStatus
_STATUS_NAMES: Final[Mapping[int, str]] = {
    number: "".join(part.capitalize() for part in name.removeprefix("WORKFLOW_EXECUTION_STATUS_").split("_"))
    for name, number in Status.items()
}
_SECOND_NS: Final = 1_000_000_000


class Visibility:
    """Handlers of list and count methods.

    They see what the engine has made visible by `flush`: on the embedded log all that their caller has done before,
    on Kafka what is materialised by now.
    """

    def __init__(self, backend: Backend, store: VisibilityReader) -> None:
        self._backend = backend
        self._store = store

    async def list(self, request: ListWorkflowExecutionsRequest, data: bytes, context: Context) -> bytes:
        """ListWorkflowExecutions."""
        page = await self._page(request.namespace, request.query, request.page_size, request.next_page_token)
        return ListWorkflowExecutionsResponse(**page).SerializeToString()

    async def scan(self, request: ScanWorkflowExecutionsRequest, data: bytes, context: Context) -> bytes:
        """ScanWorkflowExecutions: the same as a list."""
        page = await self._page(request.namespace, request.query, request.page_size, request.next_page_token)
        return ScanWorkflowExecutionsResponse(**page).SerializeToString()

    async def list_open(
        self, request: ListOpenWorkflowExecutionsRequest, data: bytes, context: Context
    ) -> bytes:
        """ListOpenWorkflowExecutions."""
        conditions = ["ExecutionStatus = 'Running'", *_started(request.start_time_filter, "StartTime")]
        match request.WhichOneof("filters"):
            case "execution_filter":
                conditions.append(_of_id(request.execution_filter))
            case "type_filter":
                conditions.append(_of_type(request.type_filter))
        page = await self._page(
            request.namespace, " AND ".join(conditions), request.maximum_page_size, request.next_page_token
        )
        return ListOpenWorkflowExecutionsResponse(**page).SerializeToString()

    async def list_closed(
        self, request: ListClosedWorkflowExecutionsRequest, data: bytes, context: Context
    ) -> bytes:
        """ListClosedWorkflowExecutions."""
        conditions = ["ExecutionStatus != 'Running'", *_started(request.start_time_filter, "CloseTime")]
        match request.WhichOneof("filters"):
            case "execution_filter":
                conditions.append(_of_id(request.execution_filter))
            case "type_filter":
                conditions.append(_of_type(request.type_filter))
            case "status_filter":
                status = request.status_filter.status
                if status not in _STATUS_NAMES or status in (
                    Status.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED,
                    Status.WORKFLOW_EXECUTION_STATUS_RUNNING,
                ):
                    raise errors.invalid("StatusFilter must be specified and must be not Running.")
                conditions.append(f"ExecutionStatus = '{_STATUS_NAMES[status]}'")
        page = await self._page(
            request.namespace, " AND ".join(conditions), request.maximum_page_size, request.next_page_token
        )
        return ListClosedWorkflowExecutionsResponse(**page).SerializeToString()

    async def count(self, request: CountWorkflowExecutionsRequest, data: bytes, context: Context) -> bytes:
        """CountWorkflowExecutions, of each status where the filter groups by it."""
        namespace = self._backend.namespace(request.namespace)
        await self._backend.engine.flush()
        try:
            count = await self._store.count(namespace.name, request.query, _attributes(namespace))
        except FilterError as error:
            raise errors.invalid(str(error)) from None
        except StoreError as error:
            raise errors.of_store(error) from error
        response = CountWorkflowExecutionsResponse(count=count.total)
        for status, number in sorted((count.by_status or {}).items()):
            value = visibility_payloads.encode(ValueType.KEYWORD, _STATUS_NAMES[status])
            response.groups.add(group_values=[value], count=number)
        return response.SerializeToString()

    async def _page(self, namespace_name: str, query: str, size: int, token: bytes) -> dict[str, Any]:
        namespace = self._backend.namespace(namespace_name)
        most = self._backend.limits.visibility_page_rows
        await self._backend.engine.flush()
        try:
            page = await self._store.list(
                namespace.name, query, _attributes(namespace), size if 0 < size < most else most, token
            )
        except FilterError as error:
            raise errors.invalid(str(error)) from None
        except StoreError as error:
            raise errors.of_store(error) from error
        return {"executions": [_info(row) for row in page.rows], "next_page_token": page.next_page_token}


def _attributes(namespace: NamespaceConfig) -> SearchAttributes:
    return SearchAttributes({pair.key: ValueType(pair.value) for pair in namespace.attributes})


def _of_id(by: WorkflowExecutionFilter) -> str:
    return f"WorkflowId = {quote(by.workflow_id)}"


def _of_type(by: WorkflowTypeFilter) -> str:
    return f"WorkflowType = {quote(by.name)}"


def _started(between: StartTimeFilter, attribute: str) -> list[str]:
    earliest = _time(between, "earliest_time")
    latest = _time(between, "latest_time")
    if earliest and latest and _nanoseconds(between.earliest_time) > _nanoseconds(between.latest_time):
        raise errors.invalid("EarliestTime in StartTimeFilter should not be larger than LatestTime.")
    conditions = [f"{attribute} >= '{earliest}'"] if earliest else []
    return [*conditions, f"{attribute} <= '{latest}'"] if latest else conditions


def _time(between: StartTimeFilter, field: Any) -> str:
    if not between.HasField(field):
        return ""
    try:
        text: str = getattr(between, field).ToJsonString()
    except ValueError:
        raise errors.invalid(f"Invalid {field} in StartTimeFilter.") from None
    return text


def _nanoseconds(time: Timestamp) -> int:
    return time.seconds * _SECOND_NS + time.nanos


def _info(row: VisibilityRow) -> WorkflowExecutionInfo:
    """A run as lists show it. Raises ApiError (DATA_LOSS) for what no run can be."""
    try:
        return _shown(row)
    except (ValueError, TypeError, OverflowError, DecodeError) as error:
        damage = StoreDamagedError(f"the row of run {row.run_id!r} in the visibility store: {error}")
        raise errors.of_store(damage) from error


def _shown(row: VisibilityRow) -> WorkflowExecutionInfo:
    info = WorkflowExecutionInfo(status=Status.ValueType(row.status), task_queue=row.task_queue)
    info.execution.workflow_id, info.execution.run_id = row.workflow_id, row.run_id
    info.type.name = row.workflow_type
    info.root_execution.workflow_id, info.root_execution.run_id = row.root_workflow_id, row.root_run_id
    info.memo.CopyFrom(Memo.FromString(row.memo))
    for name, value in row.search_attributes.items():
        payload = visibility_payloads.encode(value.type, value.value)
        info.search_attributes.indexed_fields[name].CopyFrom(payload)
    _set_time(info.start_time, row.start_time_ns)
    _set_time(info.execution_time, row.execution_time_ns)
    if row.parent_workflow_id:
        info.parent_execution.workflow_id = row.parent_workflow_id
        info.parent_execution.run_id = row.parent_run_id or ""
    if row.close_time_ns is not None:
        _set_time(info.close_time, row.close_time_ns)
        info.history_length = row.history_length or 0
        info.history_size_bytes = row.history_size_bytes or 0
        info.state_transition_count = row.state_transition_count or 0
        if row.execution_duration_ns is not None:
            info.execution_duration.FromNanoseconds(row.execution_duration_ns)
    return info


def _set_time(field: Timestamp, time_ns: int) -> None:
    field.seconds, field.nanos = divmod(time_ns, _SECOND_NS)
