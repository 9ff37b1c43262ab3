"""The list of scenarios, the scripts and the golden files belong together."""

from __future__ import annotations

import json
import re

from .accepted import ACCEPTED
from .registry import GOLDEN, all_scenarios
from .runner import pretty

LIST = GOLDEN.parent / "SCENARIOS.md"
SECTIONS = (
    "Start",
    "Workflow tasks",
    "Commands",
    "Activities",
    "Signals, queries, updates, cancel, terminate, delete, reset",
    "Timers",
    "Retention",
    "Visibility",
    "Errors",
    "Limits",
)


def test_list_names_every_script_once() -> None:
    listed = re.findall(r"^- `([^`]+)`", LIST.read_text(), re.MULTILINE)
    assert sorted(listed) == [scenario.id for scenario in all_scenarios()]


def test_every_section_has_failure_paths() -> None:
    parts = re.split(r"^## (.+)$", LIST.read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert tuple(sections) == SECTIONS
    for name, text in sections.items():
        assert len(re.findall(r"^- `", text, re.MULTILINE)) >= 3, name
        assert "**F**" in text, name


def test_every_script_has_its_golden_file() -> None:
    assert sorted(GOLDEN.rglob("*.json")) == sorted(scenario.golden for scenario in all_scenarios())


def test_accepted_differences_are_in_the_golden_files() -> None:
    golden = {scenario.id: json.loads(scenario.golden.read_text()) for scenario in all_scenarios()}
    for difference in json.loads(ACCEPTED.read_text()):
        real = [entry for entry in golden[difference["scenario"]] if entry["name"] == difference["entry"]]
        assert len(real) == 1, difference
        assert real[0]["value"] != difference["ours"], difference
        assert difference["reason"], difference


def test_golden_files_are_written_as_the_recorder_writes_them() -> None:
    for path in GOLDEN.rglob("*.json"):
        text = path.read_text()
        assert pretty(json.loads(text)) + "\n" == text, path
