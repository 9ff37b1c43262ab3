import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.stores.filter_grammar import MAX_NESTING
from streams.stores.filter_model import (
    All,
    AnyOf,
    Between,
    Compare,
    Condition,
    FilterError,
    In,
    IsNull,
    Negated,
    Operator,
    StartsWith,
)
from streams.stores.filter_syntax import MAX_CONDITIONS, MAX_QUERY_CHARS, MAX_SORT_KEYS, MAX_VALUES
from streams.stores.list_filter import parse, quote
from streams.stores.search_attributes import (
    PREDEFINED_ATTRIBUTES,
    SYSTEM_ATTRIBUTES,
    Attribute,
    SearchAttributes,
    ValueType,
)

ATTRIBUTES = SearchAttributes(
    {
        "Words": ValueType.TEXT,
        "Key": ValueType.KEYWORD,
        "My Key": ValueType.KEYWORD,
        "Number": ValueType.INT,
        "Ratio": ValueType.DOUBLE,
        "Flag": ValueType.BOOL,
        "When": ValueType.DATETIME,
        "Tags": ValueType.KEYWORD_LIST,
    }
)
SECOND_NS = 10**9


def attribute(name: str) -> Attribute:
    found = ATTRIBUTES.find(name)
    assert found is not None
    return found


def condition(query: str) -> Condition:
    parsed = parse(query, ATTRIBUTES).condition
    assert parsed is not None
    return parsed


def value(query: str) -> object:
    parsed = condition(query)
    assert isinstance(parsed, Compare)
    return parsed.value


def equal(name: str, wanted: str | int) -> Compare:
    return Compare(attribute(name), Operator.EQUAL, wanted)


@pytest.mark.parametrize("operator", list(Operator))
@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_comparisons(operator: Operator, space: str) -> None:
    query = f"Key{space}{operator.value}{space}'a'"
    assert condition(query) == Compare(attribute("Key"), operator, "a")


def test_the_other_spelling_of_unequal() -> None:
    assert condition("Key <> 'a'") == Compare(attribute("Key"), Operator.NOT_EQUAL, "a")


@pytest.mark.parametrize(("word", "negated"), [("", False), ("NOT ", True), ("not ", True)])
def test_operators_that_can_be_negated(word: str, negated: bool) -> None:
    assert condition(f"Key {word}IN ('a', \"b\")") == In(attribute("Key"), ("a", "b"), negated)
    assert condition(f"Number {word}between 1 and -2") == Between(attribute("Number"), 1, -2, negated)
    assert condition(f"Key {word}Starts_With 'a'") == StartsWith(attribute("Key"), "a", negated)
    assert condition(f"Key is {word}null") == IsNull(attribute("Key"), negated)


def test_and_binds_stronger_than_or_and_not_stronger_than_both() -> None:
    a, b, c = equal("Key", "a"), equal("Key", "b"), equal("Key", "c")
    assert condition("Key='a' OR Key='b' AND Key='c'") == AnyOf((a, All((b, c))))
    assert condition("(Key='a' or Key='b') and Key='c'") == All((AnyOf((a, b)), c))
    assert condition("NOT Key='a' AND Key='b'") == All((Negated(a), b))
    assert condition("NOT (Key='a' AND NOT NOT Key='b')") == Negated(All((a, Negated(Negated(b)))))
    assert condition("Number BETWEEN 1 AND 2 AND Key='a'") == All(
        (Between(attribute("Number"), 1, 2, False), a)
    )


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ("'it''s'", "it's"),
        (r"'it\'s'", "it's"),
        ('"it\'s"', "it's"),
        ("'say \"hi\"'", 'say "hi"'),
        (r"'a\nb\\c\q'", "a\nb\\cq"),
        ("''", ""),
        ("'é😀'", "é😀"),
        ("'%_'", "%_"),
        ("'; DROP TABLE visibility --'", "; DROP TABLE visibility --"),
        ("5", "5"),
        ("-1.50", "-1.50"),
    ],
)
def test_strings(literal: str, text: str) -> None:
    assert value(f"Key = {literal}") == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_string_parses_to_itself(text: str) -> None:
    assert value(f"WorkflowId = {quote(text)}") == text


def test_names_may_stand_in_backquotes() -> None:
    assert condition("`My Key` = 'a'") == equal("My Key", "a")
    assert condition("`WorkflowId`='a'") == equal("WorkflowId", "a")


@pytest.mark.parametrize(
    ("literal", "number"),
    [
        ("5", 5),
        ("+5", 5),
        ("-5", -5),
        ("'5'", 5),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-1e3", -1000.0),
        ("1" + "0" * 20, 1e20),
    ],
)
def test_numbers(literal: str, number: float) -> None:
    assert value(f"Number = {literal}") == number
    assert value(f"Ratio = {literal}") == number


@pytest.mark.parametrize(
    ("literal", "time_ns"),
    [
        ("'1970-01-01T00:00:01Z'", SECOND_NS),
        ("'1970-01-01T00:00:01.5Z'", 1_500_000_000),
        ("'1970-01-01T00:00:01.123456789Z'", 1_123_456_789),
        ("'1970-01-01T02:00:01+02:00'", SECOND_NS),
        ("'1969-12-31T19:00:01-05:00'", SECOND_NS),
        ("17", 17),
        ("-17", -17),
        ("'9999-12-31T23:59:59Z'", 2**63 - 2),
        ("'0001-01-01T00:00:00Z'", -(2**63)),
    ],
)
def test_times(literal: str, time_ns: int) -> None:
    assert value(f"StartTime = {literal}") == time_ns
    assert value(f"When = {literal}") == time_ns


@pytest.mark.parametrize(
    ("literal", "duration_ns"),
    [
        ("5", 5),
        ("'5'", 5),
        ("'1h5m'", 3900 * SECOND_NS),
        ("'-1.5s'", -1_500_000_000),
        ("'2ms3us4ns'", 2_003_004),
        ("'1µs'", 1000),
        ("'1.5d'", 129_600 * SECOND_NS),
        ("'01:02:03'", 3723 * SECOND_NS),
        ("'100:00:00'", 360_000 * SECOND_NS),
        ("'0'", 0),
    ],
)
def test_durations(literal: str, duration_ns: int) -> None:
    assert value(f"ExecutionDuration = {literal}") == duration_ns


@pytest.mark.parametrize(
    ("literal", "status"),
    [
        ("'Running'", 1),
        ("'Completed'", 2),
        ("'Failed'", 3),
        ("'Canceled'", 4),
        ("'Terminated'", 5),
        ("'ContinuedAsNew'", 6),
        ("'TimedOut'", 7),
        ("'WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW'", 6),
        ("3", 3),
        ("99", 99),
    ],
)
def test_statuses(literal: str, status: int) -> None:
    assert value(f"ExecutionStatus = {literal}") == status


def test_booleans() -> None:
    assert value("Flag = true") is True
    assert value("Flag = FALSE") is False


def test_every_attribute_of_the_server_is_known() -> None:
    for name in (*SYSTEM_ATTRIBUTES, *PREDEFINED_ATTRIBUTES):
        assert condition(f"{name} IS NOT NULL") == IsNull(attribute(name), negated=True)


def test_schedule_id_stands_for_the_schedules_workflow_id() -> None:
    assert condition("ScheduleId = 's'") == Compare(
        attribute("ScheduleId"), Operator.EQUAL, "temporal-sys-scheduler:s"
    )
    custom = SearchAttributes({"ScheduleId": ValueType.KEYWORD})
    assert parse("ScheduleId = 's'", custom).condition == Compare(
        Attribute("ScheduleId", "ScheduleId", ValueType.KEYWORD, custom.find("ScheduleId").source),  # type: ignore[union-attr]
        Operator.EQUAL,
        "s",
    )


def test_ordering_and_grouping() -> None:
    parsed = parse("Key='a' ORDER BY StartTime DESC, WorkflowId ASC, `My Key`", ATTRIBUTES)
    assert [(sort.attribute.name, sort.descending) for sort in parsed.order_by] == [
        ("StartTime", True),
        ("WorkflowId", False),
        ("My Key", False),
    ]
    assert parsed.condition == equal("Key", "a")
    alone = parse("order by StartTime", ATTRIBUTES)
    assert alone.condition is None
    assert len(alone.order_by) == 1
    assert parse("Key='a' GROUP BY ExecutionStatus", ATTRIBUTES).group_by_status
    assert parse(" group  by ExecutionStatus", ATTRIBUTES).group_by_status


def test_a_blank_filter_matches_everything() -> None:
    assert parse("", ATTRIBUTES) == parse(" \n", ATTRIBUTES)
    assert parse("", ATTRIBUTES).condition is None


def test_naming_the_namespace_division_is_noted() -> None:
    assert parse("Key='a' OR TemporalNamespaceDivision IS NULL", ATTRIBUTES).names_division
    assert not parse("Key='a'", ATTRIBUTES).names_division


@pytest.mark.parametrize(
    ("query", "reason", "position"),
    [
        ("Foo = 1", "column name 'Foo' is not a valid search attribute", 1),
        ("Key='a' AND foo IS NULL", "column name 'foo' is not a valid search attribute", 13),
        ("workflowid = 'a'", "column name 'workflowid' is not a valid search attribute", 1),
        ("Key='a'  ORDER BY Foo", "column name 'Foo' is not a valid search attribute", 19),
        ("Key", "incomplete expression", 1),
        ("Key =", "unexpected end of query", 6),
        ("Key = 'a", "unterminated quote", 7),
        ("Key = `a", "unterminated quote", 7),
        ("Key = 'a' AND", "unexpected end of query", 14),
        ("(Key = 'a'", "unexpected end of query", 11),
        ("Key = 'a')", "syntax error near ')'", 10),
        ("Key = 'a' 'b'", "syntax error near ''b''", 11),
        ("Key = 'a' Key = 'b'", "syntax error near 'Key'", 11),
        ("Key LIKE 'a%'", "invalid operator 'like'", 1),
        ("Key = WorkflowId", "did you forget to quote 'WorkflowId'?", 7),
        ("Key = NULL", "unexpected value type", 7),
        ("Key = ('a')", "unexpected value type", 7),
        ("Key = ('a', 'b')", "a list of values may only follow IN", 7),
        ("Key IS TRUE", "'IS' operator can only be used with 'NULL' or 'NOT NULL'", 8),
        ("Key IN ()", "syntax error near ')'", 9),
        ("Key IN 'a'", "syntax error near ''a''", 8),
        ("Key IN ('a',)", "syntax error near ')'", 13),
        ("Key IN (('a'))", "unexpected value type", 9),
        ("Number BETWEEN 1", "unexpected end of query", 17),
        ("Number BETWEEN 1, 2", "syntax error near ','", 17),
        ("now() = 1", "function expression", 1),
        ("Key = upper('a')", "function expression", 7),
        ("1 = 1", "must be a column name", 1),
        ("'a' = Key", "must be a column name", 1),
        ("Key = 'a' = 'b'", "must be a column name", 1),
        ("Key IS NULL IS NULL", "must be a column name", 1),
        ("NOT", "unexpected end of query", 4),
        ("Key = 'a' LIMIT 5", "'limit' clause", 11),
        ("Key = 'a'; DROP TABLE visibility", "syntax error near ';'", 10),
        ("Key = 'a' -- comment", "syntax error near '-'", 11),
        ("Key = 'a' UNION SELECT 1", "syntax error near 'UNION'", 11),
        ("Key IN (SELECT run_id FROM visibility)", "syntax error near 'run_id'", 16),
        ("visibility.Key = 'a'", "syntax error near '.'", 11),
        ("Number = 'abc'", 'invalid value for search attribute Number of type Int: "abc"', 10),
        ("Number = true", "invalid value for search attribute Number of type Int: true", 10),
        ("Ratio IN (1, 'x')", "invalid value for search attribute Ratio of type Double", 14),
        ("Flag = 'true'", "invalid value for search attribute Flag of type Bool", 8),
        ("Flag = 1", "invalid value for search attribute Flag of type Bool", 8),
        ("Key = true", "invalid value for search attribute Key of type Keyword: true", 7),
        ("Tags = 5", "invalid value for search attribute Tags of type KeywordList: 5", 8),
        ("Words = 5", "invalid value for search attribute Words of type Text: 5", 9),
        ("Words = ' '", "no tokens found", 9),
        ("StartTime > 'yesterday'", "unable to parse datetime 'yesterday'", 13),
        ("StartTime > '2024-02-30T00:00:00Z'", "unable to parse datetime", 13),
        ("StartTime > '2024-01-01'", "unable to parse datetime", 13),
        ("When > 1.5", "invalid value for search attribute When of type Datetime", 8),
        ("ExecutionStatus = 'running'", "invalid ExecutionStatus value 'running'", 19),
        ("ExecutionStatus = 1.5", "invalid ExecutionStatus value '1.5'", 19),
        ("ExecutionDuration > 'abc'", "invalid value for search attribute ExecutionDuration: abc", 21),
        ("ExecutionDuration > '00:60:00'", "invalid duration", 21),
        ("ExecutionDuration > '999999d999999d'", "invalid duration", 21),
        ("Words > 'a'", "operator '>' not supported for Text type search attribute", 1),
        ("Words IN ('a')", "operator 'in' not supported for Text type search attribute", 1),
        ("Tags < 'a'", "operator '<' not supported for KeywordList type search attribute", 1),
        ("Tags STARTS_WITH 'a'", "operator 'starts_with' not supported for KeywordList", 1),
        ("Number STARTS_WITH '1'", "operator 'starts_with' not supported for Int", 1),
        ("Key STARTS_WITH 5", "right-hand side of 'starts_with' must be a literal string", 17),
        ("ExecutionStatus STARTS_WITH 'Run'", "must be a literal string", 29),
        ("Tags BETWEEN 'a' AND 'b'", "cannot do range condition on search attribute 'Tags'", 1),
        ("Flag BETWEEN true AND false", "cannot do range condition on search attribute 'Flag'", 1),
        ("ORDER BY Words", "unable to sort by field of Text type", 10),
        ("ORDER BY Tags", "unable to sort by field of KeywordList type", 10),
        ("ORDER BY", "unexpected end of query", 9),
        ("ORDER BY StartTime WHERE", "syntax error near 'WHERE'", 20),
        ("GROUP BY WorkflowType", "'group by' clause is only supported for ExecutionStatus", 10),
        ("GROUP BY ExecutionStatus, RunId", "supports only a single field", 27),
        ("GROUP BY ExecutionStatus ORDER BY RunId", "not supported with 'group by' clause", None),
        ("Key = 'a\ud800'", "not valid UTF-8", 7),
    ],
)
def test_errors_say_what_and_where(query: str, reason: str, position: int | None) -> None:
    with pytest.raises(FilterError) as caught:
        parse(query, ATTRIBUTES)
    assert reason in caught.value.reason
    assert caught.value.position == position
    assert str(caught.value).startswith("invalid query: ")
    if position is not None:
        assert str(caught.value).endswith(f"(at position {position})")


def test_size_has_limits() -> None:
    parse(" OR ".join(["Key='a'"] * MAX_CONDITIONS), ATTRIBUTES)
    parse("(" * MAX_NESTING + "Key='a'" + ")" * MAX_NESTING, ATTRIBUTES)
    parse(f"Number IN ({','.join(['1'] * MAX_VALUES)})", ATTRIBUTES)
    for query, reason in [
        (" OR ".join(["Key='a'"] * (MAX_CONDITIONS + 1)), "more than 500 conditions"),
        (" OR ".join(["Key NOT IN ('a')"] * (MAX_CONDITIONS + 1)), "more than 500 conditions"),
        (" AND ".join(["Key='a'"] * 20_000), "more than 500 conditions"),
        ("(" * (MAX_NESTING + 1) + "Key='a'" + ")" * (MAX_NESTING + 1), "nested deeper"),
        ("(" * 100_000, "nested deeper"),
        ("NOT " * 50_000 + "Key='a'", "nested deeper"),
        (f"Number IN ({','.join(['1'] * (MAX_VALUES + 1))})", "more than 10000 values"),
        (f"ORDER BY {','.join(['RunId'] * (MAX_SORT_KEYS + 1))}", "more than 8 fields"),
        ("Key = '" + "a" * MAX_QUERY_CHARS + "'", "longer than"),
    ]:
        with pytest.raises(FilterError, match=reason):
            parse(query, ATTRIBUTES)


@pytest.mark.parametrize("name", ["", 'a"b', "a\\b", "a\nb"])
def test_names_that_a_document_path_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="search attribute name"):
        SearchAttributes({name: ValueType.KEYWORD})


WORDS = st.sampled_from(
    [
        *("AND", "OR", "NOT", "IN", "BETWEEN", "IS", "NULL", "LIKE", "STARTS_WITH", "ORDER BY", "GROUP BY"),
        *(
            "ASC",
            "DESC",
            "LIMIT",
            "TRUE",
            "(",
            ")",
            ",",
            "=",
            "!=",
            "<",
            ">=",
            "-",
            "+",
            ".",
            ";",
            "*",
            "--",
            "/*",
        ),
        *(
            "Key",
            "Words",
            "Number",
            "When",
            "Tags",
            "Flag",
            "`My Key`",
            "StartTime",
            "ExecutionStatus",
            "CloseTime",
        ),
        *(
            "ExecutionDuration",
            "TemporalNamespaceDivision",
            "Foo",
            "SELECT",
            "CASE",
            "f(",
            "INTERVAL",
            "CAST",
        ),
        *(
            "'a'",
            '"b"',
            "1",
            "1.5",
            "1e400",
            "'1h'",
            "'2024-01-01T00:00:00Z'",
            "'Running'",
            "'",
            '"',
            "`",
            "\\",
            ":x",
            "?",
        ),
        *("0x1", "b'1'", "N'a'", "@a", "{", "[", "]", "::", "||", "^@", "$$", "\0", "\u2028", "é"),
    ]
)


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(st.text(), st.lists(WORDS, max_size=12).map(" ".join), st.lists(WORDS, max_size=8).map("".join))
)
@example("Key = '\ud800'")
@example("`\ud800` = 1")
@example("Number = " + "9" * 5000)
@example("Number = '" + "9" * 5000 + "'")
@example("StartTime = " + "9" * 5000)
@example("ExecutionDuration = '" + "9" * 5000 + "h'")
@example("Number = ²")
@example("Number = '٣'")
def test_no_text_raises_anything_but_a_filter_error(query: str) -> None:
    position: int | None = 1
    try:
        parsed = parse(query, ATTRIBUTES)
    except FilterError as error:
        position = error.position
    else:
        assert parsed == parse(query + " ", ATTRIBUTES)
    assert position is None or 1 <= position <= len(query) + 1
