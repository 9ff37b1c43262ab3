"""One PostgreSQL server on this machine."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from deploy.local import packages
from deploy.local.errors import PartFailed
from deploy.local.ports import require_free
from deploy.local.process import PartProcess
from deploy.local.system import has_ended

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60
USER = "odradek"
DATABASE = "odradek"
# PostgreSQL refuses to run as root; the first of these that the system has runs it then.
_UNPRIVILEGED = ("postgres", "nobody")


class PostgresServer:
    """A server with one user and one database, both "odradek", that trusts every connection from this machine.

    Args:
        directory: An absolute path. The server runs as an unprivileged user where its starter is root; its data is in
            the system's temporary directory then if that user may not enter `directory`.
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

    def dsn_of_schema(self, schema: str) -> str:
        """The URL by which connections find their tables in `schema`, and make them there."""
        return f"{self.dsn}?options=-csearch_path%3D{schema}"

    @property
    def is_running(self) -> bool:
        """Whether the server's process is there."""
        return self.process.pid is not None

    def launch(self) -> None:
        """Start the server if it does not run, on the data of its last run; return at once.

        Raises:
            PartError: When somebody else has its port.
            PartFailed: When its data directory cannot be made.
            PartMissing: When PostgreSQL's programs cannot be had.
        """
        if self.process.pid is not None:
            return
        require_free(self.port)
        programs = packages.postgres()
        user = _user()
        data = self._data(user)
        if not (data / "PG_VERSION").is_file():
            self._initialise(programs, data, user)
        _drop_lock_of_ended_server(data)
        settings = {
            # Ours, which PostgreSQL ignores: it names the directory in the command line wherever the data is.
            "odradek.directory": self.process.directory,
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

    def _data(self, user: str | None) -> Path:
        """The data directory; its parent is there, and `user` may enter it."""
        directory = self.process.directory
        directory.mkdir(parents=True, exist_ok=True)
        if user is None:
            return directory / "data"
        if subprocess.run(
            ["test", "-x", directory], user=user, group=user, extra_groups=[], check=False
        ).returncode:
            name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
            directory = Path(tempfile.gettempdir(), f"odradek-postgres-{name}")
            directory.mkdir(exist_ok=True)
        shutil.chown(directory, user, user)
        return directory / "data"

    def _initialise(self, programs: Path, data: Path, user: str | None) -> None:
        """Make the data directory, under another name until it is whole."""
        part_way = data.with_suffix(".part")
        shutil.rmtree(part_way, ignore_errors=True)
        part_way.mkdir(mode=0o700)
        if user is not None:
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
            raise PartFailed(f"PostgreSQL could not make its data directory {data}:\n{done.stderr}")
        part_way.rename(data)


def _drop_lock_of_ended_server(data: Path) -> None:
    """Remove the lock file of a killed server that nobody has collected yet: PostgreSQL thinks that it runs."""
    lock = data / "postmaster.pid"
    try:
        holder = int(lock.read_text().split(maxsplit=1)[0])
    except (FileNotFoundError, IndexError, ValueError):
        return
    if has_ended(holder):
        lock.unlink()


def _user() -> str | None:
    """Who is to run the server: None for the starter, another user where the starter is root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in _UNPRIVILEGED:
        if name in known:
            return name
    raise PartFailed("PostgreSQL refuses to run as root, and the system has no user postgres")
