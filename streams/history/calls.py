"""Which function handles which record, call or worker command: concerns register theirs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.history.commands import Commands
    from streams.history.step import Step

CallHandler = Callable[["Step", Any], None]
"""Decides on an API call or another record: handler(step, body)."""

CommandHandler = Callable[["Commands", Any], None]
"""Decides on one worker command: handler(commands, attributes)."""

CALLS: dict[str, CallHandler] = {}
BODIES: dict[type, CallHandler] = {}
COMMANDS: dict[int, tuple[str, CommandHandler]] = {}


def handles_call(*methods: str) -> Callable[[CallHandler], CallHandler]:
    """Register the handler of API methods."""

    def register(function: CallHandler) -> CallHandler:
        for method in methods:
            assert method not in CALLS, method
            CALLS[method] = function
        return function

    return register


def handles_body(cls: type) -> Callable[[CallHandler], CallHandler]:
    """Register the handler of a record body."""

    def register(function: CallHandler) -> CallHandler:
        assert cls not in BODIES, cls
        BODIES[cls] = function
        return function

    return register


def handles_command(command_type: int, attributes_field: str) -> Callable[[CommandHandler], CommandHandler]:
    """Register the handler of a worker command, whose attributes are in `attributes_field` of Command."""

    def register(function: CommandHandler) -> CommandHandler:
        assert command_type not in COMMANDS, command_type
        COMMANDS[command_type] = (attributes_field, function)
        return function

    return register
