"""Page tokens come back as they were given out, or are refused."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import page_tokens
from gateway.errors import INVALID_ARGUMENT, ApiError
from gateway.page_tokens import HistoryPage, ListPage, ReversePage

RUN = str(uuid.UUID(int=7))
TOKENS = [
    HistoryPage(RUN, 3, 2, open=True),
    HistoryPage(RUN, 1, 900, open=True, fixed=True, pending=True),
    ReversePage(RUN, 5),
    ListPage("name"),
]


@pytest.mark.parametrize("token", TOKENS)
def test_token_comes_back(token: HistoryPage | ReversePage | ListPage) -> None:
    assert page_tokens.decode(type(token), page_tokens.encode(token)) == token


@pytest.mark.parametrize("token", TOKENS[:2])
def test_token_of_another_kind_is_refused(token: HistoryPage) -> None:
    with pytest.raises(ApiError):
        page_tokens.decode(ReversePage, page_tokens.encode(token))


@pytest.mark.parametrize(
    "token",
    [
        HistoryPage("not-a-run", 1, 2, open=False),
        HistoryPage(RUN, 0, 2, open=False),
        HistoryPage(RUN, -1, 2, open=False),
        HistoryPage(RUN, 1, 2**60, open=False),
    ],
)
def test_token_that_was_never_given_out_is_refused(token: HistoryPage) -> None:
    with pytest.raises(ApiError) as error:
        page_tokens.decode(HistoryPage, msgspec.msgpack.encode(token))
    assert error.value.code == INVALID_ARGUMENT


@given(st.binary(min_size=1, max_size=100))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as error:
        page_tokens.decode(HistoryPage, data)
    assert error.value.message == "Invalid NextPageToken."
