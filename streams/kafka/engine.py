"""The gateway's side of the engine on Kafka: it appends records, gets replies, and reads what there is to read."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams import topology
from streams.bodies import GatewayLease, LimitsChanged, NamespaceCall, NamespaceConfig, ReplyRecord
from streams.kafka.inline_events import InlineEvents
from streams.kafka.names import Names, gateway_address
from streams.kafka.pace import Calls
from streams.kafka.registry import RegistryFollower
from streams.kafka.replies import Batches, LocalGateways, RepliesReader
from streams.kafka.reply_sockets import ReplySocket
from streams.kafka.settings import KafkaSettings
from streams.kafka.tail import TailError
from streams.kafka.topic_events import Events, TopicEvents
from streams.kafka.wire import value_of
from streams.runtime.codec import Codec
from streams.runtime.failures import EngineFailedError
from streams.runtime.records import Correlation, Record, Reply
from streams.stores.damage import StoreError
from streams.stores.history import HistoryReader

LOG = logging.getLogger(__name__)

UNAVAILABLE: Final = 14
"""gRPC status code of a call whose record did not reach the log."""

LEASE_MS: Final = 6_000
"""How long matching takes a gateway for alive after a sign of life (fold.md rule 19)."""
LEASE_PERIOD_S: Final = 2.0

DELIVERY_TIMEOUT_MS: Final = 30_000
"""How long a record may take into the log before its call is failed."""
BUSY_CALLS: Final = 8
BURST_S: Final = 0.008
"""While so many calls wait for their replies, records are appended in bursts, gathered for so long."""
REPORTS_S: Final = 0.02
"""How often reports of what did not get there are looked for while something is on its way."""
RETRY_S: Final = 0.5
"""When a record that no caller waits for is appended again."""
FLUSH_S: Final = 10.0

READ_WAIT_S: Final = 4.0
"""How long a read waits for events on their way to the store: less than what a poll has left for its client."""
READ_RETRY_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TOPIC_AFTER_S: Final = 0.3
"""How long the materializer has for events before they are looked for in their topic."""
TOPIC_AGAIN_S: Final = 1.0
CHANGE_WAIT_S: Final = 2.0
"""How long the answer to a change of a namespace waits for the change to be seen here."""
WHOLE_WAIT_S: Final = 60.0

_BROADCAST: Final = (LimitsChanged, GatewayLease)
"""What every partition of its topic has to know."""


class KafkaEngine:
    """Implements `gateway.engine.Engine` on Kafka. Belongs to the event loop's thread.

    `gateway_id` tells this gateway from all others of the cluster, and stays the same from start to start;
    `reply_partition` is the partition of `replies` that it reads, else one that follows from its id. `local` gets
    its replies from owners in this process, a socket in the directory `sockets` those from this machine.
    `unstored`, where given, finds events that are in no store yet; it is stopped with the engine.
    `on_failure(error)` is called once, on the loop, when it cannot go on.

    What no owner has applied by the time a call ends may be applied later: UNAVAILABLE says nothing of that.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        gateway_id: str,
        codec: Codec,
        registry: RegistryFollower,
        history: HistoryReader,
        *,
        on_failure: Callable[[BaseException], None],
        reply_partition: int | None = None,
        local: LocalGateways | None = None,
        sockets: Path | None = None,
        unstored: TopicEvents | None = None,
        delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._names = Names(settings.prefix)
        self._id = gateway_id
        self._codec = codec
        self._registry = registry
        self._history = history
        self._unstored = unstored
        self._on_failure = on_failure
        self._local = local
        self._sockets = sockets
        self._socket: ReplySocket | None = None
        self._clock_ms = clock_ms
        self._loop = asyncio.get_running_loop()
        self._reader = RepliesReader(
            settings,
            lambda count: (
                topology.partition_of(gateway_id, count) if reply_partition is None else reply_partition
            ),
            lambda replies: self._batches.put(replies),
            lambda error: self._call_soon(lambda: self._fail(error)),
        )
        self._batches = Batches(self._call_soon, self._take)
        self._producer = Producer(
            {
                **settings.producer(),
                "message.timeout.ms": delivery_timeout_ms,
                "delivery.report.only.error": True,
                "partitioner": "murmur2_random",
                "error_cb": self._noticed,
            }
        )
        self._calls = Calls()
        self._burst: list[tuple[str, str, msgspec.Struct, Correlation | None, int]] = []
        self._counts: dict[str, int] = {}
        self._failure: BaseException | None = None
        self._on_reply: Callable[[int, Reply], None] | None = None
        self._epoch = 0
        self._sequence = 0
        self._reports: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_leader = False
        self._changing: dict[int, tuple[str, int]] = {}
        self._changed = asyncio.Event()
        self._running = False
        self.address = ""
        self.inline = InlineEvents()
        self.records = 0
        """Records appended."""
        self.undelivered = 0
        """Records that did not get into the log."""
        self.former = 0
        """Replies to calls of an earlier epoch."""

    # Life

    async def start(self) -> None:
        """Find the end of the replies and the partitions, and read the registry whole.

        Raises EngineFailedError.
        """
        try:
            await asyncio.to_thread(self._resolve)
            self._has_leader = await asyncio.to_thread(self._reader.has_leader)
            whole = await asyncio.to_thread(self._registry.wait_whole, WHOLE_WAIT_S)
        except TailError as error:
            raise EngineFailedError(str(error)) from error
        if not whole:
            raise EngineFailedError(f"the registry could not be read within {WHOLE_WAIT_S:.0f} s")
        self.address = gateway_address(self._id, self._reader.partition)
        self._registry.listeners.append(self._registry_changed)
        self._reader.start(self.address)
        if self._local is not None:
            self._local.add(self.address, lambda reply: self._batches.put([reply]))
        if self._sockets is not None:
            try:
                self._socket = ReplySocket(self._sockets, self.address, self._take)
            except OSError as error:
                LOG.warning("no socket for replies in %s: %s", self._sockets, error)
        self._running = True

    def _resolve(self) -> None:
        self._reader.resolve()
        for topic in (topology.COMMANDS, topology.TASKS):
            self._counts[topic] = self._reader.partition_count(self._names.topic(topic))

    async def stop(self) -> None:
        """Tell matching that this gateway is gone, get out what is on its way, and leave."""
        if self._running and self._failure is None and self._epoch:
            self.append(topology.TASKS, self.address, GatewayLease(self.address, self._epoch, 1))
        self._running = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._local is not None:
            self._local.remove(self.address)
        if self._socket is not None:
            self._socket.close()
        if self._reports is not None:
            self._reports.cancel()
        if self._registry_changed in self._registry.listeners:
            self._registry.listeners.remove(self._registry_changed)
        self._append_burst()
        await asyncio.to_thread(self._producer.flush, 0 if self._failure else FLUSH_S)
        await asyncio.to_thread(self._reader.stop)
        if self._unstored is not None:
            await asyncio.to_thread(self._unstored.stop)

    @property
    def is_ready(self) -> bool:
        """Whether calls can be answered, as far as the gateway's side goes."""
        return self._running and self._failure is None and self._registry.is_whole and self._has_leader

    @property
    def strangers(self) -> int:
        """Replies to other gateways on the same partition."""
        return self._reader.strangers

    @property
    def damaged(self) -> int:
        """Replies that could not be decoded."""
        return self._reader.damaged + (self._socket.damaged if self._socket is not None else 0)

    def _call_soon(self, call: Callable[[], None]) -> None:
        """Have the loop call, from any thread; a loop that has ended has nobody left who waits."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._on_failure(error)

    # What the gateway uses

    def attach_gateway(self, name: str, on_reply: Callable[[int, Reply], None]) -> int:
        """See gateway.engine.Engine. Raises ValueError for another name than `address`."""
        if name != self.address:
            raise ValueError(f"the gateway here is {self.address}, not {name}")
        first = not self._epoch
        self._epoch = max(self._clock_ms(), self._epoch + 1)
        self._on_reply = on_reply
        if first:
            self._spawn(self._live())
            self._spawn(self._watch_replies())
        else:
            self._lease()
        return self._epoch

    def append(
        self, topic: str, key: str, body: msgspec.Struct, correlation: Correlation | None = None
    ) -> None:
        """See gateway.engine.Engine. Raises EngineFailedError once the engine has stopped."""
        if self._failure is not None:
            raise EngineFailedError(str(self._failure))
        if correlation is not None and topic != topology.TASKS:  # polls wait even where little happens
            self._calls.begin(correlation.id)
        if isinstance(body, NamespaceCall) and correlation is not None:
            self._changing[correlation.id] = (body.namespace, self._registry.changes_of(body.namespace))
        partitions = range(self._counts[topic]) if isinstance(body, _BROADCAST) else (-1,)
        for partition in partitions:
            if self._burst or self._calls.count() >= BUSY_CALLS:
                self._gather((topic, key, body, correlation, partition))
            else:
                self._send([self._encoded(topic, key, body, correlation, partition)])

    def _gather(self, record: tuple[str, str, msgspec.Struct, Correlation | None, int]) -> None:
        """Append a record with others, in their order."""
        self._burst.append(record)
        if len(self._burst) == 1:
            self._loop.call_later(BURST_S, self._append_burst)

    def _append_burst(self) -> None:
        burst, self._burst = self._burst, []
        self._send([self._encoded(*record) for record in burst])

    def _encoded(
        self, topic: str, key: str, body: msgspec.Struct, correlation: Correlation | None, partition: int
    ) -> tuple[Record, int, bytes]:
        """The next record of this gateway, the partition that it is for, -1 for that of its key, and its value."""
        self._sequence += 1
        record = Record(
            topic,
            max(partition, 0),
            key,
            body,
            source=self.address,
            origin_epoch=self._epoch or 1,
            origin_offset=self._sequence,
            correlation=correlation,
        )
        return record, partition, value_of(self._codec, record)

    def _send(self, records: Sequence[tuple[Record, int, bytes]]) -> None:
        """Give records to the producer. It sends at once what it has, so those of a partition come close together."""
        for record, partition, value in records:
            try:
                self._producer.produce(
                    self._names.topic(record.topic),
                    value,
                    record.key.encode(),
                    partition,
                    on_delivery=functools.partial(self._reported, record, partition),
                )
            except (BufferError, KafkaException) as error:
                self._not_delivered(record, partition, str(error))
            else:
                self.records += 1
        if records and self._reports is None:
            self._reports = self._loop.call_later(REPORTS_S, self._look_for_reports)

    async def flush(self) -> None:
        """Return at once: lists show what is materialised by now, as the real server's do."""

    @property
    def namespaces(self) -> Mapping[str, NamespaceConfig]:
        """See gateway.engine.Engine."""
        return self._registry.namespaces

    # What became of records

    def _look_for_reports(self) -> None:
        self._producer.poll(0)
        again = len(self._producer) > 0 and self._running
        self._reports = self._loop.call_later(REPORTS_S, self._look_for_reports) if again else None

    def _reported(self, record: Record, partition: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._call_soon(lambda: self._not_delivered(record, partition, error.str()))

    def _not_delivered(self, record: Record, partition: int, reason: str) -> None:
        """Fail the call of a record; what nobody waits for is appended again, unless it has lost its meaning."""
        self.undelivered += 1
        correlation = record.correlation
        if correlation is not None:
            sentence = f"The request could not be written to the log: {reason}"
            reply = ReplyRecord(correlation.gateway, correlation.epoch, correlation.id, UNAVAILABLE, sentence)
            self._loop.call_soon(self._take, reply)
        elif not isinstance(record.body, GatewayLease) and self._running:
            LOG.warning("%r could not be written to the log and is tried again: %s", record, reason)
            self._loop.call_later(RETRY_S, self._again, record, partition)

    def _again(self, record: Record, partition: int) -> None:
        if self._running and self._failure is None:
            self._send([self._encoded(record.topic, record.key, record.body, None, partition)])

    def _noticed(self, error: KafkaError) -> None:
        if error.fatal():
            self._call_soon(
                lambda: self._fail(EngineFailedError(f"the producer cannot go on: {error.str()}"))
            )

    # Replies

    def _take(self, reply: ReplyRecord) -> None:
        """A reply has come. What is older than the epoch is for nobody any more."""
        if reply.epoch != self._epoch or self._on_reply is None:
            self.former += 1
            return
        if reply.events:
            self.inline.add(reply.attach_run, reply.events_first_id, reply.events)
        self._calls.end(reply.call_id)
        changing = self._changing.pop(reply.call_id, None)
        if changing is not None and not reply.code:
            self._spawn(self._answer_change(reply, *changing))
        else:
            self._on_reply(reply.call_id, _plain(reply))

    async def _answer_change(self, reply: ReplyRecord, namespace: str, before: int) -> None:
        """Answer a change of a namespace once its caller sees it here. Some change nothing: hence the bound."""
        try:
            async with asyncio.timeout(CHANGE_WAIT_S):
                while self._registry.changes_of(namespace) == before:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        if self._on_reply is not None and reply.epoch == self._epoch:
            self._on_reply(reply.call_id, _plain(reply))

    def _registry_changed(self) -> None:
        self._call_soon(self._changed.set)

    # Signs of life

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self) -> None:
        """Renew the lease: nothing else may hold that up."""
        while True:
            self._lease()
            await asyncio.sleep(LEASE_PERIOD_S)

    async def _watch_replies(self) -> None:
        """Look whether replies can come."""
        while True:
            await asyncio.sleep(LEASE_PERIOD_S)
            self._has_leader = await asyncio.to_thread(self._reader.has_leader)

    def _lease(self) -> None:
        if self._failure is None:
            lease = GatewayLease(self.address, self._epoch, self._clock_ms() + LEASE_MS)
            self.append(topology.TASKS, self.address, lease)

    # Events

    async def read_events(
        self, run_id: str, first_event_id: int, last_event_id: int, max_bytes: int
    ) -> list[tuple[int, bytes]]:
        """See gateway.engine.Engine. Events on their way to the store are waited for a little, and looked for in their
        topic if that takes too long or the store is down. Raises StoreError.
        """
        if first_event_id > last_event_id:
            return []
        began_s = self._loop.time()
        look_at_s = began_s + TOPIC_AFTER_S
        for wait_s in _waits():
            failure: StoreError | None = None
            try:
                found, complete = await self._read(run_id, first_event_id, last_event_id, max_bytes)
            except StoreError as error:
                failure, found, complete = error, [], False
            now_s = self._loop.time()
            if not complete and self._unstored is not None and (failure or now_s >= look_at_s):
                look_at_s = now_s + TOPIC_AGAIN_S
                found, complete = await self._read_on(
                    self._unstored, found, run_id, first_event_id, last_event_id, max_bytes, failure
                )
            if complete:
                return found
            if failure is not None and not found:
                raise failure
            if self._loop.time() + wait_s > began_s + READ_WAIT_S:
                break
            await asyncio.sleep(wait_s)
        if not found:
            raise StoreError(f"event {first_event_id} of run {run_id} has not reached the history store yet")
        return found

    async def _read(self, run_id: str, first_id: int, last_id: int, max_bytes: int) -> tuple[Events, bool]:
        """What is there without a gap, and whether that is all that was asked for or fits."""
        start, events = self.inline.get(run_id, first_id, last_id)
        found: Events = []
        if start > first_id:
            found = await self._history.read(run_id, first_id, start - 1, max_bytes)
        if len(found) < start - first_id:
            # Whether the next one is missing or only did not fit is found out by asking for it alone.
            next_id = first_id + len(found)
            more = await self._history.read(run_id, next_id, next_id, 1) if found else []
            return found, bool(more)
        return _joined(found, start, events, last_id, max_bytes)

    async def _read_on(
        self,
        unstored: TopicEvents,
        found: Events,
        run_id: str,
        first_id: int,
        last_id: int,
        max_bytes: int,
        failure: StoreError | None,
    ) -> tuple[Events, bool]:
        """The same with events behind `found` that are in no store yet. Raises `failure`, the store's, if any."""
        next_id = first_id + len(found)
        start, events = self.inline.get(run_id, next_id, last_id)
        left = max_bytes - sum(len(event) for _, event in found)
        try:
            between, complete = await unstored.read(run_id, next_id, start - 1, left)
        except StoreError as error:
            LOG.warning("run %s: %s", run_id, error)
            if failure is not None:
                raise failure from error
            return found, False
        if len(between) < start - next_id:
            return found + between, complete
        return _joined(found + between, start, events, last_id, max_bytes)


def _joined(
    found: Events, start: int, events: Sequence[bytes], last_id: int, max_bytes: int
) -> tuple[Events, bool]:
    """`found` with the events behind it, the first of which is `start`, as far as they fit."""
    found = list(found)
    size = sum(len(event) for _, event in found)
    for event_id, event in enumerate(events, start):
        size += len(event)
        if size > max_bytes and found:
            return found, True
        found.append((event_id, event))
    return found, bool(found) and found[-1][0] == last_id


def _plain(reply: ReplyRecord) -> Reply:
    return Reply(
        reply.code,
        reply.message,
        reply.body,
        reply.attach_run,
        reply.attach_first,
        reply.attach_last,
        reply.kind,
    )


def _waits() -> Any:
    yield from READ_RETRY_S
    while True:
        yield READ_RETRY_S[-1]
