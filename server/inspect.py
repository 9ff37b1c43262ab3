"""``odradek inspect``: what is in a database file, decoded. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from server.inspect_file import DatabaseFile

DUE = "due"
"""Shown beside the tables: what falls due when."""


@click.group()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def inspect(context: click.Context, file: Path) -> None:
    """Decode and print a database file. Read only; a server may be running on it."""
    context.obj = file


def _json_lines(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(command)


@contextmanager
def _opened(path: Path) -> Iterator[DatabaseFile]:
    from server.inspect_file import DatabaseFile
    from streams.avro import DecodeError
    from streams.runtime.database import DatabaseError

    try:
        with DatabaseFile(path) as file:
            yield file
    except DatabaseError as error:
        raise click.ClickException(str(error)) from None
    except DecodeError as error:
        raise click.ClickException(f"{path} holds what this version cannot read: {error}") from None


@inspect.command()
@click.option("--after", type=int, default=-1, help="Only records with a higher offset.")
@click.option("--limit", type=click.IntRange(min=1), help="No more records than this.")
@_json_lines
@click.pass_obj
def log(path: Path, after: int, limit: int | None, as_json: bool) -> None:
    """Print the records of the log."""
    from itertools import islice

    from server.inspect_json import plain

    with _opened(path) as file:
        for record in islice(file.records(after), limit):
            who = record.correlation
            shown = {
                "offset": record.offset,
                "time": _time(record.time_ms),
                "topic": record.topic,
                "partition": record.partition,
                "key": record.key,
                "type": type(record.body).__name__,
                "origin": {
                    "source": record.source,
                    "epoch": record.origin_epoch,
                    "offset": record.origin_offset,
                    "index": record.index,
                },
                "previous": {"offset": record.previous_offset, "index": record.previous_index},
                "correlation": None if who is None else plain(who),
                "body": plain(record.body),
            }
            if as_json:
                _line(shown)
            else:
                origin = f"{record.source}:{record.origin_offset}.{record.index}"
                title = f"{shown['topic']}/{record.partition} {_key(record.key)} {shown['type']}"
                _block(f"{record.offset} {shown['time']} {title} from {origin}", shown["body"])


@inspect.command()
@click.option("--table", help="Only this table.")
@click.option(
    "--key", default="", metavar="PREFIX", help="Only keys that begin like this, as they are shown."
)
@_json_lines
@click.pass_obj
def tables(path: Path, table: str | None, key: str, as_json: bool) -> None:
    """Print the rows of the tables, as of the last checkpoint."""
    with _opened(path) as file:
        names = [*file.tables, DUE]
        if table is not None and table not in names:
            raise click.ClickException(f"there is no table {table}; there are {', '.join(names)}")
        for name in names if table is None else [table]:
            for shown in _due_rows(file) if name == DUE else _rows(file, name):
                if not shown["key"].startswith(key):
                    continue
                if as_json:
                    _line(shown)
                else:
                    _block(f"{name} {shown['key']} {shown['kind']} {shown['id']}".rstrip(), shown["value"])


def _rows(file: DatabaseFile, table: str) -> Iterator[dict[str, Any]]:
    from server.inspect_json import plain

    for key, kind, id, value in file.rows(table):
        yield {"table": table, "key": _key(key), "kind": kind, "id": id, "value": plain(value, kind)}


def _due_rows(file: DatabaseFile) -> Iterator[dict[str, Any]]:
    for partition, key, due_ms, payload in file.due():
        value = {"time": _time(due_ms), "payload": payload}
        yield {"table": DUE, "key": _key(key), "kind": partition, "id": "", "value": value}


@inspect.command()
@click.argument("namespace")
@click.argument("workflow_id")
@click.option("--run", "run_id", default="", help="Another run than the current one.")
@_json_lines
@click.pass_obj
def workflow(path: Path, namespace: str, workflow_id: str, run_id: str, as_json: bool) -> None:
    """Print the state of a workflow and the events it follows from, as of the last record in the log."""
    from temporalio.api.history.v1 import HistoryEvent

    from server.inspect_json import encoded, plain

    with _opened(path) as file:
        run = file.run(namespace, workflow_id, run_id)
        for kind, id, part in run.entity.all_parts():
            value = plain(part, kind)
            if as_json:
                _line({"kind": kind, "id": id, "value": value})
            else:
                _block(f"state {kind} {id}".rstrip(), value)
        for event_id, data in run.events:
            event, stored = encoded(data, HistoryEvent), event_id <= run.stored_event_id
            if as_json:
                _line({"event": event, "stored": stored})
            else:
                _block(f"event {event_id}" + ("" if stored else ", from the tail of the log"), event)


@inspect.command("dead-letters")
@_json_lines
@click.pass_obj
def dead_letters(path: Path, as_json: bool) -> None:
    """Print the records that could not be applied, with the reason."""
    from server.inspect_json import plain
    from streams import avro
    from streams.record_types import BODY_TYPES

    with _opened(path) as file:
        for letter in file.dead_letters():
            shown = plain(letter)
            cls = BODY_TYPES.get(letter.type)
            if cls is not None:
                with suppress(avro.DecodeError):  # What could not be decoded then stays as it is.
                    shown["body"] = plain(avro.decode(cls, letter.body))
            if as_json:
                _line(shown)
            else:
                _block(f"{letter.offset} {letter.source} {_key(letter.key)} {letter.type}", shown)


@inspect.command()
@_json_lines
@click.pass_obj
def positions(path: Path, as_json: bool) -> None:
    """Print what the last checkpoint stands for, and how far the log goes beyond it."""
    from server.inspect_json import plain

    with _opened(path) as file:
        first, last = file.log_bounds()
        if as_json:
            _line({"log": {"first": first, "last": last}})
        else:
            click.echo(f"log: offsets {first} to {last}" if last >= first else "log: empty")
        for name, position in file.positions():
            shown = {"partition": name, "time": _time(position.now_ms), **plain(position)}
            if as_json:
                _line(shown)
            else:
                behind = max(last - position.offset, 0)
                _block(f"{name} at offset {position.offset}, {behind} before the end of the log", shown)


def _line(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def _block(title: str, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    click.echo(title)
    click.echo("\n".join(f"  {line}" for line in text.splitlines()))


def _key(key: str) -> str:
    """A key of a log or table as people read it."""
    return key.replace("\x1f", "/")


def _time(time_ms: int) -> str:
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
