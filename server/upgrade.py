"""``odradek upgrade``: by which logic version a cluster folds, who has which, and raising it once all members can."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from server.errors import StartupError
from server.options import config_option


@click.group()
def upgrade() -> None:
    """Finish the upgrade of a cluster to a new release."""


@upgrade.command()
@config_option
def status(config: Path | None) -> None:
    """Show the logic version of every partition and what each live member has; exits with 1 while one is behind."""
    from streams.kafka import upgrades
    from streams.runtime.logic import SUPPORTED_LOGIC_VERSION as NEWEST

    found = _asking(config, lambda there: there.status())
    click.echo(f"this release has logic versions {upgrades.versions_of_release()}")
    for topic, versions in found.in_force.items():
        click.echo(f"{topic}: {_in_force(versions)}")
    for member in found.members:
        click.echo(upgrades.described(member))
    if not found.members:
        click.echo("no member is running")
    behind, lacking = found.behind(NEWEST), found.lacking(NEWEST)
    if lacking:
        click.echo(f"version {NEWEST} waits for {', '.join(sorted({member.name for member in lacking}))}")
    elif behind:
        click.echo(f"version {NEWEST} can be made final: odradek upgrade finalize")
    if behind or lacking:
        raise SystemExit(1)
    click.echo(f"version {NEWEST} is in force everywhere")


@upgrade.command()
@config_option
@click.option(
    "--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds to wait for owners."
)
def finalize(config: Path | None, timeout_s: float) -> None:
    """Have the whole cluster fold by this release's newest logic from now on. There is no way back.

    Refused while a live member does not have it; a member of an older release that comes later cannot own a partition.
    """
    from streams.runtime.logic import SUPPORTED_LOGIC_VERSION as NEWEST

    raised = _asking(config, lambda there: there.finalize(NEWEST, timeout_s))
    for topic, number in raised:
        click.echo(f"{topic}/{number} is folded by logic version {NEWEST} now")
    if not raised:
        click.echo(f"version {NEWEST} is in force everywhere already")


def _asking(config: Path | None, ask: Callable[[Any], Any]) -> Any:
    from server.settings import load_settings
    from streams.avro import DecodeError
    from streams.kafka.admin import ClusterError
    from streams.kafka.offsets import ReadError
    from streams.kafka.upgrades import UpgradeRefusedError, Upgrades

    try:
        return ask(Upgrades(load_settings({}, config).kafka))
    except (StartupError, ClusterError, ReadError, DecodeError, UpgradeRefusedError) as error:
        raise click.ClickException(str(error)) from None


def _in_force(versions: Mapping[int, int | None]) -> str:
    counts = Counter(versions.values())
    return ", ".join(
        f"{'no checkpoint yet' if version is None else f'version {version}'} in {count} of {len(versions)} partitions"
        for version, count in sorted(counts.items(), key=lambda pair: -1 if pair[0] is None else pair[0])
    )
