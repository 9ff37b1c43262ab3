"""No limit is an option that is read and ignored."""

from pathlib import Path

import pytest

from streams import limits

ROOT = Path(limits.__file__).parents[1]
SOURCES = [
    path.read_text()
    for package in ("streams", "gateway", "server")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != Path(limits.__file__)
]


@pytest.mark.parametrize("name", limits.Limits.__struct_fields__)
def test_every_limit_is_looked_at_somewhere(name: str) -> None:
    assert any(f"limits.{name}" in source or f'"{name}"' in source for source in SOURCES)
