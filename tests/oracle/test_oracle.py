"""Ours does what the real server did, scenario by scenario."""

from __future__ import annotations

import pytest

from .accepted import expected
from .compare import difference
from .registry import Scenario, all_scenarios
from .runner import Outcome


@pytest.mark.timeout(900)  # the first test waits for all of them to be run
@pytest.mark.parametrize("scenario", all_scenarios(), ids=lambda scenario: scenario.id)
def test_same_as_the_real_server(scenario: Scenario, outcomes: dict[str, Outcome]) -> None:
    """The recording equals the golden file, but for what is accepted."""
    outcome = outcomes[scenario.id]
    golden = expected(scenario)
    differs = difference(golden, outcome.text)
    if outcome.failure is not None:
        pytest.fail(f"the script could not go on:\n{outcome.failure}\n{differs}", pytrace=False)
    if outcome.text != golden:
        pytest.fail(f"- real server, + ours\n{differs}", pytrace=False)
