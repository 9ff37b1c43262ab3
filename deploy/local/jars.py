"""The jars of Kafka and Cassandra, from Maven Central, at the versions pinned in the `*.pom.xml` beside this file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.local import packages
from deploy.local.errors import PartMissing

_HERE = Path(__file__).parent
PARTS = ("kafka", "cassandra")
CACHE = _HERE.parent.parent / ".cache" / "deploy"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def all_fetched() -> bool:
    """Whether `folder` gives the jars of every part without fetching them."""
    return all(_target(part).is_dir() for part in PARTS)


def folder(part: str) -> Path:
    """The folder with every jar of `part` ("kafka" or "cassandra"), fetched when it is not there yet.

    Raises:
        PartMissing: When Maven or Java is missing, or Maven cannot fetch; with what it said.
    """
    target = _target(part)
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{part}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _fetch(part, target)
    return target


def _pom(part: str) -> Path:
    return _HERE / f"{part}.pom.xml"


def _target(part: str) -> Path:
    return CACHE / f"{part}-{hashlib.sha256(_pom(part).read_bytes()).hexdigest()[:12]}"


def _fetch(part: str, target: Path) -> None:
    java = packages.java()
    command = [
        str(packages.maven()),
        "-q",
        "-B",
        "-ntp",
        "-f",
        str(_pom(part)),
        _COPY,
        "-DincludeScope=runtime",
    ]
    print(f"fetching the jars of {part}", file=sys.stderr, flush=True)
    # Under another name until they are all there, so that a fetch cut short is never taken for a whole one.
    part_way = target.with_suffix(".part")
    shutil.rmtree(part_way, ignore_errors=True)
    done = subprocess.run(
        [*command, f"-DoutputDirectory={part_way}"],
        env={**os.environ, "JAVA_HOME": str(java.resolve().parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PartMissing(f"Maven could not fetch the jars of {part}:\n{(done.stdout + done.stderr)[-3000:]}")
    part_way.rename(target)
