"""A small processor whose logic differs by version, for tests of upgrades."""

from __future__ import annotations

from streams.runtime.context import Context
from streams.runtime.records import Record
from tests.support.counting import CountingProcessor


class VersionedProcessor(CountingProcessor):
    """Counts each record once; from logic version 2 on twice, which state, emissions and replies all show."""

    def fold(self, context: Context, record: Record) -> None:
        super().fold(context, record)
        if context.logic_version >= 2:
            super().fold(context, record)

    def due(self, context: Context, key: str, payload: int) -> None:
        super().due(context, key, payload)
        if context.logic_version >= 2:
            super().due(context, key, payload + 1)
