"""The official Go, TypeScript and Java SDKs run their smoke programs against the server."""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKS = (
    "hello_activity",
    "activity_retry",
    "signal",
    "query",
    "update",
    "child_workflow",
    "timer",
    "continue_as_new",
)
BUILD_TIMEOUT_S = 600
RUN_TIMEOUT_S = 300
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Sdk:
    """How to build and run the smoke program of one SDK; all commands run in its folder."""

    folder: Path
    tools: tuple[str, ...]
    build: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]


SDKS = {
    "go": Sdk(
        folder=FOLDER / "go",
        tools=("go",),
        build=(("go", "build", "-mod=readonly", "-o", ".cache/smoke", "."),),
        run=(".cache/smoke",),
    ),
    "typescript": Sdk(
        folder=FOLDER / "typescript",
        tools=("node", "npm"),
        build=(("npm", "ci", "--prefer-offline", "--no-audit", "--no-fund"), ("npm", "run", "build")),
        run=("node", ".cache/lib/main.js"),
    ),
    "java": Sdk(
        folder=FOLDER / "java",
        tools=("java", "javac", "mvn"),
        build=(("mvn", "--batch-mode", "--quiet", "compile"),),
        run=(
            *("java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
            *("-cp", os.pathsep.join(("target/classes", "target/dependency/*")), "smoke.Main"),
        ),
    ),
}


def _run(command: tuple[str, ...], folder: Path, timeout_s: float) -> tuple[int, str, str]:
    """Run a command in `folder` and return its exit code, standard output and standard error.

    The test fails, with what the command printed, when that takes longer than `timeout_s`.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children too: they hold the pipes open
        stdout, stderr = process.communicate()
        pytest.fail(f"{' '.join(command)} was not done after {timeout_s} s:\n{(stdout + stderr)[-4000:]}")
    return process.returncode, stdout, stderr


def _results(output: str) -> dict[str, str]:
    """The outcome of each check in what a smoke program printed: "PASS", or "FAIL" and the reason."""
    return {
        name: result + reason for result, name, reason in re.findall(r"^(PASS|FAIL) (\w+)(.*)$", output, re.M)
    }


def _build(language: str, sdk: Sdk) -> None:
    """Build the smoke program; the test is skipped by the name of a toolchain that is absent."""
    absent = [tool for tool in sdk.tools if shutil.which(tool) is None]
    if absent:
        pytest.skip(f"the {language} SDK was not tried: {', '.join(absent)} not found on PATH")
    for command in sdk.build:
        exit_code, stdout, stderr = _run(command, sdk.folder, BUILD_TIMEOUT_S)
        assert exit_code == 0, f"{' '.join(command)} exited {exit_code}:\n{(stdout + stderr)[-4000:]}"


@pytest.mark.timeout(2 * BUILD_TIMEOUT_S + RUN_TIMEOUT_S + 60)
@pytest.mark.parametrize("language", SDKS)
def test_every_check_passes(language: str, server_address: str) -> None:
    sdk = SDKS[language]
    _build(language, sdk)
    exit_code, stdout, stderr = _run((*sdk.run, server_address), sdk.folder, RUN_TIMEOUT_S)
    assert _results(stdout) == dict.fromkeys(CHECKS, "PASS"), stderr[-4000:]
    assert exit_code == 0
