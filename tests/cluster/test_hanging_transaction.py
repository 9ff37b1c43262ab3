"""A transaction that nobody ends on a changelog: refused by name, and passed by what the refusal says to do."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess

from confluent_kafka import Producer

from deploy.local import java
from streams.kafka.names import Names
from tests.cluster.checking import check_equality, check_nothing_set_aside
from tests.faults.orders import under_load
from tests.support.cluster import PARTITIONS, Cluster

LOAD = 3
"""Workflows that have to end before anything else is done."""

_COMMAND = re.compile(r"abort it with: kafka-transactions\.sh (.*)")
_MAIN = "org.apache.kafka.tools.TransactionsCommand"


def _hang(cluster: Cluster, partition: int) -> Producer:
    """Begin a transaction on a changelog under an id that no owner has, and leave it alone."""
    kafka = cluster.settings.kafka
    settings = {"transactional.id": "nobody", "transaction.timeout.ms": 600_000}
    producer = Producer({**kafka.producer(), **settings})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(Names(kafka.prefix).changelog("history"), b"value", b"key", partition)
    assert producer.flush(20) == 0
    return producer


async def test_a_transaction_left_hanging_is_named_and_aborted_as_told(cluster: Cluster) -> None:
    first, second = cluster.of("history")
    partition = min(cluster.owned_of(first, "history"))
    async with under_load(cluster.address, "hanging") as load:
        await load.until_ended(LOAD)
        producer = await asyncio.to_thread(_hang, cluster, partition)
        await load.until_ended(LOAD)  # whoever owns the partition already is in nobody's way
        await asyncio.to_thread(first.kill)

        def told() -> bool:
            return _COMMAND.search(second.why_not_ready or "") is not None

        await load.alongside(asyncio.to_thread(cluster.wait, told))
        found = _COMMAND.search(second.why_not_ready or "")
        assert found is not None
        await load.alongside(asyncio.to_thread(_run, found[1]))
        await load.alongside(
            asyncio.to_thread(cluster.wait, lambda: len(cluster.owned_of(second, "history")) == PARTITIONS)
        )
        first.start()
        await load.until_ended(LOAD)
    del producer
    cluster.check_all_run()
    check_nothing_set_aside(cluster)
    await asyncio.to_thread(check_equality, cluster)


def _run(arguments: str) -> None:
    """Run the command that an operator was told to."""
    command = java.command("kafka-tools", {}, [], _MAIN, *shlex.split(arguments))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
