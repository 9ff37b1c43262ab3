import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.history.v1 import History, HistoryEvent

from streams.stores.event_blob import join_events, split_events

EVENT_BYTES = st.one_of(
    st.binary(max_size=40), st.sampled_from([127, 128, 16383, 16384, 2_100_000]).map(bytes)
)


@given(st.lists(EVENT_BYTES, max_size=6))
def test_splitting_undoes_joining(events: list[bytes]) -> None:
    assert split_events(join_events(events)) == events


@given(st.lists(st.integers(1, 2**40), max_size=5))
def test_a_blob_is_a_history_message(ids: list[int]) -> None:
    events = [HistoryEvent(event_id=event_id).SerializeToString() for event_id in ids]
    assert [event.event_id for event in History.FromString(join_events(events)).events] == ids


def test_concatenated_blobs_are_one_history() -> None:
    assert split_events(join_events([b"a", b""]) + join_events([b"b"])) == [b"a", b"", b"b"]


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_split_without_loss(blob: bytes) -> None:
    try:
        events = split_events(blob)
    except ValueError:
        return
    assert sum(map(len, events)) < len(blob) or blob == b""


@pytest.mark.parametrize("blob", [b"\x12\x00", b"\x0a", b"\x0a\x05abc", b"\x0a" + b"\xff" * 11])
def test_a_broken_blob_raises(blob: bytes) -> None:
    with pytest.raises(ValueError, match="event blob"):
        split_events(blob)
