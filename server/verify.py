"""``odradek verify``: folds the whole log again and compares. What it needs is imported when it runs."""

import tempfile
from pathlib import Path

import click

from server.errors import StartupError
from server.options import config_option


@click.command()
@config_option
@click.option(
    "--stores/--no-stores", "with_stores", default=True, help="Whether stores are compared as well."
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="State directory of a member that does not run, to be compared as well.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the state of the refold is meanwhile.  [default: the system's for temporary files]",
)
def verify(config: Path | None, with_stores: bool, states: tuple[Path, ...], directory: Path | None) -> None:
    """Fold the whole log again, and compare tables, topics and stores with what comes of it.

    This takes a log from which nothing was deleted: kafka.delete_records=false from the beginning on. Tables are
    compared as of their last checkpoint, so members may run meanwhile; stores while nothing is on its way to them.
    Exits with 1 when something differs.
    """
    from server.settings import load_settings
    from server.verification import Verification
    from streams.kafka.admin import ClusterError
    from streams.kafka.offsets import ReadError
    from streams.kafka.refold import RefoldError
    from streams.kafka.tail import TailError
    from streams.runtime.logic import UnsupportedLogicError
    from streams.runtime.partition import PartitionHaltedError
    from streams.runtime.tables import StorageError
    from streams.runtime.takeover import TakeoverRefusedError
    from streams.stores.damage import StoreError

    refusals = (
        *(StartupError, ClusterError, ReadError, TailError, TakeoverRefusedError, RefoldError),
        *(PartitionHaltedError, UnsupportedLogicError, StorageError, StoreError),
    )
    count = 0
    try:
        settings = load_settings({}, config)
        with tempfile.TemporaryDirectory(prefix="odradek-verify-", dir=directory) as folder:
            verification = Verification(settings, Path(folder), states)
            try:
                parts = [verification.tables, verification.topics]
                for part in [*parts, verification.stores] if with_stores else parts:
                    for difference in part():
                        click.echo(difference)
                        count += 1
            finally:
                verification.close()
    except refusals as error:
        raise click.ClickException(str(error)) from None
    if count:
        click.echo(f"{count} differences")
        raise SystemExit(1)
    click.echo("everything is what the log says")
