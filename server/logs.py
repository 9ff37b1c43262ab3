"""Structured logs on standard error, with the standard library's logging and warnings routed into them."""

import logging
import sys
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "never": logging.CRITICAL,
}

LogFormat = Literal["text", "json"]
"""Lines for people, or one object a line."""

_configured: list[LogFormat] = ["text"]


def configure_logs(level: str, form: LogFormat, stream: TextIO | None = None) -> None:
    """Sends all logs of the process to ``stream`` (standard error unless given).

    ``level`` is a key of :data:`LEVELS`.
    Calling it again replaces what was set before.
    """
    _configured[:] = [form]
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    closing: list[Processor] = [_drop] if level == "never" else _closing_processors(form, stream)
    structlog.configure(
        processors=[*shared, structlog.processors.StackInfoRenderer(), *closing],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *closing],
        )
    )
    if level == "never":
        handler = logging.NullHandler()
    logging.basicConfig(handlers=[handler], level=LEVELS[level], force=True)
    logging.captureWarnings(True)


def log_format() -> LogFormat:
    """The format in which logs are written, for libraries that write theirs themselves."""
    return _configured[0]


def _drop(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    raise structlog.DropEvent


def _closing_processors(form: str, stream: TextIO) -> list[Processor]:
    if form == "json":
        return [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=0)]
