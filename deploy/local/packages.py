"""The system's programs that the parts need: found, or installed where this process may."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from deploy.local.errors import PartMissing

_JAVA_HOMES = "/usr/lib/jvm/*17*"
_POSTGRES_HOMES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")

_LOCK_TIMEOUT_S = 120


def require_all(*, with_maven: bool) -> None:
    """Return once every program is there that the parts need; `with_maven` when jars are still to be fetched.

    Raises:
        PartMissing: When some are not and cannot be installed; with all their packages, in one sentence.
    """
    needs = [_JAVA, *([_MAVEN] if with_maven else []), _POSTGRES]
    missing = [need for need in needs if need.find() is None]
    if not missing:
        return
    why_not = _install([need.package for need in missing])
    missing = [need for need in missing if need.find() is None]
    if missing:
        raise PartMissing(_sentence(missing, why_not))


@functools.cache
def java() -> Path:
    """The `java` of version 17, which Cassandra 5.0 insists on.

    Raises:
        PartMissing: When there is none and none can be installed.
    """
    return _required(_JAVA)


def maven() -> Path:
    """The program `mvn`. Raises PartMissing when there is none and none can be installed."""
    return _required(_MAVEN)


def postgres() -> Path:
    """The folder of PostgreSQL's programs, the newest. Raises PartMissing when there is none to be had."""
    return _required(_POSTGRES)


def _required(need: _Need) -> Path:
    found = need.find()
    if found is None:
        why_not = _install([need.package])
        found = need.find()
        if found is None:
            raise PartMissing(_sentence([need], why_not))
    return found


def _sentence(missing: Sequence[_Need], why_not: str) -> str:
    names = " and ".join(need.what for need in missing)
    packages = " ".join(need.package for need in missing)
    hints = "".join(f", {need.hint}" for need in missing if need.hint)
    return (
        f"the real parts need {names}, which this machine lacks: install the Debian packages {packages}, "
        f"as root{hints} ({why_not or 'they were installed, and it is not there all the same'})"
    )


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


def _find_maven() -> Path | None:
    found = shutil.which("mvn")
    return None if found is None else Path(found)


def _install(packages: Sequence[str]) -> str:
    """Install Debian packages, which only root can. Returns why they were not, empty when they were."""
    if os.geteuid() != 0:
        return "only root can have them installed"
    if shutil.which("apt-get") is None:
        return "there is no apt-get to install them with"
    print(f"installing the Debian packages {' '.join(packages)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        command = ["apt-get", "-qq", "-o", f"DPkg::Lock::Timeout={_LOCK_TIMEOUT_S}", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())[-500:]
            return f"apt-get {arguments[0]} failed: {said}"
    return ""


class _Need(NamedTuple):
    """A program: what it is called, the Debian package that has it, and where it is found."""

    what: str
    package: str
    find: Callable[[], Path | None]
    hint: str = ""


_JAVA = _Need("Java 17", "openjdk-17-jre-headless", _find_java, "or set JAVA_HOME")
_MAVEN = _Need("Maven (mvn)", "maven", _find_maven)
_POSTGRES = _Need("PostgreSQL's server programs", "postgresql", _find_postgres)
