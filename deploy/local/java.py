"""How a part's Java process is started: small, and soon ready on a machine with few cores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local import jars, packages

# Compile hot code once and quickly: a part for tests uses half the CPU to start, and more for each request later.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1",)
_ARCHIVE = "classes.jsa"


def command(part: str, settings: Mapping[str, object], options: Sequence[str], *arguments: str) -> list[str]:
    """The command that runs `part` ("kafka" or "cassandra").

    Args:
        part: Names the jars.
        settings: System properties.
        options: Of Java.
        arguments: The main class and what it is given.

    Raises:
        PartMissing: When Java or the jars cannot be had.
    """
    return [
        *(str(packages.java()), "-cp", f"{jars.folder(part)}/*"),
        *("-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-XX:+PerfDisableSharedMem"),
        *options,
        *(f"-D{name}={value}" for name, value in settings.items()),
        *arguments,
    ]


def archive_options(part: str, directory: Path) -> list[str]:
    """Options by which runs share the classes they load, so that they start in half the time.

    The first run that ends in good order leaves an archive of its classes in its `directory`; `keep_archive` puts it
    beside the jars, where later runs find it. Java ignores one that another version of it made.
    """
    archive = jars.folder(part) / _ARCHIVE
    quiet = ["-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
    if archive.is_file():
        return [f"-XX:SharedArchiveFile={archive}", *quiet]
    return [f"-XX:ArchiveClassesAtExit={directory / _ARCHIVE}", *quiet]


def keep_archive(part: str, directory: Path) -> None:
    """Put the archive that a run left in `directory` beside the jars; nothing when it left none."""
    left = directory / _ARCHIVE
    if not left.is_file():
        return
    target = jars.folder(part) / _ARCHIVE
    # Under a name of its own first, since a start elsewhere may look for the archive at any moment.
    part_way = target.with_suffix(f".{os.getpid()}")
    shutil.copyfile(left, part_way)
    part_way.replace(target)
    left.unlink()
