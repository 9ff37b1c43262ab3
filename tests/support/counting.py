"""A small processor for tests of the runtime: counts what it is sent."""

from __future__ import annotations

import msgspec

from streams.bodies import NumberPair, Pair
from streams.runtime.context import Context
from streams.runtime.records import Record, Reply
from streams.runtime.tables import TableSpec

COUNTERS = TableSpec(name="counters", kinds={"count": NumberPair, "note": Pair})


class CountingProcessor:
    """Folds Pair records: `key` says what to do with the counter that `record.key` names.

    "add" counts and tells both `out` and, with value "all", every partition of `wide`; "wake" has the counter
    emitted at `value` ms; "warn" has a sentence logged; "fail" changes, emits, answers and wakes, and then raises.
    """

    name = "counting"
    input_topic = "in"
    tables = (COUNTERS,)

    def fold(self, context: Context, record: Record) -> None:
        body: Pair = record.body
        entity = context.table("counters").entity(record.key)
        if body.key == "warn":
            context.warn(body.value)
            return
        if body.key == "wake":
            context.wake(record.key, int(body.value), 5)
            return
        known = entity.get("count")
        total = NumberPair(record.key, 1 if known is None else known.value + 1)
        entity.put("count", "", total)
        context.emit("out", record.key, total)
        if body.value == "all":
            context.broadcast("wide", record.key, total)
        context.reply(record.correlation, Reply(body=str(total.value).encode()))
        if body.key == "fail":
            entity.drop("note")
            context.wake(record.key, 1)
            raise ValueError(f"cannot count {body.value}")
        entity.put("note", "", body)

    def due(self, context: Context, key: str, payload: int) -> None:
        context.emit("out", key, NumberPair("due", payload))
        if key == "bad":
            raise ValueError("cannot be due")

    def judged(self, context: Context, record: Record, reason: str) -> None:
        if isinstance(record.body, msgspec.Struct) and record.key:
            context.table("counters").entity(record.key).put("note", "", Pair("judged", reason))
