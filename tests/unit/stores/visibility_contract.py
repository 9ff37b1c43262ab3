"""What every visibility store does: the same cases for each, over a fixture of its own."""

from collections.abc import Sequence
from typing import Protocol

import pytest

from streams.stores.filter_model import FilterError, PageTokenError
from streams.stores.list_filter import quote
from streams.stores.run_key import RunKey
from streams.stores.search_attributes import SearchAttributes, SearchValue, ValueType
from streams.stores.visibility import VisibilityReader, VisibilityRow
from tests.unit.stores.rows import ATTRIBUTES, NAMESPACE, START_NS, row


class VisibilityUnderTest(VisibilityReader, Protocol):
    """A store, with writes that are there when they return."""

    def write(self, rows: Sequence[VisibilityRow]) -> None: ...

    def delete(self, runs: Sequence[RunKey]) -> None: ...


async def listed(store: VisibilityReader, query: str = "", namespace_id: str = NAMESPACE) -> list[str]:
    page = await store.list(namespace_id, query, ATTRIBUTES, 1000)
    assert page.next_page_token == b""
    return [found.run_id for found in page.rows]


ATTRIBUTE_ROWS = [
    row("none"),
    row(
        "a",
        closed=60,
        status=3,
        workflow_type="Transfer",
        execution_duration_ns=3900 * 10**9,
        history_length=11,
        attributes={
            "Words": "Hello big-World été",
            "Key": "Abc",
            "Number": 5,
            "Ratio": 1.5,
            "Flag": True,
            "When": START_NS,
            "Tags": ("x", "Y z"),
            "BuildIds": ("unversioned",),
        },
    ),
    row("b", attributes={"Words": "bigger world", "Key": "abd%", "Number": -1, "Flag": False, "Tags": ()}),
]


class VisibilityContract:
    """Inherit, and give a fixture `visibility`."""

    async def test_a_row_comes_back_as_it_was_written(self, visibility: VisibilityUnderTest) -> None:
        full = row(
            "run",
            start=1,
            closed=5,
            status=3,
            execution_time_ns=START_NS + 3,
            history_length=11,
            history_size_bytes=1500,
            execution_duration_ns=4_000_000_001,
            state_transition_count=7,
            parent_workflow_id="parent",
            parent_run_id="parent-run",
            root_workflow_id="root",
            root_run_id="root-run",
            memo=b"\x00memo\xff",
            attributes={
                "Words": "two words",
                "Key": "quo\"te'\\ é😀",
                "Number": -(2**63),
                "Ratio": 1.5,
                "Flag": False,
                "When": START_NS,
                "Tags": ("a", "b c"),
            },
        )
        bare = row("bare")
        visibility.write([full, bare])
        page = await visibility.list(NAMESPACE, "", ATTRIBUTES, 10)
        assert page.rows == [bare, full]

    async def test_an_older_version_never_overwrites(self, visibility: VisibilityUnderTest) -> None:
        visibility.write([row("a", version=2, workflow_type="Two"), row("a", version=1, workflow_type="One")])
        visibility.write([row("a", version=1, workflow_type="One")])
        visibility.write([row("a", version=2, workflow_type="Again")])
        assert await listed(visibility, "WorkflowType = 'Two'") == ["a"]
        visibility.write([row("a", version=3, closed=1, workflow_type="Three")])
        visibility.write([row("a", version=2, workflow_type="Two")])
        assert await listed(visibility, "WorkflowType = 'Three' AND CloseTime IS NOT NULL") == ["a"]

    async def test_deleting_runs_leaves_the_others(self, visibility: VisibilityUnderTest) -> None:
        visibility.write([row(f"{n:03}") for n in range(300)] + [row("000", namespace_id="other")])
        visibility.delete([RunKey(NAMESPACE, f"wf-{n:03}", f"{n:03}") for n in range(299)])
        assert await listed(visibility) == ["299"]
        assert await listed(visibility, namespace_id="other") == ["000"]

    async def test_open_runs_come_first_then_the_latest_closed(self, visibility: VisibilityUnderTest) -> None:
        visibility.write(
            [
                row("closed-early", start=0, closed=10),
                row("open-old", start=1),
                row("closed-late", start=2, closed=20),
                row("open-new-b", start=3),
                row("open-new-a", start=3),
            ],
        )
        assert await listed(visibility) == [
            "open-new-a",
            "open-new-b",
            "open-old",
            "closed-late",
            "closed-early",
        ]

    async def test_runs_of_a_namespace_division_show_only_when_it_is_named(
        self, visibility: VisibilityUnderTest
    ) -> None:
        visibility.write(
            [row("plain"), row("schedule", attributes={"TemporalNamespaceDivision": "TemporalScheduler"})]
        )
        assert await listed(visibility) == ["plain"]
        assert await listed(visibility, "TemporalNamespaceDivision = 'TemporalScheduler'") == ["schedule"]
        assert await listed(visibility, "TemporalNamespaceDivision IS NULL") == ["plain"]
        either = "TemporalNamespaceDivision IS NULL OR TemporalNamespaceDivision IS NOT NULL"
        assert await listed(visibility, f"({either}) AND WorkflowId = 'wf-schedule'") == ["schedule"]
        assert (await visibility.count(NAMESPACE, "", ATTRIBUTES)).total == 1
        assert (await visibility.count(NAMESPACE, either, ATTRIBUTES)).total == 2

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("Key = 'Abc'", "a"),
            ("Key = 'abc'", ""),
            ("Key != 'Abc'", "b"),
            ("NOT Key = 'Abc'", "b"),
            ("Key IN ('Abc', 'abd%')", "ab"),
            ("Key NOT IN ('Abc')", "b"),
            ("Key IS NULL", "none"),
            ("Key STARTS_WITH 'A'", "a"),
            ("Key STARTS_WITH 'a'", "b"),
            ("Key STARTS_WITH 'abd%'", "b"),
            ("Key STARTS_WITH '%'", ""),
            ("Key STARTS_WITH ''", "ab"),
            ("Key NOT STARTS_WITH 'A'", "b"),
            ("Key > 'B'", "b"),
            ("Key BETWEEN 'A' AND 'B'", "a"),
            ("Number = 5", "a"),
            ("Number = '5'", "a"),
            ("Number = 5.0", "a"),
            ("Number < 5", "b"),
            ("Number >= -1", "ab"),
            ("Number NOT BETWEEN 0 AND 9", "b"),
            ("Ratio > 1", "a"),
            ("Flag = true", "a"),
            ("Flag = false", "b"),
            ("Flag IS NOT NULL", "ab"),
            ("When = '2023-11-14T22:13:20Z'", "a"),
            ("When >= '2023-11-14T23:13:20.000000001+01:00'", ""),
            (f"When = {START_NS}", "a"),
            ("Tags = 'Y z'", "a"),
            ("Tags = 'Y'", ""),
            ("Tags != 'x'", "none b"),
            ("Tags IN ('q', 'x')", "a"),
            ("Tags NOT IN ('x')", "none b"),
            ("Words = 'hello'", "a"),
            ("Words = 'WORLD'", "ab"),
            ("Words = 'big world'", "ab"),
            ("Words = 'big-world'", "a"),
            ("Words = 'ete'", "a"),
            ("Words = 'orl'", ""),
            ("Words = '--'", ""),
            ("Words != 'hello'", "none b"),
            ("BuildIds = 'unversioned'", "a"),
            ("CloseTime IS NULL", "none b"),
            ("CloseTime > '2020-01-01T00:00:00Z'", "none b a"),
            ("CloseTime < '2200-01-01T00:00:00Z'", "a"),
            ("CloseTime > '9000-01-01T00:00:00Z'", "none b"),
            ("CloseTime BETWEEN '2020-01-01T00:00:00Z' AND '2200-01-01T00:00:00Z'", "a"),
            ("StartTime = '2023-11-14T22:13:20Z'", "none b a"),
            ("ExecutionStatus = 'Running'", "none b"),
            ("ExecutionStatus = 'Failed'", "a"),
            ("ExecutionStatus = 3", "a"),
            ("ExecutionStatus IN ('Failed', 'TimedOut')", "a"),
            ("ExecutionStatus != 'Running'", "a"),
            ("ExecutionDuration > '1h'", "a"),
            ("ExecutionDuration = '01:05:00'", "a"),
            ("HistoryLength >= 11", "a"),
            ("WorkflowType = 'Transfer'", "a"),
            ("RunId IN ('a', 'b')", "ab"),
            ("WorkflowId = 'wf-a'", "a"),
            ("WorkflowId STARTS_WITH 'wf-'", "none b a"),
            ("ParentWorkflowId IS NULL", "none b a"),
            ("RootWorkflowId = 'wf-b'", "b"),
            ("TaskQueue = 'queue' AND (Key = 'Abc' OR Number < 0)", "ab"),
            ("Key = 'Abc' OR Number = -1 AND Flag = true", "a"),
        ],
    )
    async def test_filters(self, visibility: VisibilityUnderTest, query: str, expected: str) -> None:
        visibility.write(ATTRIBUTE_ROWS)
        runs = expected.split() if " " in expected or expected == "none" else list(expected)
        assert sorted(await listed(visibility, query)) == sorted(runs)
        assert (await visibility.count(NAMESPACE, query, ATTRIBUTES)).total == len(runs)

    async def test_filters_stay_in_their_namespace(self, visibility: VisibilityUnderTest) -> None:
        visibility.write([row("mine"), row("theirs", namespace_id="other")])
        for query in ("", "RunId = 'theirs' OR RunId = 'mine'", "NOT RunId = 'x'", "ORDER BY RunId"):
            assert await listed(visibility, query) == ["mine"]
            assert await listed(visibility, query, "other") == ["theirs"]
            assert await listed(visibility, query, "' OR ''='") == []

    @pytest.mark.parametrize(
        "hostile",
        ["'; DROP TABLE visibility; --", "' OR '1'='1", "%", "_", '"', "\\", "$.x", "?", ":a", "😀"],
    )
    async def test_values_are_only_values(self, visibility: VisibilityUnderTest, hostile: str) -> None:
        attributes = {"Key": hostile, "Tags": (hostile,), "Words": hostile}
        visibility.write([row("hostile", workflow_id=hostile, attributes=attributes), row("other")])
        wanted = quote(hostile)
        for query in (
            f"WorkflowId = {wanted}",
            f"Key = {wanted}",
            f"Tags = {wanted}",
            f"Key IN ({wanted}, 'x')",
            f"Key STARTS_WITH {wanted}",
            f"Key BETWEEN {wanted} AND {wanted} ORDER BY Key",
        ):
            assert await listed(visibility, query) == ["hostile"]
        assert await listed(visibility, f"Words = {wanted}") in ([], ["hostile"])
        assert (await visibility.count(NAMESPACE, "", ATTRIBUTES)).total == 2

    async def test_attribute_names_are_only_names(self, visibility: VisibilityUnderTest) -> None:
        names = ["a.b", "x y", "$", "it's", "a[0]", "a') --", "ключ", "%s", ":p", "?"]
        attributes = SearchAttributes(dict.fromkeys(names, ValueType.KEYWORD))
        for name in names:
            held = {name: SearchValue(ValueType.KEYWORD, "v")}
            base = row(name)
            visibility.write(
                [
                    VisibilityRow(
                        **{field: getattr(base, field) for field in base.__struct_fields__}
                        | {"search_attributes": held}
                    )
                ],
            )
        for name in names:
            page = await visibility.list(NAMESPACE, f"`{name}` = 'v' ORDER BY `{name}`", attributes, 100)
            assert [found.run_id for found in page.rows] == [name]

    async def test_an_attribute_registered_anew_with_another_type_forgets_old_values(
        self, visibility: VisibilityUnderTest
    ) -> None:
        visibility.write([row("old", attributes={"Key": "5"})])
        anew = SearchAttributes({"Key": ValueType.INT})
        for query in ("Key > 1", "Key IS NOT NULL"):
            assert (await visibility.count(NAMESPACE, query, anew)).total == 0
        assert (await visibility.list(NAMESPACE, "Key IS NULL", anew, 10)).rows[0].search_attributes == {
            "Key": SearchValue(ValueType.KEYWORD, "5")
        }

    async def test_counts_by_status(self, visibility: VisibilityUnderTest) -> None:
        visibility.write(
            [row("a"), row("b"), row("c", closed=1), row("d", closed=1, status=3, workflow_type="X")]
        )
        everything = await visibility.count(NAMESPACE, "GROUP BY ExecutionStatus", ATTRIBUTES)
        assert (everything.total, everything.by_status) == (4, {1: 2, 2: 1, 3: 1})
        some = await visibility.count(
            NAMESPACE, "WorkflowType = 'Order' GROUP BY ExecutionStatus", ATTRIBUTES
        )
        assert (some.total, some.by_status) == (3, {1: 2, 2: 1})
        assert (await visibility.count(NAMESPACE, "RunId = 'none'", ATTRIBUTES)).total == 0
        assert (await visibility.count(NAMESPACE, "", ATTRIBUTES)).by_status is None

    async def test_clauses_that_do_not_fit_the_call_are_refused(
        self, visibility: VisibilityUnderTest
    ) -> None:
        with pytest.raises(FilterError, match="'group by' clause"):
            await visibility.list(NAMESPACE, "GROUP BY ExecutionStatus", ATTRIBUTES, 10)
        with pytest.raises(FilterError, match="'order by' clause"):
            await visibility.count(NAMESPACE, "ORDER BY StartTime", ATTRIBUTES)
        with pytest.raises(ValueError, match="page size 0"):
            await visibility.list(NAMESPACE, "", ATTRIBUTES, 0)

    async def test_a_page_token_is_good_only_for_its_list(self, visibility: VisibilityUnderTest) -> None:
        visibility.write([row("a"), row("b"), row("c", closed=1)])
        token = (await visibility.list(NAMESPACE, "", ATTRIBUTES, 1)).next_page_token
        for namespace_id, query in [
            ("other", ""),
            (NAMESPACE, "TaskQueue = 'queue'"),
            (NAMESPACE, "ORDER BY RunId"),
        ]:
            with pytest.raises(PageTokenError, match="another query"):
                await visibility.list(namespace_id, query, ATTRIBUTES, 1, token)
        for broken in (b"x", token[:-1], token + b"\0", b"\x90", b"\xff" * 20):
            with pytest.raises(PageTokenError, match="invalid page token"):
                await visibility.list(NAMESPACE, "", ATTRIBUTES, 1, broken)
