"""Where ours is meant to differ from the real server: `accepted.json`, one object an entry of a recording.

`scenario` and `entry` name it, `reason` says why, `ours` is what ours records there: so such entries are compared
as strictly as all others, with another expectation.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from .registry import Scenario
from .runner import pretty

ACCEPTED = Path(__file__).parent / "accepted.json"


@cache
def accepted() -> dict[str, dict[str, Any]]:
    """What ours records, by scenario id and name of the entry."""
    found: dict[str, dict[str, Any]] = {}
    for difference in json.loads(ACCEPTED.read_text()):
        found.setdefault(difference["scenario"], {})[difference["entry"]] = difference["ours"]
    return found


def expected(scenario: Scenario) -> str:
    """The recording that ours is compared with: the golden file, but for what is accepted."""
    golden = scenario.golden.read_text()
    ours = accepted().get(scenario.id)
    if ours is None:
        return golden
    entries = json.loads(golden)
    for entry in entries:
        entry["value"] = ours.get(entry["name"], entry["value"])
    return pretty(entries) + "\n"
