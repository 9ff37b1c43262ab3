"""The real server on Cassandra, with visibility on PostgreSQL: built from its module, schemas made by its own tools.

python -m benchmarks.peer.cassandra install
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peer.peer import CACHE, PeerError, build

VERSION = "v1.31.2"
SOURCE = Path(__file__).parent / "server"
HISTORY_SHARDS = 4
PORTS = 7
"""How many ports it takes beside that of its frontend."""


def installed_binary() -> Path:
    """Where `install` puts the server; one directory a version."""
    return CACHE / f"server-{VERSION}" / "server"


def install() -> Path:
    """Build the server unless it is there already, and return its path.

    Raises PeerError when there is no Go toolchain or the build fails.
    """
    binary = installed_binary()
    what = f"go.temporal.io/server@{VERSION}"
    return build(binary, what, ["go", "build", "-o", str(binary), "."], folder=SOURCE)


def make_schemas(*, keyspace: str, cassandra_port: int, database: str, postgres_port: int, user: str) -> None:
    """Make the keyspace and the tables of visibility; the database is there. Raises PeerError."""
    cassandra = ("cassandra", "--ep", "127.0.0.1", "--port", str(cassandra_port), "--keyspace", keyspace)
    postgres = (
        *("sql", "--plugin", "postgres12", "--ep", "127.0.0.1", "--port", str(postgres_port)),
        *("--user", user, "--database", database),
    )
    _tool(*cassandra, "create-keyspace", "--keyspace", keyspace, "--replication-factor", "1")
    _tool(*cassandra, "setup-schema", "--version", "0.0")
    _tool(*cassandra, "update-schema", "--schema-name", "cassandra/temporal")
    _tool(*postgres, "setup-schema", "--version", "0.0")
    _tool(*postgres, "update-schema", "--schema-name", "postgresql/v12/visibility")


def _tool(*arguments: str) -> None:
    environment = {**os.environ, "LOG_LEVEL": "warn"}
    command = [str(install()), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PeerError(f"{' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def write_config(
    path: Path,
    *,
    port: int,
    first_port: int,
    keyspace: str,
    cassandra_port: int,
    database: str,
    postgres_port: int,
    user: str,
) -> None:
    """Write its configuration: all services in one process on loopback, the rest as it comes.

    The frontend listens on `port`, everything else on the PORTS ports from `first_port` on.
    """
    ports = iter(range(first_port, first_port + PORTS))
    services = {
        name: {
            "rpc": {
                "grpcPort": port if name == "frontend" else next(ports),
                "membershipPort": next(ports),
                "bindOnLocalHost": True,
            }
        }
        for name in ("frontend", "matching", "history", "worker")
    }
    sql = {
        "pluginName": "postgres12",
        "databaseName": database,
        "connectAddr": f"127.0.0.1:{postgres_port}",
        "connectProtocol": "tcp",
        "user": user,
        "maxConns": 10,
        "maxIdleConns": 10,
        "maxConnLifetime": "1h",
    }
    config = {
        "log": {"stdout": True, "level": "error"},
        "persistence": {
            "defaultStore": "cassandra",
            "visibilityStore": "postgres",
            "numHistoryShards": HISTORY_SHARDS,
            "datastores": {
                "cassandra": {
                    "cassandra": {"hosts": "127.0.0.1", "port": cassandra_port, "keyspace": keyspace}
                },
                "postgres": {"sql": sql},
            },
        },
        "global": {"membership": {"maxJoinDuration": "30s", "broadcastAddress": "127.0.0.1"}},
        "services": services,
        "clusterMetadata": {
            "enableGlobalNamespace": False,
            "failoverVersionIncrement": 10,
            "masterClusterName": "active",
            "currentClusterName": "active",
            "clusterInformation": {
                "active": {
                    "enabled": True,
                    "initialFailoverVersion": 1,
                    "rpcName": "frontend",
                    "rpcAddress": f"127.0.0.1:{port}",
                }
            },
        },
        "dcRedirectionPolicy": {"policy": "noop"},
        "publicClient": {"hostPort": f"127.0.0.1:{port}"},
    }
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML


def main() -> None:
    """The command line: `install`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["install"])
    parser.parse_args()
    try:
        print(install())
    except PeerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
