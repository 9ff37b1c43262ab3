"""What has to hold of a cluster after anything that was done to it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from server.verification import Verification
from streams.topology import DEAD_LETTERS
from tests.kafka.driving import read_all
from tests.support.cluster import FOLDING, PARTITIONS, Cluster


def check_nothing_set_aside(cluster: Cluster) -> None:
    """No record was taken for a bad one."""
    letters = read_all(cluster.settings.kafka, DEAD_LETTERS)
    assert not letters, [message.value() for message in letters]


def check_equality(cluster: Cluster, *, stopped: bool = False) -> None:
    """Fold the whole log again, and find tables, topics and stores to be what comes of it.

    Nothing may be under way. With `stopped` the cluster is stopped first, and what owners have on disk compared too.
    """
    if stopped:
        cluster.stop()
    else:
        cluster.wait(cluster.is_checkpointed)
        cluster.wait(cluster.is_materialised)
    states = [process.state for process in cluster.processes if stopped and process.state.is_dir()]
    with tempfile.TemporaryDirectory(prefix="odradek-refold-") as folder:
        verification = Verification(cluster.settings, Path(folder), states)
        try:
            wrong = [*verification.tables(), *verification.topics(), *verification.stores()]
        finally:
            verification.close()
    assert not wrong, "\n".join(wrong[:20])
    if stopped:
        assert verification.local_stores >= len(FOLDING) * PARTITIONS, "each owner's store was to be compared"
