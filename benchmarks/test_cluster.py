"""What the figures on a cluster rest on, as far as it needs no parts."""

from __future__ import annotations

from benchmarks.cluster import metrics
from benchmarks.cluster.bulk import Template

TEMPLATE = Template("bulk-000000000-1", "01900000-0000-7000-8000-0123456789ab")


def test_copies_have_ids_of_their_own_and_of_the_same_length() -> None:
    copies = [TEMPLATE.copy(number) for number in range(1_000)]
    assert len({copy.workflow_id for copy in copies}) == len({copy.run_id for copy in copies}) == 1_000
    assert {len(copy.workflow_id) for copy in copies} == {len(TEMPLATE.workflow_id)}
    assert {len(copy.run_id) for copy in copies} == {len(TEMPLATE.run_id)}
    assert all(copy.workflow_id != TEMPLATE.workflow_id for copy in copies)
    assert all(copy.run_id != TEMPLATE.run_id for copy in copies)


def test_metrics_are_summed_over_the_labels_that_are_not_named() -> None:
    found = {
        'lag{topic="history",partition="0"}': 1.0,
        'lag{topic="history",partition="1"}': 2.0,
        'lag{topic="visibility",partition="0"}': 4.0,
        'lag_seconds{topic="history",partition="0"}': 8.0,
    }
    assert metrics.total(found, "lag") == 7
    assert metrics.total(found, "lag", 'topic="history"') == 3
    assert metrics.total(found, "lag", 'topic="history"', 'partition="1"') == 2
