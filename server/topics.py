"""``odradek topics``: the topics of the cluster, as they are, as they differ from the settings, and made so.

Where groups have configs on the brokers (KIP-848), those that the settings speak of go with them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from server.errors import StartupError
from server.options import config_option


@click.group()
def topics() -> None:
    """Create and check the topics of a cluster."""


@topics.command()
@config_option
def apply(config: Path | None) -> None:
    """Create what is missing and set configs that differ, of topics and of groups.

    Neither partitions nor replicas of a topic that is there are ever changed; exits with 1 where they differ.
    """
    _report(config, lambda cluster, groups: [*cluster.apply(), *groups.apply()], done=True)


@topics.command()
@config_option
def diff(config: Path | None) -> None:
    """Say what apply would do, and what it would not; exits with 1 unless that is nothing."""
    _report(config, lambda cluster, groups: [*cluster.differences(), *groups.differences()], done=False)


@topics.command()
@config_option
def describe(config: Path | None) -> None:
    """Show every topic as it is on the cluster."""
    from streams.kafka.admin import ClusterError
    from streams.kafka.topics import wanted_topics

    settings = _settings(config)
    try:
        found = _cluster(settings).describe()
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    for wanted in wanted_topics(settings):
        there = found.get(wanted.name)
        if there is None:
            click.echo(f"{wanted.topic}: missing")
            continue
        click.echo(f"{there.topic}: {_count(there.partitions, 'partition')}, replication {there.replication}")
        click.echo(f"  id {there.id}")
        for name in sorted(wanted.configs):
            click.echo(f"  {name}={there.configs.get(name, '')}")


def _report(config: Path | None, act: Callable[[Any, Any], list[Any]], *, done: bool) -> None:
    from streams.kafka.admin import ClusterError
    from streams.kafka.group_configs import GroupConfigs

    settings = _settings(config)
    cluster = _cluster(settings)
    try:
        differences = act(cluster, GroupConfigs(settings, cluster))
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    for difference in differences:
        if not difference.applicable:
            note = " (not changed: this takes a decision)"
        else:
            note = " (done)" if done else ""
        click.echo(f"{difference.topic} {difference.what}{note}")
    if not differences:
        click.echo("every topic is as the settings say")
    if any(not done or not difference.applicable for difference in differences):
        raise SystemExit(1)


def _settings(config: Path | None) -> Any:
    from server.settings import load_settings

    try:
        return load_settings({}, config).kafka
    except StartupError as error:
        raise click.ClickException(str(error)) from None


def _cluster(settings: Any) -> Any:
    from streams.kafka.admin import Cluster

    return Cluster(settings)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
