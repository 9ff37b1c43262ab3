"""What folding costs: one-activity workflows through the three processors, without gRPC, disk or waiting.

`python -m benchmarks.fold [--count N] [--profile]` prints microseconds of CPU a workflow and a record.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import deque
from typing import Any

import msgspec
from temporalio.api.command.v1 import Command
from temporalio.api.enums.v1 import CommandType
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse,
    RespondActivityTaskCompletedRequest,
    RespondWorkflowTaskCompletedRequest,
    StartWorkflowExecutionRequest,
)

from streams import bodies, topology
from streams.history_processor import HistoryProcessor
from streams.matching_processor import MatchingProcessor
from streams.runtime.partition import Partition
from streams.runtime.records import Correlation, Record, Reply
from streams.timer_processor import TimerProcessor
from tests.support.memory import MemoryStore

NAMESPACE = "default"
QUEUE = "work"
STICKY = "sticky"


class Pipeline:
    """Three processors over memory; calls are folded at once with what they emit."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.partitions = {
            p.input_topic: Partition(p, 0, store, store, lambda topic, key: 0, lambda topic: 1)
            for p in (HistoryProcessor(), MatchingProcessor(), TimerProcessor())
        }
        self.records = 0
        self.time_ms = 1_700_000_000_000
        self._replies: dict[int, Reply] = {}
        self._calls = 0
        self._offset = 0

    def call(self, topic: str, key: str, body: msgspec.Struct) -> int:
        """Append a record with a correlation and fold all that follows; returns the call's number."""
        self._calls += 1
        queue = deque(
            [
                Record(
                    topic,
                    0,
                    key,
                    body,
                    source="gateway",
                    origin_epoch=1,
                    origin_offset=self._calls,
                    correlation=Correlation("gateway", 1, self._calls),
                )
            ]
        )
        self.time_ms += 1
        while queue:
            record = queue.popleft()
            partition = self.partitions.get(record.topic)
            if partition is None:
                continue
            self._offset += 1
            self.records += 1
            record.offset, record.time_ms = self._offset, self.time_ms
            outcome = partition.step(record)
            assert not outcome.verdicts, outcome.verdicts
            queue.extend(outcome.emissions)
            for correlation, reply in outcome.replies:
                self._replies[correlation.id] = reply
        return self._calls

    def reply(self, call: int) -> Reply:
        """The reply to a call. Raises KeyError when there is none yet."""
        reply = self._replies.pop(call)
        assert reply.code == 0, reply
        return reply


def run(pipeline: Pipeline, number: int) -> None:
    """One workflow of one activity, as the SDK drives it."""
    workflow_id = f"workflow-{number}"
    request = StartWorkflowExecutionRequest(namespace=NAMESPACE, workflow_id=workflow_id, identity="client")
    request.workflow_type.name = "One"
    request.task_queue.name = QUEUE
    request.request_id = f"request-{number}"
    payload = request.input.payloads.add()
    payload.metadata["encoding"] = b"json/plain"
    payload.data = b'"input"'
    run_id = f"01900000-0000-7000-8000-{number:012d}"
    started = _call(pipeline, "StartWorkflowExecution", workflow_id, request, new_run_id=run_id)
    task = PollWorkflowTaskQueueResponse.FromString(_poll(pipeline, QUEUE, bodies.WORKFLOW_TASK))
    complete = _complete(task.task_token)
    command = complete.commands.add(command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    attributes = command.schedule_activity_task_command_attributes
    attributes.activity_id = "1"
    attributes.activity_type.name = "Activity"
    attributes.task_queue.name = QUEUE
    attributes.start_to_close_timeout.seconds = 10
    attributes.input.CopyFrom(request.input)
    _call(pipeline, "RespondWorkflowTaskCompleted", workflow_id, complete)
    activity = PollActivityTaskQueueResponse.FromString(_poll(pipeline, QUEUE, bodies.ACTIVITY_TASK))
    done = RespondActivityTaskCompletedRequest(task_token=activity.task_token, namespace=NAMESPACE)
    done.result.CopyFrom(request.input)
    sticky = _start_poll(pipeline, STICKY, bodies.WORKFLOW_TASK)
    _call(pipeline, "RespondActivityTaskCompleted", workflow_id, done)
    task = PollWorkflowTaskQueueResponse.FromString(pipeline.reply(sticky).body)
    complete = _complete(task.task_token)
    finish = Command(command_type=CommandType.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    finish.complete_workflow_execution_command_attributes.result.CopyFrom(request.input)
    complete.commands.append(finish)
    _call(pipeline, "RespondWorkflowTaskCompleted", workflow_id, complete)
    assert started.code == 0


def _complete(token: bytes) -> RespondWorkflowTaskCompletedRequest:
    request = RespondWorkflowTaskCompletedRequest(
        task_token=token, namespace=NAMESPACE, return_new_workflow_task=True
    )
    request.sticky_attributes.worker_task_queue.name = STICKY
    request.sticky_attributes.schedule_to_start_timeout.seconds = 5
    return request


def _call(pipeline: Pipeline, method: str, workflow_id: str, request: Any, new_run_id: str = "") -> Reply:
    body = bodies.Call(
        method, NAMESPACE, workflow_id, "", request.SerializeToString(), new_run_id, pipeline.time_ms + 10_000
    )
    return pipeline.reply(
        pipeline.call(topology.COMMANDS, topology.workflow_key(NAMESPACE, workflow_id), body)
    )


def _start_poll(pipeline: Pipeline, queue: str, kind: str) -> int:
    message = PollActivityTaskQueueRequest if kind == bodies.ACTIVITY_TASK else PollWorkflowTaskQueueRequest
    request = message(namespace=NAMESPACE, identity="worker")
    request.task_queue.name = queue
    body = bodies.PollTask(
        NAMESPACE,
        queue,
        kind,
        "worker",
        pipeline.time_ms + 60_000,
        request.SerializeToString(),
        queue == STICKY,
    )
    return pipeline.call(topology.TASKS, topology.queue_key(NAMESPACE, queue, kind), body)


def _poll(pipeline: Pipeline, queue: str, kind: str) -> bytes:
    return pipeline.reply(_start_poll(pipeline, queue, kind)).body


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3_000)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    pipeline = Pipeline()
    config = bodies.NamespaceConfig(NAMESPACE, "id", 1, 86_400_000)
    pipeline.call(topology.COMMANDS, topology.REGISTRY_KEY, bodies.NamespaceChanged(config))
    for number in range(300):
        run(pipeline, number)
    profile = cProfile.Profile()
    records, started_s = pipeline.records, time.process_time()
    if arguments.profile:
        profile.enable()
    for number in range(300, 300 + arguments.count):
        run(pipeline, number)
        if number % 200 == 0:
            for partition in pipeline.partitions.values():
                for table in partition.tables.values():
                    table.freeze()
                    table.written()
                partition.due.freeze()
                partition.due.written()
    profile.disable()
    cpu_us = (time.process_time() - started_s) * 1e6
    records = pipeline.records - records
    print(f"{cpu_us / arguments.count:.0f} us a workflow, {records / arguments.count:.1f} records,")
    print(f"{cpu_us / records:.1f} us a record (client messages and checkpoint encoding included)")
    if arguments.profile:
        stats = pstats.Stats(profile)
        stats.sort_stats("tottime").print_stats(60)
        stats.sort_stats("cumulative").print_stats(90)


if __name__ == "__main__":
    main()
