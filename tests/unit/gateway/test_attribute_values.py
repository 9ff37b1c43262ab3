"""Search attributes are checked as the real server checks them."""

import pytest
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.enums.v1 import IndexedValueType

from streams.attribute_values import InvalidSearchAttributes, check
from streams.limits import Limits

CUSTOM = {name.removeprefix("INDEXED_VALUE_TYPE_"): number for name, number in IndexedValueType.items()}


def json_payload(text: str) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=text.encode())


def checked(limits: Limits | None = None, **fields: Payload) -> None:
    check(SearchAttributes(indexed_fields=fields), "ns", CUSTOM, limits or Limits())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TEXT", '"words"'),
        ("KEYWORD", '["one"]'),
        ("INT", "-5"),
        ("INT", "[]"),
        ("DOUBLE", "1"),
        ("DOUBLE", "1.5e3"),
        ("BOOL", "true"),
        ("DATETIME", '"2020-01-01T00:00:00.123456789+02:00"'),
        ("KEYWORD_LIST", '["a", "b"]'),
        ("KEYWORD_LIST", "null"),
        ("BOOL", "null"),
    ],
)
def test_value_of_its_type(name: str, text: str) -> None:
    checked(**{name: json_payload(text)})


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("TEXT", "1", "Text: 1"),
        ("TEXT", '["a", "b"]', "Text: [a b]"),
        ("KEYWORD", "true", "Keyword: true"),
        ("KEYWORD", '{"a": [1, null]}', "Keyword: map[a:[1 <nil>]]"),
        ("INT", "1.5", "Int: 1.5"),
        ("INT", "1e3", "Int: 1000"),
        ("INT", "99999999999999999999", "Int: 1e+20"),
        ("DOUBLE", '"x"', "Double: x"),
        ("BOOL", "1234567", "Bool: 1.234567e+06"),
        ("DATETIME", '"2020-01-01"', "Datetime: 2020-01-01"),
        ("KEYWORD_LIST", '"a"', "KeywordList: a"),
    ],
)
def test_value_of_another_type(name: str, text: str, shown: str) -> None:
    with pytest.raises(InvalidSearchAttributes) as error:
        checked(**{name: json_payload(text)})
    assert str(error.value) == f"invalid value for search attribute {name} of type {shown}"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "[" * 100_000, "", "nope"])
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(InvalidSearchAttributes):
        checked(DOUBLE=json_payload(text))


def test_unknown_name() -> None:
    with pytest.raises(InvalidSearchAttributes, match="no mapping defined for search attribute Nope"):
        checked(Nope=json_payload("1"))


@pytest.mark.parametrize("name", ["WorkflowId", "TemporalWorkerDeployment"])
def test_name_of_the_server(name: str) -> None:
    with pytest.raises(InvalidSearchAttributes, match=f"{name} attribute can't be set in SearchAttributes"):
        checked(**{name: json_payload('"x"')})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(search_attributes_keys=1), "number of search attributes 2 exceeds limit 1"),
        (
            Limits(search_attribute_value_bytes=5),
            "attribute KEYWORD value size 6 exceeds size limit 5",
        ),
        (
            Limits(search_attributes_total_bytes=20),
            "total size of .* exceeds size limit 20",
        ),
    ],
)
def test_limits(limits: Limits, message: str) -> None:
    with pytest.raises(InvalidSearchAttributes, match=message):
        checked(limits, KEYWORD=json_payload('"abcd"'), INT=json_payload("1"))
