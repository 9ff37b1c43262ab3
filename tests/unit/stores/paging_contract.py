"""Lists against an independent reading of filters, and paging while rows are written: for every store."""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.stores.filter_model import PageTokenError
from streams.stores.list_filter import parse, quote
from streams.stores.page_token import encode_token
from streams.stores.run_key import RunKey
from streams.stores.visibility import VisibilityRow
from tests.unit.stores.rows import ATTRIBUTES, NAMESPACE, START_NS, matching, row


class PagesUnderTest(Protocol):
    """A store with its database, of one namespace; everything is done when it returns."""

    def write(self, rows: Sequence[VisibilityRow]) -> None: ...

    def delete(self, runs: Sequence[RunKey]) -> None: ...

    def clear(self) -> None:
        """Be as new."""

    def restart(self) -> None:
        """Forget what only the process knows."""

    def page(self, query: str, size: int, token: bytes = b"") -> tuple[list[VisibilityRow], bytes]: ...

    def count(self, query: str) -> int: ...


def pages_of(database: PagesUnderTest, query: str, size: int) -> Iterator[list[VisibilityRow]]:
    rows, token = database.page(query, size)
    yield rows
    while token:
        rows, token = database.page(query, size, token)
        yield rows


WORDS = st.sampled_from(
    ["", "a", "A", "ab", "b", "a b", "a-b", "%", "é", "\ud7ff", "\U0010ffff", "a\U0010ffff"]
)
INTS = st.integers(-2, 2)
TIMES = st.integers(0, 4).map(lambda second: START_NS + second * 10**9)
VALUES = {
    "Words": st.sampled_from(["a", "a b", "b-a", "ab", "A é"]),
    "Key": WORDS,
    "Number": INTS,
    "Ratio": st.sampled_from([-1.5, 0.0, 1.0, 2.5]),
    "Flag": st.booleans(),
    "When": TIMES,
    "Tags": st.lists(WORDS, max_size=3).map(tuple),
}
OPTIONAL_COUNT = st.one_of(st.none(), st.integers(0, 3))


@st.composite
def visibility_rows(draw: st.DrawFn) -> list[VisibilityRow]:
    rows = []
    for index in range(draw(st.integers(0, 9))):
        start = draw(st.integers(0, 3))
        attributes = draw(st.fixed_dictionaries({}, optional=VALUES))
        if draw(st.integers(0, 9)) == 0:
            attributes["TemporalNamespaceDivision"] = "division"
        # Distinct close times: the order of ties is the order of writing, which the model does not know.
        closed = draw(st.one_of(st.none(), st.just(10 + index)))
        rows.append(
            row(
                f"{draw(st.integers(0, 9))}{index}",
                start=start,
                closed=closed,
                status=1 if closed is None else draw(st.integers(2, 7)),
                workflow_type=draw(st.sampled_from(["A", "B"])),
                history_length=None if closed is None else draw(OPTIONAL_COUNT),
                parent_workflow_id=draw(st.sampled_from([None, "p"])),
                attributes=attributes,
            )
        )
    return draw(st.permutations(rows))


def literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return quote(value) if isinstance(value, str) else str(value)


SCALARS: list[tuple[str, st.SearchStrategy[object]]] = [
    ("Key", WORDS),
    ("WorkflowType", st.sampled_from(["A", "B", "C"])),
    ("ParentWorkflowId", st.sampled_from(["p", "q"])),
    ("WorkflowId", st.sampled_from(["wf-00", "wf-11", "wf-2"])),
    ("Number", INTS),
    ("HistoryLength", INTS),
    ("Ratio", st.sampled_from([-1.5, 0.5, 1])),
    ("When", TIMES),
    ("StartTime", TIMES),
    ("CloseTime", st.integers(8, 20).map(lambda second: START_NS + second * 10**9)),
    ("ExecutionStatus", st.one_of(st.integers(1, 7), st.sampled_from(["Running", "Completed", "TimedOut"]))),
]
NOT = st.sampled_from(["", "NOT "])


@st.composite
def leaves(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["compare", "in", "between", "prefix", "null", "words", "tags", "flag"]))
    name, values = draw(st.sampled_from(SCALARS))
    if kind == "compare":
        return f"{name} {draw(st.sampled_from(['=', '!=', '<', '<=', '>', '>=']))} {literal(draw(values))}"
    if kind == "in":
        listed = ", ".join(literal(value) for value in draw(st.lists(values, min_size=1, max_size=3)))
        return f"{name} {draw(NOT)}IN ({listed})"
    if kind == "between":
        return f"{name} {draw(NOT)}BETWEEN {literal(draw(values))} AND {literal(draw(values))}"
    if kind == "prefix":
        return f"Key {draw(NOT)}STARTS_WITH {literal(draw(WORDS))}"
    if kind == "words":
        wanted = draw(st.sampled_from(["a", "b", "a b", "b-a", "e", "-"]))
        return f"Words {draw(st.sampled_from(['=', '!=']))} {literal(wanted)}"
    if kind == "tags":
        return f"Tags {draw(st.sampled_from(['=', '!=']))} {literal(draw(WORDS))}"
    if kind == "flag":
        return draw(st.sampled_from(["Flag = true", "Flag != true", "Flag < TRUE", "Flag IN (false, true)"]))
    anything = st.sampled_from([*VALUES, "CloseTime", "HistoryLength", "TemporalNamespaceDivision"])
    return f"{draw(anything)} IS {draw(NOT)}NULL"


CONDITIONS = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join),
        inner.map(lambda text: f"NOT ({text})"),
    ),
    max_leaves=5,
)
ORDERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("StartTime", "CloseTime", "ExecutionStatus", "HistoryLength", "WorkflowType", "RunId"),
                *("ParentWorkflowId", "Key", "Number", "Ratio", "Flag", "When"),
            ]
        ),
        st.sampled_from(["", " ASC", " DESC"]),
    ).map("".join),
    min_size=1,
    max_size=3,
).map(lambda keys: "ORDER BY " + ", ".join(keys))
KEYS = st.lists(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text()), max_size=4
)


class PagingContract:
    """Inherit, and give a fixture `database`."""

    @settings(
        max_examples=400,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )
    @given(
        rows=visibility_rows(),
        condition=st.one_of(st.just(""), CONDITIONS),
        order=st.one_of(st.just(""), ORDERS),
        size=st.integers(1, 4),
    )
    def test_pages_are_what_the_filter_means(
        self, database: PagesUnderTest, rows: list[VisibilityRow], condition: str, order: str, size: int
    ) -> None:
        database.clear()
        database.write(rows)
        query = f"{condition} {order}".strip()
        expected = matching(rows, parse(query, ATTRIBUTES))
        if not order:
            # Close times follow the order of writing where that was another one.
            database.clear()
            database.write(sorted(rows, key=lambda held: held.close_time_ns or 0))
        pages = list(pages_of(database, query, size))
        assert [held for page in pages for held in page] == expected
        assert all(len(page) == size for page in pages[:-1])
        assert pages[-1] or len(pages) == 1
        assert database.count(condition) == len(expected)

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "TaskQueue = 'queue'",
            "WorkflowId STARTS_WITH 'wf-'",
            "ORDER BY StartTime DESC",
            "ORDER BY CloseTime DESC",
            "ORDER BY CloseTime",
            "ORDER BY ExecutionStatus, HistoryLength DESC",
            "ORDER BY WorkflowType DESC, StartTime",
        ],
    )
    @pytest.mark.parametrize("seed", range(5))
    def test_pages_neither_skip_nor_repeat_while_runs_start_close_and_go(
        self, database: PagesUnderTest, query: str, seed: int
    ) -> None:
        database.clear()
        rng = random.Random(seed)
        held: dict[str, VisibilityRow] = {}
        clock = 0

        def start() -> None:
            nonlocal clock
            clock += rng.randint(0, 2)
            run_id = f"{rng.randrange(10**6):06}"
            held[run_id] = row(run_id, start=clock, workflow_type=rng.choice("AB"))
            database.write([held[run_id]])

        def close() -> None:
            nonlocal clock
            open_runs = [held_row for held_row in held.values() if held_row.close_time_ns is None]
            if not open_runs:
                return
            # Now and then a clock steps back.
            clock += rng.choice([0, 0, 1, 2, -1])
            chosen = rng.choice(open_runs)
            started = (chosen.start_time_ns - START_NS) // 10**9
            closed = row(
                chosen.run_id,
                start=started,
                closed=max(clock, started),
                status=rng.randint(2, 7),
                history_length=rng.randint(3, 9),
                workflow_type=chosen.workflow_type,
                version=2,
            )
            held[chosen.run_id] = closed
            database.write([closed])

        def delete() -> None:
            gone = held.pop(rng.choice(sorted(held)))
            database.delete([RunKey(NAMESPACE, gone.workflow_id, gone.run_id)])

        for _ in range(60):
            start()
        for _ in range(30):
            close()
        there_throughout = set(held)
        seen: list[str] = []
        for page in pages_of(database, query, rng.randint(1, 7)):
            seen += [found.run_id for found in page]
            for _ in range(rng.randint(0, 4)):
                rng.choice([start, close, close, delete])()
            there_throughout &= set(held)
        assert len(seen) == len(set(seen))
        assert there_throughout <= set(seen)

    def test_the_order_survives_a_restart_and_a_clock_that_stepped_back(
        self, database: PagesUnderTest
    ) -> None:
        database.clear()
        database.write([row("first", closed=50), row("open", start=1)])
        rows, token = database.page("", 1)
        assert [found.run_id for found in rows] == ["open"]
        database.restart()
        database.write([row("open", start=1, closed=20, version=2)])
        rows, token = database.page("", 1, token)
        assert ([found.run_id for found in rows], token) == (["first"], b"")
        assert [found.run_id for found in database.page("", 2)[0]] == ["open", "first"]

    def test_a_closed_run_keeps_its_place_when_it_is_written_again(self, database: PagesUnderTest) -> None:
        database.clear()
        database.write([row("a", closed=1), row("b", closed=2)])
        database.write([row("a", closed=1, version=2, history_length=5)])
        assert [found.run_id for found in database.page("", 5)[0]] == ["b", "a"]

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        frozen=st.integers(-(2**63), 2**64 - 1),
        keys=KEYS,
        query=st.sampled_from(["", "ORDER BY Key, Number"]),
        junk=st.binary(),
    )
    def test_forged_tokens_raise_nothing_but_token_errors(
        self,
        database: PagesUnderTest,
        frozen: int,
        keys: list[bool | int | float | str | None],
        query: str,
        junk: bytes,
    ) -> None:
        for token in (encode_token(NAMESPACE, query, frozen, tuple(keys)), junk):
            try:
                rows, _ = database.page(query, 2, token)
            except PageTokenError:
                continue
            assert len(rows) <= 2
