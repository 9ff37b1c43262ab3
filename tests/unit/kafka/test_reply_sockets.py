"""Replies between processes of one machine (decision 0018)."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from streams.bodies import ReplyRecord
from streams.kafka import reply_sockets
from streams.kafka.reply_sockets import MESSAGE_MAX_BYTES, ReplySocket, ReplySockets, directory_of
from streams.kafka.settings import KafkaSettings

ADDRESS = "here-7233-0@3"


def reply(id: int, body: bytes = b"body", to: str = ADDRESS) -> ReplyRecord:
    return ReplyRecord(to, 7, id, body=body)


class Gateway:
    """Takes replies at a socket."""

    def __init__(self, directory: Path) -> None:
        self.got: list[ReplyRecord] = []
        self.socket = ReplySocket(directory, ADDRESS, self.got.append)

    @property
    def ids(self) -> list[int]:
        return [reply.call_id for reply in self.got]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 (readers of the loop reach it)
            await asyncio.sleep(0.001)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as path:
        (directory := Path(path) / "cluster").mkdir()
        yield directory


@pytest.fixture
async def gateway(directory: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(directory)
    yield gateway
    gateway.socket.close()


@pytest.fixture
def sockets(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplySockets]:
    """The sending side, which looks again for a gateway each time."""
    monkeypatch.setattr(reply_sockets, "RETRY_S", 0.0)
    sockets = ReplySockets(directory)
    yield sockets
    sockets.close()


async def test_replies_arrive_as_they_were_sent(gateway: Gateway, sockets: ReplySockets) -> None:
    sent = [reply(id, bytes(id * 100)) for id in range(200)]
    for one in sent:
        await until(lambda one=one: sockets.deliver(one))
    await until(lambda: len(gateway.got) == 200)
    assert gateway.got == sent


async def test_several_senders_reach_one_gateway(gateway: Gateway, directory: Path) -> None:
    senders = [ReplySockets(directory) for _ in range(3)]
    for id, sender in enumerate(senders):
        assert await asyncio.to_thread(sender.deliver, reply(id))
    await until(lambda: sorted(gateway.ids) == [0, 1, 2])
    for sender in senders:
        sender.close()


async def test_another_gateway_is_not_reached(gateway: Gateway, sockets: ReplySockets) -> None:
    assert not sockets.deliver(reply(1, to="there-7233-0@3"))
    assert sockets.deliver(reply(2))
    await until(lambda: gateway.ids == [2])


async def test_gateway_that_is_not_there_is_looked_for_again_after_a_while(directory: Path) -> None:
    sockets = ReplySockets(directory)
    assert not sockets.deliver(reply(1))
    gateway = Gateway(directory)
    assert not sockets.deliver(reply(2)), "not each time"
    sockets._absent_until_s[ADDRESS] = 0.0
    assert sockets.deliver(reply(3))
    await until(lambda: gateway.ids == [3])
    gateway.socket.close()
    sockets.close()


async def test_gateway_that_starts_anew_is_found(sockets: ReplySockets, directory: Path) -> None:
    gateway = Gateway(directory)
    assert sockets.deliver(reply(1))
    await until(lambda: gateway.ids == [1])
    gateway.socket.close()
    assert not sockets.deliver(reply(2)), "the topic has it"
    again = Gateway(directory)
    assert sockets.deliver(reply(3))
    await until(lambda: again.ids == [3])
    again.socket.close()


async def test_socket_that_a_crash_left_behind_is_replaced(directory: Path, sockets: ReplySockets) -> None:
    path = reply_sockets._path(directory, ADDRESS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(path)
    assert not sockets.deliver(reply(1))
    gateway = Gateway(directory)
    assert sockets.deliver(reply(2))
    await until(lambda: gateway.ids == [2])
    gateway.socket.close()


async def test_what_does_not_fit_goes_by_the_topic(gateway: Gateway, sockets: ReplySockets) -> None:
    ids = iter(range(10_000))
    sent = []
    while sockets.deliver(reply(id := next(ids), bytes(10_000))):  # The loop does not run: nobody reads.
        sent.append(id)
    assert sent
    await until(lambda: gateway.ids == sent)
    assert sockets.deliver(reply(10_000))
    await until(lambda: gateway.ids == [*sent, 10_000])


async def test_large_replies_go_by_the_topic(gateway: Gateway, sockets: ReplySockets) -> None:
    assert not sockets.deliver(reply(1, bytes(MESSAGE_MAX_BYTES)))
    assert sockets.deliver(reply(2, bytes(150_000)))
    await until(lambda: gateway.ids == [2])
    assert len(gateway.got[0].body) == 150_000


async def test_what_is_no_reply_is_counted(gateway: Gateway, sockets: ReplySockets) -> None:
    assert sockets.deliver(reply(1))
    sockets._connections[ADDRESS].send(b"\xff\xff")
    assert sockets.deliver(reply(2))
    await until(lambda: gateway.ids == [1, 2])
    assert gateway.socket.damaged == 1


async def test_last_gateway_leaves_nothing_behind(directory: Path) -> None:
    first, second = Gateway(directory), ReplySocket(directory, "there", lambda reply: None)
    assert len(os.listdir(directory)) == 2
    first.socket.close()
    assert len(os.listdir(directory)) == 1
    second.close()
    assert not os.listdir(directory.parent)
    Gateway(directory).socket.close()


def test_members_of_one_cluster_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = KafkaSettings(brokers="a:1", prefix="one")
    directory = directory_of(settings)
    assert directory is not None and directory == directory_of(settings)
    assert directory.stat().st_mode & 0o077 == 0
    assert directory_of(KafkaSettings(brokers="a:1", prefix="two")) != directory
    assert directory_of(KafkaSettings(brokers="b:1", prefix="one")) != directory


def test_directory_that_others_may_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = directory_of(KafkaSettings())
    assert directory is not None
    directory.parent.chmod(0o755)
    assert directory_of(KafkaSettings()) is None
    assert "open to others" in caplog.text


def test_without_a_place_for_sockets_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert directory_of(KafkaSettings()) is None
    assert "replies go through Kafka alone" in caplog.text
