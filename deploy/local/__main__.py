"""`python -m deploy.local up|demo|down|status|fetch`: Kafka, Cassandra and PostgreSQL, and the server on them."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from deploy.local import jars, packages
from deploy.local.cluster import DESCRIPTION, ClusterPorts, LocalCluster, existing
from deploy.local.errors import PartError
from deploy.local.process import PartProcess
from deploy.local.server import PROCESSES, ROLES

ROOT = Path(__file__).parents[2]
DEFAULT_PORT = 7233
_began_s = time.monotonic()

_directory = click.option(
    "--dir",
    "directory",
    required=True,
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Where data, logs, pids and ports are.",
)
_brokers = click.option(
    "--brokers", type=click.Choice(["1", "3"]), default="1", help="Kafka brokers; for a new directory."
)
_first_port = click.option(
    "--first-port", type=click.IntRange(1024, 65500), help="The first of up to 19; else free ones."
)


@click.group()
def main() -> None:
    """Kafka, Cassandra, PostgreSQL and the server, on 127.0.0.1 only."""


@main.command()
@_directory
@_brokers
@_first_port
@click.option("--serve", is_flag=True, help="Start the server too.")
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, help="The server's port.")
def up(directory: Path, brokers: str, first_port: int | None, serve: bool, port: int) -> None:
    """Start what does not run, and return once all of it answers."""
    with _alone(directory):
        cluster = _cluster(directory, int(brokers), first_port)
        if serve:
            cluster.server.require_ports(port)
        _start(cluster)
        if serve:
            _serve(cluster, port)
        _show(cluster)


@main.command()
@_directory
@_brokers
@_first_port
def demo(directory: Path, brokers: str, first_port: int | None) -> None:
    """Start what does not run, work the sample order of examples/demo on it, and stop everything."""
    with _alone(directory):
        cluster = _cluster(directory, int(brokers), first_port)
        try:
            _start(cluster)
            address = _serve(cluster, None)
            tell("the demo of `make demo`, on the cluster:")
            command = [sys.executable, "-m", "examples.demo", "--address", address]
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
            if code:
                tell(f"the demo failed with exit code {code}")
        finally:
            in_order = cluster.stop()
        tell("stopped in good order" if in_order else "stopped; what did not stop in time was killed")
    sys.exit(code or (0 if in_order else 1))


@main.command()
@_directory
def down(directory: Path) -> None:
    """Stop the server and the parts by their pids; the data stays."""
    with _alone(directory):
        cluster = existing(directory)
        if cluster is None or not any(process.pid for process in _all(cluster)):
            click.echo(f"nothing runs in {directory}")
        if cluster is not None and not cluster.stop():
            click.echo("what did not stop in time was killed", err=True)


@main.command()
def fetch() -> None:
    """Have every program and jar that the parts need, so that later starts need no network."""
    packages.require_all(with_maven=not jars.all_fetched())
    for part in jars.PARTS:
        jars.folder(part)


@main.command()
@_directory
def status(directory: Path) -> None:
    """Say what runs; exit 1 when a part does not."""
    cluster = existing(directory)
    if cluster is None:
        raise PartError(f"no cluster was started in {directory}")
    _show(cluster)
    if any(process.pid is None for process in cluster.processes):
        sys.exit(1)


def tell(text: str) -> None:
    """Print a step with the time since the start."""
    click.echo(f"{time.monotonic() - _began_s:6.2f} s  {text}")


def _cluster(directory: Path, brokers: int, first_port: int | None) -> LocalCluster:
    return existing(directory) or LocalCluster(directory, ClusterPorts.chosen(brokers, first_port))


def _start(cluster: LocalCluster) -> None:
    tell("starting Kafka, Cassandra and PostgreSQL")
    cluster.start()
    tell(f"they are up; described in {cluster.directory / DESCRIPTION}")


def _serve(cluster: LocalCluster, port: int | None) -> str:
    tell(f"topics, schemas, then {PROCESSES} processes each of {', '.join(ROLES)}")
    address = cluster.serve(port)
    tell(f"the server answers on {address}")
    return address


def _all(cluster: LocalCluster) -> list[PartProcess]:
    return [*cluster.server.processes, *cluster.processes]


def _show(cluster: LocalCluster) -> None:
    address = cluster.address
    for process in _all(cluster) if address else cluster.processes:
        state = f"process {process.pid}" if process.pid is not None else "does not run"
        click.echo(f"{process.name}: {state}, log {process.log_path}")
    click.echo(f"Kafka: {cluster.kafka.bootstrap_servers}")
    click.echo(f"Cassandra: 127.0.0.1:{cluster.cassandra.port}")
    click.echo(f"PostgreSQL: {cluster.postgres.dsn}")
    if address:
        click.echo(f"Settings: {cluster.server.settings}")
        click.echo(f"Server: {address}")


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No other of these commands works on the directory meanwhile. Raises PartError when one does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PartError(f"another command is at work on {directory}: wait for it, or end it") from None
        yield


def _ended(number: int, frame: FrameType | None) -> None:
    """Leave as after Ctrl-C, so that what was begun is undone."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)
    try:
        main()
    except PartError as error:
        sys.exit(str(error))
