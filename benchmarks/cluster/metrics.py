"""What processes of ours say of themselves over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence

_TIMEOUT_S = 5


def probe(port: int, path: str) -> str | None:
    """Why the answer is no, None for yes."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode().strip()
    except OSError as error:
        return str(error)


def read(ports: Sequence[int]) -> dict[str, float]:
    """The metrics of all these processes, by name and labels; the same of several is added up."""
    found: dict[str, float] = {}
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT_S) as answer:
            for line in answer.read().decode().splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    found[name] = found.get(name, 0.0) + float(value)
    return found


def total(found: dict[str, float], name: str, *labels: str) -> float:
    """The sum of a metric over all that carry `labels`, such as `topic="history"`."""
    return sum(
        value
        for key, value in found.items()
        if key.partition("{")[0] == name and all(label in key for label in labels)
    )
