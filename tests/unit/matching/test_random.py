"""Random traffic over a few queues: no task lost or given twice, and every refold gives the same."""

from __future__ import annotations

import random

import pytest

from streams.bodies import (
    AddTask,
    CancelPoll,
    GatewayLease,
    Poll,
    PollReturned,
    PollTask,
    QueueCall,
    StartTask,
    StickyUnavailable,
)
from streams.matching_processor import MatchingProcessor
from streams.runtime.partition import Outcome
from streams.runtime.records import Correlation, Record
from tests.support.folding import Folding

KEYS = ("ns/q/workflow/0", "ns/sticky/workflow/0", "ns/q/activity/0")
GATEWAYS = ("gateway-1", "gateway-2")


class Traffic:
    """Sends random records and holds what comes of them against what was sent."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.folding = Folding(MatchingProcessor, cache_parts=self.random.choice((0, 10, 10_000)))
        self.epochs = dict.fromkeys(GATEWAYS, 1)
        self.sequence = 0
        self.expires: dict[str, int] = {}
        self.gone: set[str] = set()
        self.out: list[tuple[str, Poll]] = []
        self.polls: dict[tuple[str, int, int], tuple[str, int]] = {}
        self.busy: set[tuple[str, int, int]] = set()

    def send(self, body: object, key: str, gateway: str, with_correlation: bool = False) -> None:
        self.sequence += 1
        epoch = self.epochs[gateway]
        record = Record(
            *("tasks", 0, key, body),
            source=gateway,
            origin_epoch=epoch,
            origin_offset=self.sequence,
            correlation=Correlation(gateway, epoch, self.sequence) if with_correlation else None,
        )
        self.check(self.folding.append(record), key)

    def check(self, outcome: Outcome, key: str) -> None:
        assert outcome.verdicts == []
        now_ms = self.folding.now_ms
        for record in outcome.emissions:
            name = record.body.workflow_id
            assert name not in self.gone, "a task left twice"
            self.gone.add(name)
            expires_ms = self.expires[name]
            assert expires_ms == 0 or expires_ms > now_ms
            if isinstance(record.body, StartTask):
                poll = record.body.poll
                poll_name = (poll.gateway, poll.epoch, poll.id)
                assert poll.epoch == self.epochs[poll.gateway]
                assert now_ms < poll.deadline_ms
                assert poll_name not in self.busy, "a poll got two tasks"
                assert poll_name in self.polls, "a poll that had ended got a task"
                self.busy.add(poll_name)
                self.out.append((self.polls[poll_name][0], poll))
            else:
                assert isinstance(record.body, StickyUnavailable)
                assert "sticky" in key or key == ""
        for correlation, _ in outcome.replies:
            name = (correlation.gateway, correlation.epoch, correlation.id)
            if name in self.polls:
                assert name not in self.busy
                del self.polls[name]

    def step(self) -> None:
        pick = self.random.random()
        self.folding.now_ms += self.random.choice((0, 0, 1, 50, 700, 5_000))
        key = self.random.choice(KEYS)
        gateway = self.random.choice(GATEWAYS)
        if pick < 0.35:
            self.add(key, gateway, at_head=False)
        elif pick < 0.65:
            self.poll(key, gateway)
        elif pick < 0.72:
            self.cancel()
        elif pick < 0.80:
            self.give_back(gateway)
        elif pick < 0.84:
            self.lease(gateway)
        elif pick < 0.86:
            self.send(QueueCall("ShutdownWorker", "ns", "sticky", "workflow", b""), KEYS[1], gateway, True)
        elif pick < 0.88:
            self.folding.now_ms += self.random.choice((10_000, 60_000, 400_000))
        elif pick < 0.90:
            self.folding.restart()
        else:
            self.check(self.folding.tick(), "")

    def add(self, key: str, gateway: str, at_head: bool) -> None:
        name = f"w{self.sequence}"
        now_ms = self.folding.now_ms
        self.expires[name] = self.random.choice((0, 0, now_ms + 20_000))
        task = AddTask(
            *("ns", "q", key.split("/")[2], name, "r", 1, 1, 0),
            sticky="sticky" in key,
            at_head=at_head or self.random.random() < 0.1,
            urgent=self.random.random() < 0.3,
            expires_ms=self.expires[name],
        )
        self.send(task, key, gateway)

    def poll(self, key: str, gateway: str) -> None:
        deadline_ms = self.folding.now_ms + self.random.choice((1_000, 20_000, 60_000))
        self.polls[gateway, self.epochs[gateway], self.sequence + 1] = (key, deadline_ms)
        body = PollTask("ns", "q", key.split("/")[2], self.random.choice("xyz"), deadline_ms, b"")
        self.send(body, key, gateway, True)

    def cancel(self) -> None:
        for gateway in GATEWAYS:
            names = [name for name in self.polls if name[:2] == (gateway, self.epochs[gateway])]
            if names:
                name = self.random.choice(names)
                key, _ = self.polls.pop(name)
                self.send(CancelPoll(*name), key, gateway)

    def give_back(self, gateway: str) -> None:
        """History could not start what it was sent: the task goes back as another, the poll as it was."""
        if self.out:
            key, poll = self.out.pop(self.random.randrange(len(self.out)))
            self.busy.discard((poll.gateway, poll.epoch, poll.id))
            self.add(key, gateway, at_head=True)
            self.send(PollReturned("ns", "workflow", poll), key, gateway)

    def lease(self, gateway: str) -> None:
        if self.random.random() < 0.3:
            self.epochs[gateway] += 1
        expires_ms = self.random.choice((0, self.folding.now_ms + 6_000))
        self.send(GatewayLease(gateway, self.epochs[gateway], expires_ms), gateway, gateway)

    def end(self) -> None:
        """Serve everything that is left, then wait until every queue is forgotten."""
        for key in KEYS:
            for gateway in GATEWAYS:
                self.send(GatewayLease(gateway, self.epochs[gateway], 0), gateway, gateway)
            for _ in range(len(self.expires)):
                self.poll(key, GATEWAYS[0])
        now_ms = self.folding.now_ms
        left = {name for name in set(self.expires) - self.gone if not 0 < self.expires[name] <= now_ms}
        assert left == set(), "tasks were lost"
        for outcome in self.folding.pass_time(1_000_000):
            self.check(outcome, "")
        assert self.folding.partition.tables["queues"].keys("") == []


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_or_doubled_and_refolds_agree(seed: int) -> None:
    traffic = Traffic(seed)
    for _ in range(300):
        traffic.step()
    traffic.folding.check_refold()
    traffic.end()
    traffic.folding.check_refold()
