"""What docs/operations says is what the code has: metrics, topics, and the sentences that it explains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streams.kafka.names import ALL_TOPICS

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "operations"
SOURCES = "\n".join(
    path.read_text()
    for folder in ("streams", "gateway", "server")
    for path in sorted(Path(ROOT, folder).rglob("*.py"))
)
JOINED = re.sub(r'"\s*\n\s*f?"', "", SOURCES)
"""The code with texts in one piece that are written over several lines."""

METRICS = Path(ROOT, "server", "cluster_metrics.py").read_text()


def test_every_metric_is_explained_and_nothing_else() -> None:
    said = set(re.findall(r"odradek_[a-z_]+", (PAGES / "monitoring.md").read_text()))
    assert said == set(re.findall(r'"(odradek_[a-z_]+)"', METRICS))


def test_every_topic_is_in_the_tables() -> None:
    text = (PAGES / "topics.md").read_text()
    assert [topic for topic in ALL_TOPICS if f"`{topic}`" not in text] == []


@pytest.mark.parametrize(
    "sentence", re.findall(r"^### `(.*)`$", (PAGES / "troubleshooting.md").read_text(), re.MULTILINE)
)
def test_a_sentence_that_is_explained_is_one_of_the_code(sentence: str) -> None:
    assert sentence in JOINED


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert Path(page.parent, target).exists(), target
