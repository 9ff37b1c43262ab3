"""``odradek stores``: the schemas of the stores behind a cluster."""

from pathlib import Path

import click

from server.errors import StartupError
from server.options import config_option


@click.group()
def stores() -> None:
    """The stores behind a cluster: Cassandra and PostgreSQL."""


@stores.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
def migrate(config: Path | None, dry_run: bool) -> None:
    """Create the keyspace and the schema, or bring them to this release's version.

    It may be repeated. Members of a cluster go on while it runs. Run it from one place at a time.
    """
    from server.settings import load_settings
    from streams.stores.cassandra_migrations import migrate_cassandra
    from streams.stores.damage import StoreError
    from streams.stores.postgres_migrations import migrate_postgres

    try:
        settings = load_settings({}, config)
        migrate_cassandra(settings.cassandra, dry_run=dry_run, tell=click.echo)
        migrate_postgres(settings.postgres, dry_run=dry_run, tell=click.echo)
    except (StartupError, StoreError) as error:
        raise click.ClickException(str(error)) from None
