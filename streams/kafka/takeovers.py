"""The threads that take partitions over: fence, wait, restore, verify (fold.md rule 15), off the fold's path."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException

from streams import avro
from streams.kafka.admin import Cluster
from streams.kafka.changelog import PartitionChangelog, TakeoverCancelledError, place_of
from streams.kafka.last_position import last_position
from streams.kafka.log import PartitionLog, Reader
from streams.kafka.names import Names
from streams.kafka.offsets import ReadError
from streams.kafka.partitions import Partitions
from streams.kafka.rocks import PartitionStore
from streams.kafka.settings import KafkaSettings
from streams.kafka.status import PartitionStatus
from streams.runtime.codec import Codec
from streams.runtime.context import Processor
from streams.runtime.logic import Logic
from streams.runtime.owner import Owner
from streams.runtime.partition import Partition
from streams.runtime.takeover import take_over

LOG = logging.getLogger(__name__)

THREADS: Final = 4
"""Takeovers at a time: they mostly wait for the cluster."""

_CLOSE_WAIT_S: Final = 30.0
_STOP_WAIT_S: Final = 10.0
_IDLE_S: Final = 10.0
"""After how long without a takeover a thread lets its connections go."""


class Request(msgspec.Struct, frozen=True):
    """A partition to take over. `token` comes back with the result; `wanted` says whether it is still of use.

    `after` is set once whatever held the local store in this process has let go. `standby` is a store that was kept up
    here meanwhile; it is not the sender's any more.
    """

    token: Any
    partition: int
    status: PartitionStatus
    wanted: Callable[[], bool]
    after: threading.Event | None
    standby: PartitionStore | None


class Taken(msgspec.Struct, frozen=True):
    """The result: an owner with its changelog, or what was in the way."""

    token: Any
    owner: Owner | None
    changelog: PartitionChangelog | None
    error: Exception | None


class Takeovers:
    """Takes over the partitions of one processor; results come in `results`."""

    def __init__(
        self,
        settings: KafkaSettings,
        codec: Codec,
        processor: Callable[[], Processor],
        partitions: Partitions,
        supported_logic: int | None,
        settle_timeout_s: float,
    ) -> None:
        self.results: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._settings = settings
        self._codec = codec
        self._processor = processor
        self._name = processor().name
        self._input = processor().input_topic
        self._partitions = partitions
        self._supported_logic = supported_logic
        self._settle_timeout_s = settle_timeout_s
        self._names = Names(settings.prefix)
        self._cluster = Cluster(settings)
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{self._name}-takeovers-{n}", daemon=True)
            for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def check_logic(self) -> None:
        """Refuse to begin where this code cannot go on, before the group gives this member anything. Blocks.

        A version is raised in all partitions, so the first one stands for all; each takeover checks its own again.
        Raises UnsupportedLogicError.
        """
        reader = self._open_reader()
        try:
            position = last_position(reader, self._names.changelog(self._name), 0)
        except (ReadError, avro.DecodeError) as error:
            LOG.warning("the logic version in force is not known yet: %s", error)
            return
        finally:
            reader.close()
        if position is not None:
            Logic(f"{self._input}/0", self._supported_logic).restore(position.logic_version, ())

    def submit(self, request: Request) -> None:
        """Take a partition over."""
        self._requests.put(request)

    def stop(self) -> None:
        """End, once what is no longer wanted has been given up; a cluster that does not answer is not waited for."""
        for _ in self._threads:
            self._requests.put(None)
        deadline_s = time.monotonic() + _STOP_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _run(self) -> None:
        reader: Reader | None = None
        # Who has copies for a quick takeover has connections for it, too.
        keep = self._settings.standbys > 0
        if keep:
            with contextlib.suppress(KafkaException):
                reader = self._open_reader()
        while True:
            try:
                request = self._requests.get(timeout=None if reader is None or keep else _IDLE_S)
            except queue.Empty:
                assert reader is not None
                reader.close()
                reader = None
                continue
            if request is None:
                break
            try:
                reader = reader or self._open_reader()
                self.results.put(self._take(request, reader))
            except Exception as error:
                if request.standby is not None:
                    request.standby.close()
                self.results.put(Taken(request.token, None, None, error))
        if reader is not None:
            reader.close()

    def _open_reader(self) -> Reader:
        topics = [self._names.topic(self._input), self._names.changelog(self._name)]
        name = f"{self._names.group(self._name)}-takeover"
        return Reader(self._settings, name, self._cluster.client, topics)

    def _take(self, request: Request, reader: Reader) -> Taken:
        if request.after is not None:
            request.after.wait(_CLOSE_WAIT_S)
        if not request.wanted():
            raise TakeoverCancelledError(f"{self._input}/{request.partition}")
        log, changelog = self._logs(request, reader)
        return Taken(request.token, self._owner(request.partition, log, changelog), changelog, None)

    def _logs(self, request: Request, reader: Reader) -> tuple[PartitionLog, PartitionChangelog]:
        topics = self._cluster.check()  # also for the ids: a topic may have been made anew
        number = request.partition
        topic = self._names.topic(self._input)
        log = PartitionLog(reader, self._codec, self._input, topic, topics[self._input].id, number)
        changelog = PartitionChangelog(
            self._settings,
            place_of(self._settings, self._name, number, topics[f"{self._name}-changelog"]),
            reader,
            request.status,
            request.wanted,
            self._settle_timeout_s,
            request.standby,
        )
        return log, changelog

    def _owner(self, number: int, log: PartitionLog, changelog: PartitionChangelog) -> Owner:
        def partition() -> Partition:
            store = changelog.store
            return Partition(
                self._processor(),
                number,
                store,
                store,
                self._partitions.of,
                self._partitions.count,
                self._settings.cache_parts,
                self._supported_logic,
                source=f"{self._input}/{number}@{log.topic_id}",
            )

        try:
            return take_over(f"{self._input}/{number}", changelog, log, self._codec, partition)
        except BaseException:
            changelog.close()
            raise
