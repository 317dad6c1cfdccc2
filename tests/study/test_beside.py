"""Work beside this process comes to the same as in it."""

import os
import threading

import pytest

from transfer.study.beside import beside


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    # pytest-xdist's own thread would keep everything in this process.
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.mark.parametrize("wanted", [True, False])
def test_the_result_and_where_it_comes_from(wanted):
    found = beside(lambda: ["a" * 100_000, os.getpid()], wanted=wanted)
    text, process = found()
    assert len(text) == 100_000
    assert (process == os.getpid()) is not wanted


def test_what_fails_there_fails_here():
    def fail():
        raise ValueError(f"in {os.getpid()}")

    found = beside(fail, wanted=True)
    with pytest.raises(ValueError, match=f"in {os.getpid()}"):
        found()


def test_a_process_that_is_killed_is_done_without():
    here = os.getpid()

    def work():
        if os.getpid() != here:
            os._exit(1)
        return "here"

    assert beside(work, wanted=True)() == "here"


def test_beside_other_threads_nothing_is_forked(monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert beside(os.getpid, wanted=True)() == os.getpid()
