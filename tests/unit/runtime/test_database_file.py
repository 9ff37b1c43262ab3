"""A database file is ours, of our format and ours alone, or the reason is told."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from streams.runtime.database_file import FORMAT_VERSION, DatabaseFile, DatabaseFileError, check_format


def refusal(path: Path) -> str:
    with pytest.raises(DatabaseFileError) as caught, DatabaseFile(path):
        pass
    return str(caught.value)


def test_a_new_file_is_marked_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with DatabaseFile(path):
        check_format(path)
    with DatabaseFile(path):
        pass
    assert path.stat().st_mode & 0o077 == 0


def test_the_mark_survives_the_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with DatabaseFile(path):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.close()
    with DatabaseFile(path):
        pass


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.touch()
    with DatabaseFile(path):
        pass
    check_format(path)


def test_a_missing_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no" / "o.db") == f"the directory {tmp_path}/no does not exist"


def test_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"cannot write {tmp_path}: Is a directory"


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("o" * 300)
    assert refusal(path) == f"cannot write {path}: File name too long"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_text("hello")
    assert refusal(path) == f"{path} is not an Odradek database"
    assert path.read_text() == "hello"


def test_a_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert refusal(path) == f"{path} is another program's SQLite database, not an Odradek one"


def test_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with DatabaseFile(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={FORMAT_VERSION + 1}")
    connection.close()
    assert refusal(path) == (
        f"{path} has format {FORMAT_VERSION + 1}, of a newer version of Odradek;"
        f" this one uses {FORMAT_VERSION}"
    )


def test_a_file_in_use_and_free_again_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    code = (
        "import sys, pathlib; from streams.runtime.database_file import DatabaseFile\n"
        "with DatabaseFile(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        assert refusal(path) == f"{path} is in use by another process"
        holder.kill()
    with DatabaseFile(path):
        pass
