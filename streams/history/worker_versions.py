"""What a run remembers of the workers that completed its workflow tasks: points to reset to, and build ids.

Behaviour: AfterAddWorkflowTaskCompletedEvent of the real server (service/history/workflow).
"""

from __future__ import annotations

import functools
import json

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.history.v1 import HistoryEvent, WorkflowTaskCompletedEventAttributes
from temporalio.api.workflow.v1 import ResetPointInfo, ResetPoints

from streams.history import state, visibility
from streams.history.evolve import applies_fact, emits_fact
from streams.history.run import Run
from streams.history.state import RESET_POINTS, SEARCH, WORKER, Blob
from streams.history.values import to_timestamp

KEPT_POINTS = 100
"""Reset points that a run keeps: the most that the limit in force may let describe show, and a next run inherit."""

BUILD_IDS = "BuildIds"
CHECKSUMS = "BinaryChecksums"
UNVERSIONED = "unversioned"
_MAX_VALUE_BYTES = 2_048


class AttributesGrown(msgspec.Struct, frozen=True):
    """The server itself changed the run's search attributes: lists show them."""


def completed(run: Run, event: HistoryEvent) -> None:
    """A workflow task was completed. Called by the applier of its event, before the core remembers it."""
    attributes, core = event.workflow_task_completed_event_attributes, run.core
    if (
        core.last_completed_event_id
        and attributes.worker_version.build_id == core.build_id
        and not attributes.binary_checksum
        and run.entity.get(RESET_POINTS) is not None
    ):
        return
    if attributes.HasField("worker_version"):
        run.put(WORKER, "", Blob(attributes.worker_version.SerializeToString(deterministic=True)))
    points = reset_points(run)
    known = [(point.binary_checksum, point.build_id) for point in points.points]
    if (attributes.binary_checksum, attributes.worker_version.build_id) not in known:
        points.points.append(_point(run, event, attributes))
        del points.points[:-KEPT_POINTS]
        run.put(RESET_POINTS, "", Blob(points.SerializeToString(deterministic=True)))
    _grow_attributes(run, attributes, points)


def _point(run: Run, event: HistoryEvent, attributes: WorkflowTaskCompletedEventAttributes) -> ResetPointInfo:
    pending = (state.CHILD, state.EXTERNAL_CANCEL, state.EXTERNAL_SIGNAL)
    return ResetPointInfo(
        binary_checksum=attributes.binary_checksum,
        build_id=attributes.worker_version.build_id,
        run_id=run.core.run_id,
        first_workflow_task_completed_id=event.event_id,
        create_time=event.event_time,
        resettable=not any(run.entity.count(kind) for kind in pending),
    )


def reset_points(run: Run) -> ResetPoints:
    """The first task that each version of the workers completed, of this run and those it continues."""
    blob: Blob | None = run.entity.get(RESET_POINTS)
    return ResetPoints() if blob is None else ResetPoints.FromString(blob.data)


def rolled_over(run: Run, retention_ms: int) -> ResetPoints:
    """The points as the run that follows gets them: those of this run expire with its history."""
    points, now_ms = reset_points(run), run.step.now_ms
    kept = ResetPoints()
    for point in points.points:
        if point.HasField("expire_time") and _ms(point.expire_time) < now_ms:
            continue
        if point.run_id == run.core.run_id:
            point.expire_time.CopyFrom(to_timestamp(now_ms + retention_ms))
        kept.points.append(point)
    del kept.points[: -run.step.limits.reset_points]
    return kept


def _ms(time: Timestamp) -> int:
    return time.seconds * 1000 + time.nanos // 1_000_000


def _grow_attributes(run: Run, attributes: WorkflowTaskCompletedEventAttributes, points: ResetPoints) -> None:
    blob: Blob | None = run.entity.get(SEARCH)
    version = attributes.worker_version
    checksums = tuple(point.binary_checksum for point in points.points if point.binary_checksum)
    data = _grown(
        blob.data if blob else b"",
        version.build_id,
        version.use_versioning,
        checksums if attributes.binary_checksum else (),
    )
    if blob is None or data != blob.data:
        run.put(SEARCH, "", Blob(data))


@functools.lru_cache(1024)
def _grown(before: bytes, build_id: str, versioned: bool, checksums: tuple[str, ...]) -> bytes:
    """Encoded search attributes with a worker's version: most runs of a worker start with the same ones."""
    search = SearchAttributes.FromString(before)
    fields = search.indexed_fields
    known = json.loads(fields[BUILD_IDS].data) if BUILD_IDS in fields else []
    fields[BUILD_IDS].CopyFrom(_keywords(_build_ids(known, build_id, versioned)))
    if checksums:
        fields[CHECKSUMS].CopyFrom(_keywords(list(checksums)))
    return search.SerializeToString(deterministic=True)


def _build_ids(known: list[str], build_id: str, versioned: bool) -> list[str]:
    """Whether the run's workers are versioned, then each build id that completed a task."""
    ids = [] if versioned else [UNVERSIONED]
    ids += [known_id for known_id in known if known_id != UNVERSIONED]
    if build_id:
        own = ("versioned:" if versioned else "unversioned:") + build_id
        if own not in ids:
            ids.append(own)
    while len(json.dumps(ids)) > _MAX_VALUE_BYTES and len(ids) > 1:
        del ids[1]
    return ids


def _keywords(values: list[str]) -> Payload:
    return Payload(
        metadata={"encoding": b"json/plain", "type": b"KeywordList"},
        data=json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode(),
    )


@applies_fact(AttributesGrown)
def _attributes_grown(run: Run, fact: AttributesGrown) -> None:
    """The applier of the task's event has changed them."""


@emits_fact(AttributesGrown)
def _show(run: Run, fact: AttributesGrown) -> None:
    if run.is_open:
        visibility.show_soon(run)
