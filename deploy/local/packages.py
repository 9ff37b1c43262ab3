"""The system's programs that the parts need: found, or installed where this process may."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.local.errors import PartMissing

_JAVA_HOMES = "/usr/lib/jvm/*17*"
_POSTGRES_HOMES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")


@functools.cache
def java() -> Path:
    """The `java` of version 17, which Cassandra 5.0 insists on.

    Raises:
        PartMissing: When there is none and none can be installed.
    """
    found = _find_java()
    if found is None and _install("openjdk-17-jre-headless"):
        found = _find_java()
    if found is None:
        raise PartMissing(
            "Kafka and Cassandra need Java 17: install openjdk-17-jre-headless, or set JAVA_HOME"
        )
    return found


def maven() -> Path:
    """The program `mvn`. Raises PartMissing when there is none and none can be installed."""
    found = shutil.which("mvn")
    if found is None and _install("maven"):
        found = shutil.which("mvn")
    if found is None:
        raise PartMissing(
            "the jars of Kafka and Cassandra are fetched by Maven: install maven (the program mvn)"
        )
    return Path(found)


def postgres() -> Path:
    """The folder of PostgreSQL's programs, the newest. Raises PartMissing when there is none to be had."""
    found = _find_postgres()
    if found is None and _install("postgresql"):
        found = _find_postgres()
    if found is None:
        raise PartMissing("PostgreSQL's server programs are missing: install the package postgresql")
    return found


def _find_java() -> Path | None:
    candidates = [Path(home, "bin/java") for home in (os.environ.get("JAVA_HOME"),) if home]
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path))
    candidates += sorted(path / "bin/java" for path in Path("/").glob(_JAVA_HOMES.lstrip("/")))
    return next((path for path in candidates if _is_java_17(path)), None)


def _is_java_17(path: Path) -> bool:
    if not path.is_file():
        return False
    answer = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)
    return ' version "17' in answer.stderr


def _find_postgres() -> Path | None:
    folders = [folder for pattern in _POSTGRES_HOMES for folder in Path("/").glob(pattern.lstrip("/"))]
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    whole = [
        folder for folder in folders if (folder / "postgres").is_file() and (folder / "initdb").is_file()
    ]
    return max(whole, key=_postgres_version, default=None)


def _postgres_version(folder: Path) -> int:
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[2].split(".")[0])


def _install(package: str) -> bool:
    """Install a Debian package, which only root can; whether that was tried and worked."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    print(f"installing the Debian package {package}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", package]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            return False
    return True
