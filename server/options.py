"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """`--config`: the file of settings, also from the environment's ODRADEK_CONFIG."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="ODRADEK_CONFIG",
        help="TOML or YAML file of settings, which flags and the environment override.",
    )(command)
