"""The ``odradek`` command. What a subcommand needs is imported when it runs."""

import json
from pathlib import Path
from typing import Any

import click

from server.errors import StartupError
from server.inspect import inspect
from server.options import config_option
from server.stores_command import stores
from server.topics import topics
from server.upgrade import upgrade
from server.verify import verify

LOG_LEVELS = ("debug", "info", "warn", "error", "never")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Durable execution behind Temporal's public API."""


main.add_command(inspect)
main.add_command(topics)
main.add_command(stores)
main.add_command(upgrade)
main.add_command(verify)


@main.command()
def version() -> None:
    """Print the version."""
    from importlib import metadata

    click.echo(f"odradek {metadata.version('odradek-server')}")


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not of the form {parameter.metavar}")
        pairs[key] = text
    return pairs


def _json_pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key, text in _pairs(context, parameter, values).items():
        try:
            pairs[key] = json.loads(text)
        except ValueError:
            raise click.BadParameter(
                f"{text!r}, given for {key}, is not JSON; a text goes in double quotes"
            ) from None
    return pairs


class _CannotStart(click.ClickException):
    """Tells a supervisor not to start the process again (server.supervisor.CANNOT_START)."""

    exit_code = 78


def _roles(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [role.strip() for role in value.split(",")]


@main.command()
@click.option("--ip", help="IP address to listen on.  [default: 127.0.0.1]")
@click.option("-p", "--port", type=int, help="gRPC port, 0 for a free one.  [default: 7233]")
@click.option(
    "-f",
    "--db-filename",
    type=click.Path(path_type=Path),
    help="SQLite file that keeps everything.  [default: a temporary one]",
)
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Namespace to have beside 'default'.")
@click.option(
    "--search-attribute",
    "search_attributes",
    multiple=True,
    metavar="NAME=TYPE",
    callback=_pairs,
    help="Search attribute to have: Text, Keyword, Int, Double, Bool, Datetime or KeywordList.",
)
@click.option(
    "--dynamic-config-value",
    "dynamic_config",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_json_pairs,
    help="Limit to change, by the real server's key; the value is JSON.",
)
@click.option("--metrics-port", type=int, help="Port of /metrics.  [default: a free one]")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="[default: warn]")
@click.option("--log-format", type=click.Choice(("text", "json")), help="[default: text]")
@config_option
def dev(config: Path | None, log_level: str | None, log_format: str | None, **flags: Any) -> None:
    """Run the embedded server: one process over one SQLite file."""
    import gc

    gc.disable()  # what is imported stays: looking for garbage in it only costs start-up time
    from server.settings import load_settings

    log = {"level": log_level, "format": log_format}
    try:
        settings = load_settings({"dev": _given(flags), "log": _given(log)}, config)
        from server.logs import configure_logs

        configure_logs(settings.log.level, settings.log.format)
        from server.api_modules import leave_out_sdk

        leave_out_sdk()
        from server.dev import run
        from server.embedded import start_embedded

        code = run(settings.dev, start_embedded)
    except StartupError as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(code)


@main.command()
@click.option(
    "--roles", callback=_roles, help="Some of gateway,history,matching,timer,materializer.  [default: all]"
)
@click.option("--processes", type=int, help="Processes to run, each with these roles.  [default: 1]")
@click.option("--ip", help="IP address to listen on.  [default: 127.0.0.1]")
@click.option("-p", "--port", type=int, help="gRPC port; processes share it.  [default: 7233]")
@click.option(
    "--metrics-port", type=int, help="Port of /metrics, /ready and /live; one a process from it on."
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="[default: warn]")
@click.option("--log-format", type=click.Choice(("text", "json")), help="[default: text]")
@click.option("--process", type=int, hidden=True)
@config_option
def serve(
    config: Path | None, log_level: str | None, log_format: str | None, process: int | None, **flags: Any
) -> None:
    """Run a member of a cluster on Kafka: some roles, in one or more processes."""
    import gc
    import sys

    gc.disable()
    from server.settings import load_settings

    log = {"level": log_level, "format": log_format}
    try:
        settings = load_settings({"serve": _given(flags), "log": _given(log)}, config)
        from server.logs import configure_logs

        configure_logs(settings.log.level, settings.log.format)
        processes = settings.serve.processes
        if processes > 1 and process is None:
            from server.supervisor import check_shared_port, supervise

            if "gateway" in settings.serve.roles:
                check_shared_port(settings.serve.ip, settings.serve.port)
            code = supervise(sys.argv[1:], processes)
        else:
            from server.api_modules import leave_out_sdk

            leave_out_sdk()
            from server.serve import run

            code = run(settings, process or 0)
    except StartupError as error:
        raise (click.ClickException if process is None else _CannotStart)(str(error)) from None
    raise SystemExit(code)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value not in (None, (), {})}


if __name__ == "__main__":
    main()
