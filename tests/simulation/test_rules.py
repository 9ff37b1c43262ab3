"""Rules 1 to 17 of `fold.md`, a test each, named after them.

Rule 9 is in `test_upgrades`, 18 to 23 are in `test_gateway_rules`; 24 (ingress topics) and 25 (task topics) come with
those. More on single partitions (2, 5, 7, 10) is in tests/unit/runtime, on sizes (8) in tests/unit/history and
tests/unit/gateway, on what survives crashes and failed commits (17) in tests/faults. A producer's settings (11) and
the 20 records of a workflow (12) are of the log on Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest

from streams import avro
from streams.bodies import Call, FireTimer, Pair
from streams.embedded import EmbeddedEngine
from streams.runtime import checkpoints
from streams.runtime.local_store import LocalHead, reason_to_wipe
from streams.runtime.owner import Owner
from streams.runtime.partition import LETTER_BODY_BYTES, LETTERS_BYTES, NO_LINK, Partition, Position
from streams.runtime.records import Correlation, Record, Reply
from streams.runtime.takeover import HangingTransactionError, TakeoverRefusedError, check_log, take_over
from streams.topology import COMMANDS, workflow_key
from tests.simulation.changelog import DELETE_RETENTION_MS, Changelog, Disk, FencedError, Restoring, copied
from tests.simulation.log import CODEC, encode
from tests.simulation.world import World
from tests.support.counting import CountingProcessor
from tests.support.folding import START_MS, Folding, described, emitted
from tests.unit.history.support import NAMESPACE, CallError, Workflows, payloads

GATEWAY = "gateway-1"


class Log:
    """An input partition by hand."""

    def __init__(self) -> None:
        self.topic_id = "in-1"
        self.start = 0
        self.records: list[Record] = []
        self.epochs: list[int] = []

    @property
    def end(self) -> int:
        return len(self.records)

    def leader_epoch(self, offset: int) -> int:
        return self.epochs[offset]

    def read(self, offset: int) -> Record:
        return self.records[offset]

    def add(self, what: str, key: str = "k", value: str = "1", **origin: int | str) -> Record:
        """Append a record: a gateway's with a correlation, or one with the origin given."""
        sequence = len(self.records) + 1
        if not origin:
            origin = {"source": GATEWAY, "origin_epoch": 1, "origin_offset": sequence}
        record = Record(
            "in",
            0,
            key,
            Pair(what, value),
            offset=len(self.records),
            time_ms=1_000 + len(self.records),
            correlation=Correlation(GATEWAY, 1, sequence),
            **origin,  # type: ignore[arg-type]
        )
        self.records.append(record)
        self.epochs.append(1)
        return record


class Case:
    """A log, its changelog, and whoever owns the partition."""

    def __init__(self) -> None:
        self.log = Log()
        self.changelog = Changelog("in/0", 0)
        self.now_ms = 1_000
        self.disk = Disk()

    def take_over(self) -> Owner:
        self.restoring = restoring = Restoring(self.changelog, self.disk, self.now_ms)

        def partition() -> Partition:
            store = restoring.store
            return Partition(CountingProcessor(), 0, store, store, lambda topic, key: 0, lambda topic: 2)

        owner = take_over("in/0", restoring, self.log, CODEC, partition)
        self.epoch = restoring.epoch
        return owner

    def write(self, owner: Owner) -> None:
        """Cut a checkpoint and commit it."""
        owner.cut()
        checkpoint = owner.writable()
        assert checkpoint is not None
        self.changelog.commit(self.changelog.write(self.epoch, checkpoint, self.now_ms))
        owner.written()


@pytest.fixture
def case() -> Case:
    return Case()


def fold(owner: Owner, *records: Record) -> None:
    for record in records:
        owner.fold(record, 1)


def acknowledge(owner: Owner) -> list[Record]:
    """Everything that was let out arrives."""
    emissions, replies = list(owner.emissions), list(owner.replies)
    owner.emissions.clear()
    owner.replies.clear()
    for record in emissions:
        owner.acknowledge(record.origin_offset)
    for offset, _, _ in replies:
        owner.acknowledge(offset)
    return emissions


class TestRule3:
    POSITION = Position(offset=5, now_ms=1, topic_id="in-1", leader_epoch=1)

    def log(self) -> Log:
        log = Log()
        for _ in range(8):
            log.add("add")
        return log

    def test_a_position_within_its_log_is_taken(self) -> None:
        check_log("in/0", self.POSITION, self.log())

    @pytest.mark.parametrize(
        ("harm", "why"),
        [
            (lambda log: setattr(log, "start", 7), "are gone"),
            (lambda log: log.records.__delitem__(slice(5, None)), "beyond the end"),
            (lambda log: setattr(log, "topic_id", "in-2"), "the log is topic in-2"),
            (lambda log: log.epochs.__setitem__(5, 2), "leader epoch 1"),
        ],
    )
    def test_restore_refuses_another_log(self, harm: Callable[[Log], None], why: str) -> None:
        log = self.log()
        harm(log)
        with pytest.raises(TakeoverRefusedError, match=why):
            check_log("in/0", self.POSITION, log)

    def test_without_a_checkpoint_the_log_has_to_be_whole(self, case: Case) -> None:
        case.log.add("add")
        case.log.start = 1
        with pytest.raises(TakeoverRefusedError, match="no checkpoint"):
            case.take_over()


class TestRule4:
    def test_the_owner_deletes_only_what_checkpoint_and_readers_have_passed(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, *[case.log.add("add") for _ in range(10)])
        assert owner.deletable_below(1_000, 0) == 0
        acknowledge(owner)
        case.write(owner)
        fold(owner, case.log.add("add"))
        assert owner.deletable_below(1_000, 0) == 10
        assert owner.deletable_below(1_000, 3) == 7
        assert owner.deletable_below(4, 0) == 5

    def test_records_that_wait_behind_a_gap_stay(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        parked = case.log.add("add", source="x/0", origin_offset=9, previous_offset=8, previous_index=0)
        fold(owner, parked, case.log.add("add"))
        acknowledge(owner)
        case.write(owner)
        assert owner.deletable_below(1_000, 0) == parked.offset
        case.log.start = parked.offset
        assert case.take_over().partition.parked_count == 1


class TestRule7:
    def test_nothing_leaves_before_a_checkpoint_covers_the_verdict(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        acknowledge(owner)
        fold(owner, case.log.add("fail"))
        assert owner.must_checkpoint
        assert not (owner.emissions or owner.replies)
        assert not owner.letters
        with pytest.raises(AssertionError, match="not yet covered"):
            fold(owner, case.log.add("add"))
        case.write(owner)
        assert not owner.must_checkpoint
        assert [reply.code for _, _, reply in owner.replies] == [13]
        assert [letter.offset for letter in owner.letters] == [1]

    def test_the_next_owner_tells_a_covered_verdict_again_and_never_judges_again(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("fail"))
        case.write(owner)
        after = case.take_over()
        assert after.partition.offset == 0
        assert [letter.offset for letter in after.letters] == [0]
        after.letter_acknowledged(after.letters.popleft())
        fold(after, case.log.add("add"))
        acknowledge(after)
        case.write(after)
        assert not case.take_over().letters

    def test_what_the_step_of_a_verdict_emitted_leaves_after_a_crash(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        first = acknowledge(owner)
        # The record behind the gap is judged in the step that fills it, beside one that emits.
        gap = {"source": "x/0", "origin_offset": 2, "previous_offset": 1, "previous_index": 0}
        fold(owner, case.log.add("fail", **gap))
        fold(owner, case.log.add("add", source="x/0", origin_offset=1))
        assert owner.must_checkpoint
        case.write(owner)
        emitted = [(r.topic, r.index, r.previous_offset) for r in owner.emissions]
        after = case.take_over()
        assert emitted == [("out", 0, first[-1].origin_offset)]
        assert [(r.topic, r.index, r.previous_offset) for r in after.emissions] == emitted
        fold(after, case.log.add("add"))
        after.cut()
        assert after.writable() is None
        acknowledge(after)
        assert after.writable() is not None


class TestRule8Letters:
    def test_a_verdict_on_a_huge_record_fits_into_a_checkpoint(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("fail", value="x" * 3_000_000))
        case.write(owner)
        (letter,) = owner.letters
        assert len(letter.body) == LETTER_BODY_BYTES
        assert "these are the first 524288 of its 3000009 bytes" in letter.reason

    def test_verdicts_wait_for_the_letters_before_them(self, case: Case) -> None:
        owner = case.take_over()
        while True:
            fold(owner, case.log.add("fail", value="x" * LETTER_BODY_BYTES))
            if not owner.cut():
                break
            checkpoint = owner.writable()
            assert checkpoint is not None
            assert len(avro.encode(checkpoint.position)) < 2 * LETTERS_BYTES
            case.changelog.commit(case.changelog.write(case.epoch, checkpoint, case.now_ms))
            owner.written()
            acknowledge(owner)
        assert sum(len(letter.body) for letter in owner.letters) > LETTERS_BYTES
        owner.letter_acknowledged(owner.letters.popleft())
        assert owner.cut()


class TestRule13:
    def test_a_checkpoint_waits_for_its_emissions(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        owner.cut()
        assert owner.writable() is None
        acknowledge(owner)
        assert owner.writable() is not None

    def test_the_fold_goes_on_while_it_waits(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        owner.cut()
        acknowledge(owner)
        fold(owner, case.log.add("add"))
        checkpoint = owner.writable()
        assert checkpoint is not None
        assert checkpoint.position.offset == 0
        assert not owner.cut(), "one at a time"
        case.changelog.commit(case.changelog.write(case.epoch, checkpoint, 0))
        owner.written()
        after = case.take_over()
        assert after.partition.offset == 0
        fold(after, case.log.records[1])
        assert after.emissions[0].body.value == 2


class TestRule14:
    def test_the_same_checkpoint_is_written_again_after_anything_but_success(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        acknowledge(owner)
        owner.cut()
        checkpoint = owner.writable()
        assert checkpoint is not None
        case.changelog.abort(case.changelog.write(case.epoch, checkpoint, 0))
        assert owner.writable() is checkpoint
        # Committed, but the owner was not told: it writes it again, which changes nothing.
        case.changelog.commit(case.changelog.write(case.epoch, checkpoint, 0))
        assert owner.writable() is checkpoint
        case.changelog.commit(case.changelog.write(case.epoch, checkpoint, 0))
        owner.written()
        assert case.take_over().partition.offset == 0

    def test_a_torn_checkpoint_is_refused(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        acknowledge(owner)
        case.write(owner)
        assert case.changelog.tear()
        with pytest.raises(TakeoverRefusedError, match="torn"):
            case.take_over()
        case.changelog.mend()
        case.take_over()

    def test_the_checksum_tells_rows_apart_but_not_their_order(self) -> None:
        rows = [("t", "k", "part", "1", b"a"), ("t", "k", "part", "2", None)]
        dues = [("k", 5, 1), ("l", None, 0)]
        sum_ = checkpoints.checksum(rows, dues)
        assert checkpoints.checksum(rows[::-1], dues[::-1]) == sum_
        assert checkpoints.checksum([("t", "k", "part", "1", b"b"), rows[1]], dues) != sum_
        assert checkpoints.checksum([rows[0], ("t", "k", "part", "2", b"")], dues) != sum_
        assert checkpoints.checksum(rows, [("k", 6, 1), dues[1]]) != sum_


class TestRule15:
    def test_a_former_owner_writes_no_checkpoint(self, case: Case) -> None:
        former = case.take_over()
        epoch = case.epoch
        fold(former, case.log.add("add"))
        acknowledge(former)
        former.cut()
        case.take_over()
        checkpoint = former.writable()
        assert checkpoint is not None
        with pytest.raises(FencedError):
            case.changelog.write(epoch, checkpoint, 0)

    def test_a_transaction_that_was_open_when_its_owner_was_fenced_has_no_effect(self, case: Case) -> None:
        former = case.take_over()
        fold(former, case.log.add("add"))
        acknowledge(former)
        former.cut()
        checkpoint = former.writable()
        assert checkpoint is not None
        case.changelog.write(case.epoch, checkpoint, 0)
        assert case.take_over().partition.offset == -1

    def test_a_hanging_transaction_is_a_loud_error_with_its_cure(self, case: Case) -> None:
        former = case.take_over()
        fold(former, case.log.add("add"))
        acknowledge(former)
        former.cut()
        checkpoint = former.writable()
        assert checkpoint is not None
        transaction = case.changelog.write(case.epoch, checkpoint, 0)
        transaction.hanging = True
        with pytest.raises(HangingTransactionError, match=r"kafka-transactions\.sh abort"):
            case.take_over()
        case.changelog.abort(transaction)
        case.take_over()


class TestRule16:
    HEAD = LocalHead("changelog-1", 10, 1_000)

    def reason(self, head: LocalHead, now_ms: int = 2_000) -> str:
        return reason_to_wipe(
            head, lineage="changelog-1", committed_end=10, now_ms=now_ms, delete_retention_ms=10_000
        )

    def test_a_store_of_a_committed_checkpoint_is_used(self) -> None:
        assert self.reason(self.HEAD) == ""

    def test_another_lineage_is_wiped(self) -> None:
        assert "not changelog-1" in self.reason(LocalHead("changelog-0", 10, 1_000))

    def test_a_store_ahead_of_the_changelog_is_wiped(self) -> None:
        assert "ends at 10" in self.reason(LocalHead("changelog-1", 11, 1_000))

    def test_a_store_that_may_miss_deletions_is_wiped(self) -> None:
        assert self.reason(self.HEAD, 6_000) == ""
        assert "6001 ms old" not in self.reason(self.HEAD, 6_000)
        assert "5001 ms old" in self.reason(self.HEAD, 6_001)

    def test_a_stale_store_catches_up_and_gives_the_same_rows(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        acknowledge(owner)
        case.write(owner)
        case.take_over()
        stale = Disk()
        stale.store, stale.head = copied(case.restoring.store), case.restoring.head
        owner = case.take_over()
        fold(owner, case.log.add("add"), case.log.add("add", key="l"))
        acknowledge(owner)
        case.write(owner)
        case.take_over()
        whole = case.restoring.store
        case.disk = stale
        case.now_ms += DELETE_RETENTION_MS // 4
        case.take_over()
        assert case.restoring.store.rows == whole.rows


class TestRule12:
    def test_an_open_run_with_a_deadline_always_has_a_timer_out(self) -> None:
        """Asserted by the simulator after every step; here: fires are what re-arms, and there are some."""
        world = World(3)
        world.run()
        fires = [
            record
            for seat in world.seats
            for record in seat.log.records
            if isinstance(record.body, FireTimer)
        ]
        assert fires


class TestRule1:
    def test_folding_again_from_the_start_and_from_checkpoints_gives_the_same(self) -> None:
        """The simulator folds every record again, under new owners and in the end."""
        world = World(5)
        world.run()
        folded = {name: len(steps) for name, steps in world.judge.steps.items()}
        assert {name for name, count in folded.items() if count} >= {"commands/0", "tasks/0", "timers/0"}


class TestRule2:
    def test_time_never_steps_back_and_what_is_due_pops_in_order(self) -> None:
        folding = Folding(CountingProcessor)
        for key, after_ms in (("c", 100), ("b", 200), ("a", 200)):
            folding.send(Pair("wake", str(START_MS + after_ms)), key)
        folding.tick(150)
        folding.now_ms -= 10_000
        assert not emitted(folding.tick())
        assert folding.partition.now_ms == START_MS + 150
        folding.now_ms = START_MS + 200
        folding.tick()
        keys = [record.key for outcome in folding.outcomes for record in outcome.emissions]
        assert keys == ["c", "a", "b"]
        assert not emitted(folding.tick())
        folding.check_refold()


class TestRule5:
    def test_what_a_gateway_appended_twice_counts_once(self) -> None:
        folding = Folding(CountingProcessor)
        first, second = (folding.send(Pair("add", ""), "k", call_id=number) for number in (1, 2))
        for record in list(folding.log):
            assert described(folding.append(record)) == [[], [], []]
        assert [body.value for body in (*emitted(first), *emitted(second))] == [1, 2]
        assert emitted(folding.send(Pair("add", ""), "k"))[0].value == 3


class TestRule6:
    def test_bytes_do_not_depend_on_the_order_of_hashes(self) -> None:
        """Two processes whose strings hash otherwise leave the same logs, byte by byte."""
        digests = {
            subprocess.run(
                [sys.executable, "-c", DIGEST],
                env={**os.environ, "PYTHONHASHSEED": seed},
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for seed in ("1", "2", "3")
        }
        assert len(digests) == 1


DIGEST = """
import hashlib
from tests.simulation.log import encode
from tests.simulation.world import World

world = World(8)
world.run()
digest = hashlib.sha256()
for log in world.all_logs:
    for record in log.records:
        digest.update(encode(record))
print(digest.hexdigest())
"""


class TestRule8:
    def test_what_cannot_fit_is_refused_and_leaves_nothing(self) -> None:
        workflows = Workflows(**{"limit.blobSize.error": 100})
        workflows.start()
        before = list(workflows.history())
        execution = WorkflowExecution(workflow_id="wf")
        request = SignalWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_execution=execution, signal_name="s", input=payloads("x" * 200)
        )
        with pytest.raises(CallError, match="exceeds limit"):
            workflows.call(request)
        assert workflows.history() == before
        workflows.fold.check_refold()


class TestRule10:
    def test_a_gap_is_waited_out_and_never_counted_as_seen(self) -> None:
        folding = Folding(CountingProcessor)
        chain = [
            Record(
                *("in", 0, key, Pair("add", "")),
                source="x/0",
                origin_offset=offset,
                previous_offset=offset - 1,
                previous_index=0 if offset else NO_LINK,
            )
            for offset, key in enumerate("abc")
        ]
        arrived = [[record.key for record in folding.append(chain[i]).emissions] for i in (0, 2, 2, 1, 2, 1)]
        assert arrived == [["a"], [], [], ["b", "c"], [], []]


class TestRule11:
    def test_after_a_failed_append_the_next_owner_emits_the_same_again(self, case: Case) -> None:
        owner = case.take_over()
        fold(owner, case.log.add("add"))
        acknowledge(owner)
        case.write(owner)
        fold(owner, case.log.add("add"), case.log.add("add", key="l"))
        sent = list(owner.emissions)
        owner.acknowledge(sent[0].origin_offset)  # The second one failed: whatever it was, ownership ends.
        owner.cut()
        assert owner.writable() is None
        after = case.take_over()
        fold(after, *case.log.records[1:])
        assert [encode(record) for record in after.emissions] == [encode(record) for record in sent]


class TestRule17:
    async def test_an_answer_comes_after_the_commit_of_what_it_rests_on(self, tmp_path: Path) -> None:
        path = tmp_path / "engine.db"
        failures: list[BaseException] = []
        engine = EmbeddedEngine(path, on_failure=failures.append)
        await engine.start()
        covered: list[bool] = []
        arrived = asyncio.Event()

        def on_reply(id: int, reply: Reply) -> None:
            with contextlib.closing(sqlite3.connect(path)) as reader:
                batches = reader.execute("SELECT records FROM log").fetchall()
            covered.append(any(b"ReadHistory" in records for (records,) in batches))
            arrived.set()

        epoch = engine.attach_gateway(GATEWAY, on_reply)
        call = Call("ReadHistory", "nowhere", "w", "", b"")
        engine.append(COMMANDS, workflow_key("nowhere", "w"), call, Correlation(GATEWAY, epoch, 1))
        await arrived.wait()
        await engine.stop()
        assert covered == [True]
        assert not failures
