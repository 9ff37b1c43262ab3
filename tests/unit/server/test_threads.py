"""Threads that serve the loop's do not interrupt it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest

from server.process import yielding_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such policy")


def in_a_thread(run: Callable[[], None]) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_threads_of_the_block_and_theirs_are_batch_and_others_are_not() -> None:
    seen: list[int] = []

    def note() -> None:
        seen.append(os.sched_getscheduler(0))

    def note_and_start_another() -> None:
        note()
        in_a_thread(note)

    with yielding_threads():
        in_a_thread(note_and_start_another)
    in_a_thread(note)
    note()
    assert seen == [os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_OTHER, os.SCHED_OTHER]


def test_a_policy_that_was_chosen_is_kept() -> None:
    seen: list[int] = []

    def chosen() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with yielding_threads():
            in_a_thread(lambda: seen.append(os.sched_getscheduler(0)))
        seen.append(os.sched_getscheduler(0))

    in_a_thread(chosen)
    assert seen == [os.SCHED_IDLE, os.SCHED_IDLE]
