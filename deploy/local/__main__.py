"""`python -m deploy.local up|down|status --dir DIR`: Kafka, Cassandra and PostgreSQL on this machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from deploy.local.cluster import DESCRIPTION, ClusterPorts, LocalCluster, existing
from deploy.local.errors import PartError

_directory = click.option(
    "--dir",
    "directory",
    required=True,
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Where data, logs, pids and ports are.",
)


@click.group()
def main() -> None:
    """Kafka, Cassandra and PostgreSQL on this machine, on 127.0.0.1 only."""


@main.command()
@_directory
@click.option(
    "--brokers", type=click.Choice(["1", "3"]), default="1", help="Kafka brokers; for a new directory."
)
@click.option(
    "--first-port", type=click.IntRange(1024, 65500), help="The first of up to nine; else free ones."
)
def up(directory: Path, brokers: str, first_port: int | None) -> None:
    """Start what does not run, and return once every part answers."""
    began_s = time.monotonic()
    ports = ClusterPorts.recorded(directory) or ClusterPorts.chosen(int(brokers), first_port)
    cluster = LocalCluster(directory, ports)
    cluster.start()
    click.echo(f"up after {time.monotonic() - began_s:.1f} s; described in {directory / DESCRIPTION}")
    _show(cluster)


@main.command()
@_directory
def down(directory: Path) -> None:
    """Stop the parts by their pids; the data stays."""
    if not existing(directory).stop():
        click.echo("a part did not stop in time and was killed", err=True)


@main.command()
@_directory
def status(directory: Path) -> None:
    """Say what runs; exit 1 when a part does not."""
    cluster = existing(directory)
    _show(cluster)
    if any(process.pid is None for process in cluster.processes):
        sys.exit(1)


def _show(cluster: LocalCluster) -> None:
    for process in cluster.processes:
        state = f"process {process.pid}" if process.pid is not None else "does not run"
        click.echo(f"{process.name}: {state}, log {process.log_path}")
    click.echo(f"Kafka: {cluster.kafka.bootstrap_servers}")
    click.echo(f"Cassandra: 127.0.0.1:{cluster.cassandra.port}")
    click.echo(f"PostgreSQL: {cluster.postgres.dsn}")


if __name__ == "__main__":
    try:
        main()
    except PartError as error:
        sys.exit(str(error))
