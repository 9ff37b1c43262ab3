"""Many open workflows at once: copies of one, written into the changelog as an owner writes its checkpoints.

The one is real: started through the API and worked up to its wait by an official SDK worker. The loader then takes
each partition over like any owner (fence, restore, verify), appends ticks to its log, folds them, and adds copies of
the one workflow's rows to the checkpoints that it writes: what differs in a copy are the workflow id and the run id,
which have the same length everywhere. So the copies are what restores, folds and signals find; only their histories
are in no store, which nobody reads here.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass

import grpc.aio
from confluent_kafka import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, WorkflowServiceStub

from benchmarks import load
from benchmarks.cluster.parts import Site, settings
from benchmarks.cluster.servers import Choices, serve_ours
from streams import topology
from streams.history_processor import HistoryProcessor
from streams.kafka import keys
from streams.kafka.admin import Cluster
from streams.kafka.log import Reader
from streams.kafka.names import Names
from streams.kafka.outlet import Outlet
from streams.kafka.ownership import Ownership
from streams.kafka.partitions import Partitions
from streams.kafka.settings import KafkaSettings
from streams.kafka.status import MemberStatus, PartitionStatus
from streams.kafka.takeovers import Request, Taken, Takeovers
from streams.record_types import BODY_TYPES
from streams.runtime.checkpoints import Checkpoint
from streams.runtime.codec import Codec
from streams.runtime.records import Record, Tick
from streams.runtime.tables import Row

NAMESPACE = "default"
CHECKPOINT_WORKFLOWS = 2_500
"""Copies in one checkpoint: about as many rows as are written at most by default."""

_PREFIX = "bulk"
_DIGITS = 9
_WAIT_S = 60.0
_SETTLE_S = 15.0
"""How long deadlines stay that no longer matter: those of its workflow task."""


@dataclass(frozen=True)
class Template:
    """The workflow that is copied."""

    workflow_id: str
    run_id: str

    def copy(self, number: int) -> Template:
        """The ids of copy `number`, from 0 on, as long as its own."""
        digits = f"{number + 1:0{_DIGITS}d}"  # 0 is the template itself
        run_id = f"{self.run_id[:-12]}{number:012d}"
        return Template(self.workflow_id.replace("0" * _DIGITS, digits), run_id)


async def prepare(site: Site, port: int, choices: Choices) -> Template:
    """Make topics and stores, and run one workflow up to its wait; the server is stopped afterwards."""
    prefix = f"{_PREFIX}-{'0' * _DIGITS}"
    async with serve_ours(site, port, choices) as server:
        await load.run(server, "open", "-count", "1", "-open-with-worker", "-id-prefix", prefix)
        workflow_id = f"{prefix}-1"
        request = DescribeWorkflowExecutionRequest(
            namespace=NAMESPACE, execution=WorkflowExecution(workflow_id=workflow_id)
        )
        async with grpc.aio.insecure_channel(server.address) as channel:
            answer = await WorkflowServiceStub(channel).DescribeWorkflowExecution(request, timeout=10)
        await asyncio.sleep(_SETTLE_S)
    return Template(workflow_id, answer.workflow_execution_info.execution.run_id)


def loader_settings(site: Site, choices: Choices) -> KafkaSettings:
    """Those of a process of its own, whose local stores are removed when it is done."""
    own = {"state_directory": str(site.directory / "loader")}
    return KafkaSettings.model_validate(
        settings(site, partitions=choices.partitions, serve={}, kafka=own)["kafka"]
    )


def copy_many(site: Site, choices: Choices, template: Template, numbers: range) -> float:
    """Write copies with these numbers; blocks. Returns the seconds it took. Raises RuntimeError."""
    began_s = time.monotonic()
    loader = _Loader(loader_settings(site, choices), template)
    try:
        loader.load(numbers)
    finally:
        loader.close()
        shutil.rmtree(site.directory / "loader", ignore_errors=True)
    return time.monotonic() - began_s


async def fill(site: Site, port: int, choices: Choices, numbers: range) -> Template:
    """`prepare` and `copy_many`."""
    template = await prepare(site, port, choices)
    await asyncio.to_thread(copy_many, site, choices, template, numbers)
    return template


class _Loader:
    def __init__(self, kafka: KafkaSettings, template: Template) -> None:
        self._kafka = kafka
        self._template = template
        self._codec = Codec(BODY_TYPES)
        cluster = Cluster(kafka)
        found = cluster.check()
        self._partitions = Partitions({name: topic.partitions for name, topic in found.items()})
        self._topic = Names(kafka.prefix).topic(topology.COMMANDS)
        self._reader = Reader(kafka, f"{kafka.prefix}-loader", cluster.client, [self._topic])
        self._outlet = Outlet(kafka, self._codec, self._partitions)
        self._takeovers = Takeovers(kafka, self._codec, HistoryProcessor, self._partitions, None, _WAIT_S)

    def close(self) -> None:
        self._takeovers.stop()
        self._reader.close()
        self._outlet.close()

    def load(self, numbers: range) -> None:
        count = self._partitions.count(topology.COMMANDS)
        owned = [self._take_over(number) for number in range(count)]
        try:
            rows = next(found for ownership in owned if (found := self._rows_of_template(ownership)))
            copies: list[list[int]] = [[] for _ in range(count)]
            for number in numbers:
                key = topology.workflow_key(NAMESPACE, self._template.copy(number).workflow_id)
                copies[topology.partition_of(key, count)].append(number)
            for ownership, own in zip(owned, copies, strict=True):
                self._write(ownership, rows, own)
        finally:
            for ownership in owned:
                ownership.changelog.close()

    def _take_over(self, number: int) -> Ownership:
        status = PartitionStatus("history", number)
        self._takeovers.submit(Request(number, number, status, lambda: True, after=None, standby=None))
        taken: Taken = self._takeovers.results.get(timeout=_WAIT_S)
        if taken.owner is None or taken.changelog is None:
            raise RuntimeError(f"{self._topic}/{number} cannot be taken over: {taken.error}")
        ownership = Ownership(
            taken.owner,
            taken.changelog,
            self._outlet,
            self._codec,
            self._kafka,
            MemberStatus("history"),
            status,
            lambda reply: False,
        )
        ownership.begin()
        return ownership

    def _rows_of_template(self, ownership: Ownership) -> list[tuple[bytes, bytes]]:
        """What a partition holds of the template, none in all but one."""
        mark = self._template.workflow_id.encode()
        rows = [(key, value) for key, value in ownership.changelog.store.contents() if mark in key]
        if any(key.startswith(keys.DUE) for key, _ in rows):
            raise RuntimeError("the workflow to be copied has a deadline: its copies would not be idle")
        return rows

    def _write(self, ownership: Ownership, rows: list[tuple[bytes, bytes]], copies: list[int]) -> None:
        """Add copies, a checkpoint at a tick each; the last one is of a tick alone."""
        slices = [copies[n : n + CHECKPOINT_WORKFLOWS] for n in range(0, len(copies), CHECKPOINT_WORKFLOWS)]
        for message in self._ticks(ownership, len(slices) + 1):
            ownership.take(message, _now_ms())
            ownership.cut()
            while (checkpoint := ownership.take_writable()) is None:
                self._outlet.poll(0.01)
                if self._outlet.failure:
                    raise RuntimeError(self._outlet.failure)
            own = slices.pop() if slices else []
            size_bytes = ownership.changelog.write(self._with_copies(checkpoint, rows, own))
            ownership.written(checkpoint, size_bytes, 0.0, _now_ms())

    def _ticks(self, ownership: Ownership, count: int) -> list[Message]:
        """Append ticks, which harm nobody (fold.md rule 2), and read them back."""
        partition = ownership.owner.partition
        arrived = 0

        def acknowledged() -> None:
            nonlocal arrived
            arrived += 1

        for n in range(count):
            tick = Record(
                topology.COMMANDS,
                partition.number,
                "",
                Tick(),
                source=partition.source,
                origin_offset=ownership.next_offset + n,
            )
            self._outlet.append(tick, acknowledged)
        while arrived < count:
            self._outlet.poll(0.1)
            if self._outlet.failure:
                raise RuntimeError(self._outlet.failure)
        batches = self._reader.read(self._topic, partition.number, ownership.next_offset)
        return [message for batch in batches for message in batch]

    def _with_copies(
        self, checkpoint: Checkpoint, rows: list[tuple[bytes, bytes]], copies: list[int]
    ) -> Checkpoint:
        own = self._template
        workflow_id, run_id = own.workflow_id.encode(), own.run_id.encode()
        made: list[Row] = []
        for number in copies:
            copy = own.copy(number)
            new_id, new_run = copy.workflow_id.encode(), copy.run_id.encode()
            made.extend(
                keys.row(*(text.replace(workflow_id, new_id).replace(run_id, new_run) for text in row))
                for row in rows
            )
        return Checkpoint(checkpoint.position, (*checkpoint.rows, *made), checkpoint.dues)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
