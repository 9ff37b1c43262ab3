"""The scenarios: functions marked with `@scenario`, found by group (module) and name (function)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import World

Script = Callable[["World"], Awaitable[None]]
GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Scenario:
    """A script and where it runs.

    `server`: which of the configured servers ("default" or "tight").
    `namespace`: "shared" by most; "attributes" has one custom search attribute of each type; "own" is fresh.
    `sdk`: the official SDK takes part, so what it adds by itself is left out of the recording.
    """

    group: str
    name: str
    script: Script
    server: str
    namespace: str
    sdk: bool

    @property
    def id(self) -> str:
        return f"{self.group}/{self.name}"

    @property
    def golden(self) -> Path:
        return GOLDEN / self.group / f"{self.name}.json"


_found: dict[str, Scenario] = {}


def scenario(
    *, server: str = "default", namespace: str = "shared", sdk: bool = False
) -> Callable[[Script], Script]:
    """Register the decorated function as a scenario of its module's group."""

    def register(script: Script) -> Script:
        group = script.__module__.rsplit(".", 1)[-1].split("__")[0]
        entry = Scenario(group, script.__name__, script, server, namespace, sdk)
        if entry.id in _found:
            raise ValueError(f"two scenarios are called {entry.id}")
        _found[entry.id] = entry
        return script

    return register


def all_scenarios() -> list[Scenario]:
    """Every scenario, in the order of group and name."""
    package = importlib.import_module(".scenarios", __package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return [_found[key] for key in sorted(_found)]
