"""One stream of logs, whoever writes them."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from server.logs import configure_logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def written(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_is_one_object_a_line() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream)
    structlog.get_logger().info("started", port=7233)
    (line,) = written(stream)
    assert line["event"] == "started"
    assert line["port"] == 7233
    assert line["level"] == "info"
    assert str(line["timestamp"]).endswith("Z")


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    configure_logs("info", "text", stream)
    structlog.get_logger().warning("blob is large", size_bytes=5)
    assert "blob is large" in stream.getvalue()
    assert "size_bytes=5" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_level_holds_for_both_kinds_of_logger() -> None:
    stream = io.StringIO()
    configure_logs("error", "json", stream)
    structlog.get_logger().warning("not this")
    logging.getLogger("grpc").warning("nor this")
    structlog.get_logger().error("this")
    logging.getLogger("grpc").error("and this")
    assert [line["event"] for line in written(stream)] == ["this", "and this"]


def test_never_is_silent() -> None:
    stream = io.StringIO()
    configure_logs("never", "json", stream)
    structlog.get_logger().critical("not this")
    logging.getLogger("grpc").critical("nor this")
    assert stream.getvalue() == ""


def test_the_standard_library_and_warnings_are_routed() -> None:
    stream = io.StringIO()
    configure_logs("warn", "json", stream)
    logging.getLogger("grpc.aio").warning("call of %s failed", "x", extra={"code": 5})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old thing", UserWarning, stacklevel=1)
    first, second = written(stream)
    assert first["event"] == "call of x failed"
    assert first["logger"] == "grpc.aio"
    assert first["code"] == 5
    assert "old thing" in str(second["event"])
    assert second["logger"] == "py.warnings"


def test_an_exception_keeps_its_traceback() -> None:
    stream = io.StringIO()
    configure_logs("error", "json", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("fold stopped")
    (line,) = written(stream)
    assert "broken" in json.dumps(line["exception"])
