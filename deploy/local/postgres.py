"""One PostgreSQL server on this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from deploy.local import packages
from deploy.local.errors import PartFailed
from deploy.local.process import PartProcess

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
USER = "odradek"
DATABASE = "odradek"
# PostgreSQL refuses to run as root; the first of these that the system has runs it then.
_UNPRIVILEGED = ("postgres", "nobody")


class PostgresServer:
    """A server with one user and one database, both "odradek", that trusts every connection from this machine.

    Args:
        directory: An absolute path. Where the starter is root, everybody must be allowed to enter its parents.
        port: Where it listens.
    """

    def __init__(self, directory: Path, port: int) -> None:
        # SIGINT is its "fast" shutdown: it ends the connections that are open instead of waiting for them.
        self.process = PartProcess("PostgreSQL", directory, stop_signal=signal.SIGINT)
        self.port = port

    @property
    def dsn(self) -> str:
        """The URL of the database."""
        return self._url(DATABASE)

    def launch(self) -> None:
        """Start the server, on the data it left when it ran before; return at once. Raises PartFailed, PartMissing."""
        programs = packages.postgres()
        data = self.process.directory / "data"
        user = _user()
        if not (data / "PG_VERSION").is_file():
            self._initialise(programs, data, user)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            # Small: two cores, little memory.
            "shared_buffers": "32MB",
            "max_connections": 50,
            "max_wal_size": "256MB",
            "max_worker_processes": 2,
            "max_logical_replication_workers": 0,
            "autovacuum_max_workers": 1,
        }
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        self.process.start([str(programs / "postgres"), "-D", str(data), *arguments], user=user)

    def wait_until_ready(self) -> None:
        """Return once the server answers and has its database. Raises PartFailed when it does not."""
        self.process.wait_until(self._answers, START_TIMEOUT_S)
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if known is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def start(self) -> None:
        """`launch` and `wait_until_ready`."""
        self.launch()
        self.wait_until_ready()

    def stop(self) -> bool:
        """Stop the server, which ends its connections; whether it did so in good order."""
        return self.process.stop(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End the server by SIGKILL. What it committed is there after the next start."""
        self.process.kill()

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self, programs: Path, data: Path, user: str | None) -> None:
        """Make the data directory, under another name until it is whole."""
        directory = self.process.directory
        directory.mkdir(parents=True, exist_ok=True)
        part_way = directory / "data.part"
        shutil.rmtree(part_way, ignore_errors=True)
        part_way.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(directory, user, user)
            shutil.chown(part_way, user, user)
        names = ["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C"]
        done = subprocess.run(
            [programs / "initdb", "--pgdata", part_way, *names, "--no-instructions"],
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            hint = f" (the user {user} must be allowed to enter every folder above it)" if user else ""
            raise PartFailed(f"PostgreSQL could not make its data directory {data}{hint}:\n{done.stderr}")
        part_way.rename(data)


def _user() -> str | None:
    """Who is to run the server: None for the starter, another user where the starter is root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in _UNPRIVILEGED:
        if name in known:
            return name
    raise PartFailed("PostgreSQL refuses to run as root, and the system has no user postgres")
