"""One simulation: a log, owners, gateways, workers and clients, trouble for a while, then peace, then the verdict."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from streams import avro, bodies, topology
from streams.runtime.partition import Partition
from streams.runtime.records import Correlation, Record, Reply
from streams.topology import COMMANDS, HISTORY, TASKS, TIMERS
from tests.simulation.checked import CheckedPartition, processor, watching_steps
from tests.simulation.clients import Client
from tests.simulation.faults import Faults
from tests.simulation.gateways import Gateway
from tests.simulation.judge import Judge, name_of, require
from tests.simulation.log import PartitionLog
from tests.simulation.materializers import Materializers, Reader
from tests.simulation.owners import Seat
from tests.simulation.programs import NAMESPACE
from tests.simulation.resets import drawn_from
from tests.simulation.scheduler import Scheduler
from tests.simulation.upgrades import NEW, Release, Upgrade
from tests.simulation.workers import Worker
from tests.support.memory import MemoryStore

START_MS = 1_700_000_000_000
RETENTION_MS = 3_600_000
TROUBLE_MS = 12_000
PEACE_MS = 900_000
REST_MS = 60_000
SETTLING_MS = 2_000
EVENTS = 120_000
OPERATOR = "operator"

COUNTS = {COMMANDS: 2, TASKS: 2, TIMERS: 2}


class World:
    """Everything of one simulation, all of it drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.judge = Judge()
        self.faults = Faults(self.rng)
        self.upgrade = Upgrade(seed)
        self.over = False
        self._peace_ms = 0
        self._scheduler = Scheduler(self.rng, START_MS)
        self.at = self._scheduler.at
        self.logs: dict[str, PartitionLog] = {}
        for topic in topology.TOPICS:
            for number in range(self.partition_count(topic)):
                log = PartitionLog(self, topic, number)
                self.logs[log.name] = log
        self.all_logs = list(self.logs.values())
        self.seats = [Seat(self, log) for log in self.all_logs if log.topic in COUNTS]
        self._read_histories()
        self.history = Materializers(self)
        self.config = bodies.NamespaceConfig(NAMESPACE, "id-of-ns", 1, RETENTION_MS)
        self._configure()
        self.upgrade.begin(self)
        for seat in self.seats:
            seat.take()
        leases = self.rng.random() < 0.5
        self.gateways = [Gateway(self, f"gateway-{i}", leases) for i in range(2)]
        self.workers = [Worker(self, f"worker-{i}", sticky=self.rng.random() < 0.5) for i in range(2)]
        self.clients = [Client(self, f"w{i}") for i in range(self.rng.randint(1, 4))]

    def _read_histories(self) -> None:
        log = self.logs[f"{HISTORY}/0"]
        store = MemoryStore()
        reader = Reader(HISTORY, self._tell_judge)
        self._reader = Partition(reader, 0, store, store, self.partition_of, self.partition_count)

        def read() -> None:
            while self._reader.offset + 1 < log.end:
                self._reader.step(log.read(self._reader.offset + 1))

        log.on_growth.append(read)

    def _tell_judge(self, record: Record) -> None:
        if isinstance(record.body, bodies.HistoryBatch):
            self.judge.wrote(record.source, record.body)
        else:
            self.judge.deleted(record.body.run_id)

    def _configure(self) -> None:
        """What every partition of commands has to know before the first call."""
        for number in range(COUNTS[COMMANDS]):
            record = Record(
                COMMANDS,
                number,
                topology.REGISTRY_KEY,
                bodies.NamespaceChanged(self.config),
                source=OPERATOR,
                origin_epoch=1,
                origin_offset=1,
            )
            log = self.logs[record.channel]
            log.append(None, [record])
            log.replicate()

    # What the parts use

    @property
    def at_peace(self) -> bool:
        """Whether trouble is over for a while: what is asked from now on has to be answered."""
        return not self.faults.on and self.now_ms > self._peace_ms + SETTLING_MS

    @property
    def now_ms(self) -> int:
        """True time."""
        return self._scheduler.now_ms

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has."""
        return COUNTS.get(topic, 1)

    def partition_of(self, topic: str, key: str) -> int:
        """The partition of a topic that a key belongs to."""
        return topology.partition_of(key, self.partition_count(topic))

    def with_run_id(self, call: bodies.Call) -> bodies.Call:
        """The call with an id for the run that it may open."""
        run_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        return msgspec.structs.replace(call, new_run_id=run_id)

    def deliver(self, correlation: Correlation, reply: Reply) -> None:
        """A reply is on its way to its gateway."""
        self.judge.answered(correlation, reply)
        if self.faults.on and self.rng.random() < self.faults.reply_loss:
            return
        for gateway in self.gateways:
            if gateway.name == correlation.gateway:
                self.at(self.rng.randint(0, 3), gateway.deliver, correlation, reply)

    # The course of it

    def run(self) -> None:
        """Run it to its end. Raises Violation."""
        with watching_steps(), drawn_from(self.rng):
            self.faults.begin(self)
            self._scheduler.run(lambda: False, TROUBLE_MS, EVENTS)
            self._make_peace()
            self._finish_all()
            self.over = True
            self._scheduler.run(lambda: False, REST_MS, EVENTS)
            self.judge.conclude()
            self._check_rest()
            self.upgrade.check(self)
            self.history.check()
            self._pass_retention()
            self.history.check()
            self._refold()

    def _finish_all(self) -> None:
        """Go on until everything is done, and stays so: a run may be about to begin."""
        while True:
            done = self._scheduler.run(self._all_done, PEACE_MS, EVENTS)
            require(done, f"stuck: {self._what_is_left()}")
            self._scheduler.run(lambda: False, SETTLING_MS, EVENTS)
            if self._all_done():
                return

    def _make_peace(self) -> None:
        """No more trouble, and everybody does his part: what is left undone now is stuck."""
        self.faults.heal()
        self._peace_ms = self.now_ms
        for log in self.all_logs:
            log.skew_ms = 0
        for gateway in self.gateways:
            gateway.resume()
        for worker in self.workers:
            worker.fair = True

    def _all_done(self) -> bool:
        """Every run is closed and the judge knows, every client is answered, and no task waits in any partition.

        That is, none that nobody needs any more either: a worker whose poll's answer was lost comes back for those
        only when it gives that poll up.
        """
        if self.judge.open_runs or any(client.busy for client in self.clients):
            return False
        if any(seat.owner is None for seat in self.seats):
            return False
        cores = self._parts(COMMANDS, "executions", "core")
        if any(not core.close_ms for _, parts in cores for core in parts.values()):
            return False  # One that began, of which the judge has yet to hear.
        waiting = (*self._parts(COMMANDS, "executions", "untold"), *self._waiting_tasks())
        return not any(parts for _, parts in waiting)

    def _waiting_tasks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tasks that wait, by task queue."""
        return self._parts(TASKS, "queues", "task")

    def _parts(self, topic: str, name: str, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The parts of a kind, by their entity's key. A partition without an owner shows none."""
        for seat in self.seats:
            if seat.log.topic == topic and seat.owner is not None:
                table = seat.owner.partition.tables[name]
                for key in table.keys(""):
                    yield key, table.peek(key).group(kind)

    def _what_is_left(self) -> str:
        runs = [
            f"{run.workflow_id} {run.run_id} at {len(run.events)} {name_of(run.events[-1])}"
            for run in self.judge.runs.values()
            if not run.closed
        ]
        clients = [client.workflow_id for client in self.clients if client.busy]
        tasks = [key for key, waiting in self._waiting_tasks() if waiting]
        return "; ".join(runs) or f"clients wait: {clients}, tasks wait: {tasks}"

    def _check_rest(self) -> None:
        """Nothing waits any more."""
        for seat in self.seats:
            partition = seat.owner.partition if seat.owner else None
            require(partition is not None, f"{seat.log.name} has no owner")
            assert partition is not None
            require(partition.parked_count == 0, f"{seat.log.name}: records wait behind a gap")
            require(partition.offset == seat.log.end - 1, f"{seat.log.name}: the tail was not folded")
        for key, tasks in self._waiting_tasks():
            require(not tasks, f"tasks are left on {key}: {tasks}")
        require(self._reader.parked_count == 0, "history/0: records wait behind a gap")
        for gateway in self.gateways:
            require(
                not gateway.owed_replies, f"{gateway.name}: {gateway.owed_replies} calls were never answered"
            )

    def _pass_retention(self) -> None:
        """Time goes on until nothing of any run is left."""
        self._scheduler.run(lambda: False, RETENTION_MS + REST_MS, EVENTS)
        for run in self.judge.runs.values():
            require(run.deleted, f"{run.workflow_id} {run.run_id} is still there after its retention")
        for seat in self.seats:
            if seat.log.topic == COMMANDS:
                assert seat.owner is not None
                for name in ("executions", "current"):
                    left = seat.owner.partition.tables[name].keys("")
                    require(not left, f"{name} still has {left}")

    def _refold(self) -> None:
        """Folding the whole log again gives the same emissions, rows and positions."""
        for seat in self.seats:
            owner = seat.owner
            assert owner is not None
            name = seat.log.name
            store = MemoryStore()
            partition = CheckedPartition(
                Release(
                    processor(
                        seat.log.topic, lambda record, name=name: (name, record.offset) in self.judge.verdicts
                    ),
                    NEW,
                ),
                seat.log.number,
                store,
                store,
                self.partition_of,
                self.partition_count,
                supported_logic=NEW,
            )
            partition.judge = self.judge
            for record in seat.log.records[: owner.next]:
                partition.step(record)
            store.checkpoint(partition)
            held = owner.store
            under_way = owner.owner.writable()
            if under_way is not None:
                held.commit(seat.log.number, under_way.rows, name, under_way.dues)
                owner.owner.written()
            held.checkpoint(owner.partition)
            require(rows_of(store) == rows_of(held), f"{name}: a refold from the start has other rows")
            require(
                avro.encode(partition.position()) == avro.encode(owner.partition.position()),
                f"{name}: a refold from the start has another position",
            )


def rows_of(store: MemoryStore) -> tuple[Any, Any]:
    """A store's content, without what is empty."""
    rows = {place: parts for place, parts in store.rows.items() if parts}
    return rows, {name: dues for name, dues in store.dues.items() if dues}


def simulate(seed: int) -> None:
    """Run one simulation. Raises Violation, or whatever the engine raises."""
    World(seed).run()
