"""A part's process: started apart from its starter, found again by the pid recorded in its directory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.local.errors import PartError, PartFailed
from deploy.local.system import command_line, has_ended, processes

LOG_LINES = 30
POLL_INTERVAL_S = 0.05
_SETTINGS = "ODRADEK_"


class PartProcess:
    """The process of one part, whose files are all below `directory`.

    It lives in a session of its own, so that it outlives whoever started it, and Ctrl-C reaches only the starter. The
    pid is in the file `pid`; it counts only while that process names `directory` in its command line, so that a pid
    the system gave to somebody else since is never signalled.

    Args:
        name: What messages call the part.
        directory: An absolute path; made when it is not there.
        stop_signal: What asks the part to stop in good order.
    """

    def __init__(self, name: str, directory: Path, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        self.name = name
        self.directory = directory
        self.log_path = directory / "log"
        self._pid_path = directory / "pid"
        self._stop_signal = stop_signal
        self._child: subprocess.Popen[bytes] | None = None
        self._asked: int | None = None

    @property
    def pid(self) -> int | None:
        """The pid while the part runs, else None."""
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        try:
            pid = int(self._pid_path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if str(self.directory) in command_line(pid) else None

    def start(self, command: Sequence[str], *, user: str | None = None) -> None:
        """Start `command`, which must name the part's directory in an argument; return at once.

        It gets the starter's environment, but for settings of a server: a part is as its files say.

        Args:
            command: Program and arguments.
            user: The system's user to run as; None is the starter's own.

        Raises:
            PartError: When the part runs already.
        """
        if (pid := self.pid) is not None:
            raise PartError(f"{self.name} runs already, as process {pid}")
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                env={name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
            )
        self._pid_path.write_text(str(self._child.pid))

    def wait_until(self, answers: Callable[[], bool], timeout_s: float) -> None:
        """Return once `answers()` is true.

        Raises:
            PartFailed: When the process ends before, or `timeout_s` is over.
        """
        deadline_s = time.monotonic() + timeout_s
        while not answers():
            if self.pid is None:
                raise PartFailed(
                    f"{self.name} ended while starting; the end of {self.log_path}:\n{self.log_end()}"
                )
            if time.monotonic() > deadline_s:
                raise PartFailed(
                    f"{self.name} did not answer within {timeout_s:g} s; the end of {self.log_path}:\n{self.log_end()}"
                )
            time.sleep(POLL_INTERVAL_S)

    def log_end(self) -> str:
        """The last lines the part wrote."""
        try:
            text = self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def ask_to_stop(self) -> None:
        """Send the stop signal, if the part runs; return at once. Once only: some end at the second without delay."""
        pid = self.pid
        if pid is not None and pid != self._asked:
            self._asked = pid
            _signal(pid, self._stop_signal)

    def stop(self, timeout_s: float) -> bool:
        """Stop in good order, or by SIGKILL once `timeout_s` is over.

        Returns:
            Whether it stopped in good order; also when it did not run.
        """
        pid = self.pid
        if pid is None:
            return True
        self.ask_to_stop()
        if self._is_gone_within(timeout_s, pid):
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """End the process and its children by SIGKILL, as a crash of the machine's power would, and wait for it."""
        pid = self.pid
        if pid is None:
            return
        # Stopped first, so that it starts no child after they were listed.
        _signal(pid, signal.SIGSTOP)
        children = [process.pid for process in processes() if process.parent == pid]
        _signal(pid, signal.SIGKILL)
        for child in children:
            _signal(child, signal.SIGKILL)
        while self.pid is not None or not all(map(has_ended, [pid, *children])):
            time.sleep(POLL_INTERVAL_S)

    def _is_gone_within(self, timeout_s: float, pid: int) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while self.pid is not None or not has_ended(pid):
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_INTERVAL_S)
        return True


def kill_all(directory: Path) -> None:
    """End by SIGKILL every part whose directory is `directory` or below it."""
    for pid_path in directory.rglob("pid"):
        PartProcess(pid_path.parent.name, pid_path.parent).kill()


def kill_naming(text: str) -> None:
    """End by SIGKILL every process whose command line holds `text`: children that their parent's end left alone."""
    own = os.getpid()
    found = [process.pid for process in processes() if text in process.arguments and process.pid != own]
    for pid in found:
        _signal(pid, signal.SIGKILL)
    while not all(map(has_ended, found)):
        time.sleep(POLL_INTERVAL_S)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
