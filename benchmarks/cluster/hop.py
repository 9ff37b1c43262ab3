"""One hop: a record in, its fold, and the record that this makes seen by whoever consumes it next.

Signals are appended to `commands` at a steady rate, as a gateway appends them. Each is folded by the owners of
histories, which send a reply to the gateway's partition of `replies`, read here as a gateway reads it. Nothing is
batched on the way in, and checkpoints go on meanwhile. (Events of an open run reach `history` up to a second later on
purpose: decision 0012.)
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from typing import Any, Final

from confluent_kafka import Message, Producer, TopicPartition
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest

from benchmarks.cluster import bulk, metrics
from benchmarks.cluster.parts import Parts, Site
from benchmarks.cluster.scenarios import ClusterSizes
from benchmarks.cluster.servers import Choices, serve_ours
from streams import avro, bodies, topology
from streams.kafka import wire
from streams.kafka.names import REPLIES, Names, gateway_address
from streams.kafka.settings import KafkaSettings
from streams.kafka.tail import Tail
from streams.record_types import BODY_TYPES
from streams.runtime.codec import Codec
from streams.runtime.records import Correlation, Record

RATE_PER_S: Final = 200
WORKFLOWS: Final = 100
"""Open workflows that get the signals in turn: so few that their workflow tasks, which nobody polls, add no load."""

_WARMUP_S: Final = 20
_LAST_S: Final = 5.0
"""How long what was sent last may take."""


async def measure(parts: Parts, port: int, sizes: ClusterSizes, choices: Choices) -> dict[str, Any]:
    """Hops at RATE_PER_S for `sizes.hop_s`."""
    site = Site("odradek_hop", parts)
    await asyncio.to_thread(site.make)
    try:
        template = await bulk.fill(site, port, choices, range(WORKFLOWS))
        async with serve_ours(site, port, choices) as server:
            before = server.usage()
            figures = await asyncio.to_thread(
                _hops, bulk.loader_settings(site, choices), template, sizes.hop_s
            )
            after = server.usage()
            found = await asyncio.to_thread(metrics.read, server.metrics_ports)
    finally:
        await asyncio.to_thread(site.remove)
    cpu_s = after.tree_cpu_s - before.tree_cpu_s
    return {
        **figures,
        "version": server.version,
        "parts_cpu_ms_per_operation": cpu_s * 1000 / figures["operations"],
        "checkpoints": metrics.total(found, "odradek_checkpoints_total"),
    }


def _hops(kafka: KafkaSettings, template: bulk.Template, seconds: int) -> dict[str, Any]:
    client = _Client(kafka)
    try:
        period_s = 1 / RATE_PER_S
        count = RATE_PER_S * (seconds + _WARMUP_S)
        began_s = time.monotonic()
        for n in range(count):
            if (wait_s := began_s + n * period_s - time.monotonic()) > 0:
                time.sleep(wait_s)
            client.send(template.copy(n % WORKFLOWS).workflow_id)
        took_s = time.monotonic() - began_s
        client.wait(count)
    finally:
        client.close()
    skipped = RATE_PER_S * _WARMUP_S
    replies = sorted(client.replies_ms[skipped:])
    return {
        "operations": count,
        "rate_per_s": count / took_s,
        "hop_p50_ms": statistics.median(replies),
        "hop_p99_ms": replies[int(len(replies) * 0.99)],
    }


class _Client:
    """Appends signals, and takes the time until their replies are seen."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.replies_ms: list[float] = []
        self._names = Names(kafka.prefix)
        self._codec = Codec(BODY_TYPES)
        self._kafka = kafka
        self._epoch = time.time_ns() // 1_000_000
        self._address = gateway_address("hop", 0)
        self._sequence = 0
        self._sent_s: dict[int, float] = {}
        self._seen = threading.Condition()
        self._producer = Producer(kafka.producer())
        topic = self._names.topic(REPLIES)
        self._replies = Tail(f"hop-{REPLIES}", kafka, self._take_replies, self._failed)
        self._replies.start([TopicPartition(topic, 0, self._replies.next_offset(topic, 0))])

    def _failed(self, error: Exception) -> None:
        print(f"a topic cannot be read on: {error}", flush=True)

    def send(self, workflow_id: str) -> None:
        self._sequence += 1
        request = SignalWorkflowExecutionRequest(
            namespace=bulk.NAMESPACE, signal_name="hop", request_id=f"hop-{self._sequence}"
        )
        request.workflow_execution.workflow_id = workflow_id
        key = topology.workflow_key(bulk.NAMESPACE, workflow_id)
        partition = topology.partition_of(key, self._kafka.partitions)
        body = bodies.Call(
            "SignalWorkflowExecution", bulk.NAMESPACE, workflow_id, "", request.SerializeToString()
        )
        record = Record(
            topology.COMMANDS,
            partition,
            key,
            body,
            source="hop",
            origin_epoch=self._epoch,
            origin_offset=self._sequence,
            correlation=Correlation(self._address, self._epoch, self._sequence),
        )
        value = wire.value_of(self._codec, record)
        self._sent_s[self._sequence] = time.perf_counter()
        self._producer.produce(self._names.topic(topology.COMMANDS), value, key.encode(), partition)
        self._producer.poll(0)

    def _take_replies(self, messages: list[Message]) -> None:
        now_s = time.perf_counter()
        with self._seen:
            for message in messages:
                reply = avro.decode(bodies.ReplyRecord, message.value() or b"")
                if reply.gateway == self._address and reply.epoch == self._epoch:
                    if reply.code:
                        raise RuntimeError(f"a signal was refused: {reply.message}")
                    self.replies_ms.append((now_s - self._sent_s[reply.call_id]) * 1000)
            self._seen.notify_all()

    def wait(self, count: int) -> None:
        """Return once as many replies have been seen. Raises RuntimeError."""
        with self._seen:
            complete = self._seen.wait_for(lambda: len(self.replies_ms) >= count, _LAST_S)
        if not complete:
            raise RuntimeError(f"of {count} signals {len(self.replies_ms)} were answered")

    def close(self) -> None:
        self._producer.flush(_LAST_S)
        self._replies.stop()
