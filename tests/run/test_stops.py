"""Signals: a run stops between stages and goes on exactly; a second Ctrl-C ends it at once."""

import itertools
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mvgrpo_jax.errors import Stopped, UserError, status
from mvgrpo_jax.run import build, drawing, iteration, loop, stops, trackers
from mvgrpo_jax.run.trackers.folder import Folder
from tests.processes import ROOT
from tests.run.trackers.jobs import Fake
from tests.runs import leaves, numbers, small_config


def signalled(stage, call):
    """A stage that gets a SIGTERM when it is called for the call-th time."""
    calls = itertools.count(1)

    def run(*arguments):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # until the thread that listens has heard it
        return stage(*arguments)

    return run


@pytest.mark.nightly
def test_a_run_stopped_in_every_stage_ends_as_one_that_was_not(tmp_path, monkeypatch):
    """SIGTERM during sample, judge, make_batch, update, painting for evaluation and the last evaluation, one after another."""
    config = small_config(iterations=4, rewards={"clip": 0.0, "scene": 1.0})
    config.checkpoint.every = 3
    outlined = build.outline(config)
    run, initial = build.load(outlined)
    seen = Fake()

    def go(workdir):
        workdir.mkdir(exist_ok=True)
        (workdir / "eval").mkdir(exist_ok=True)
        run.enhancer.log()  # counts begin anew, as in another process
        with jax.set_mesh(run.mesh), stops.catching() as asked:
            fresh = jax.tree.map(jax.numpy.copy, initial)
            progress, job = loop.begin(run, fresh, workdir), loop.Job(asked, lambda stage: None, lambda: None)
            tracked = trackers.Trackers({"seen": (seen, Folder(workdir / "seen"))})
            return loop.Loop(run, workdir, progress, outlined.budget, job, tracked).run_to_the_end()

    go(tmp_path / "whole")
    stopped = tmp_path / "stopped"
    for place, stage, call, said in (
        (drawing, "hand_over", 1, "iteration 0, judge; 0 iterations"),
        (iteration, "judge", 1, "iteration 0, update; 0 iterations"),
        (drawing, "hand_over", 2, "iteration 1, judge; 1 iterations"),
        (iteration, "update", 1, "iteration 2, evaluation; 2 iterations"),
        (run.evaluation, "run", 1, "iteration 2, evaluation; 2 iterations"),
        (iteration, "make_batch", 2, "iteration 4, evaluation; 4 iterations"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, stage, signalled(getattr(place, stage), call))
            with pytest.raises(Stopped, match=f"stopped by a signal before {said} are saved"):
                go(stopped)
    go(stopped)
    assert seen.calls.count("close") == 8, "one for each start"
    (got, got_cursor), (want, want_cursor) = leaves(stopped, 4, config), leaves(tmp_path / "whole", 4, config)
    assert got_cursor == want_cursor
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert numbers(stopped) == numbers(tmp_path / "whole")


WAITING = """
import sys, time
import jax
from mvgrpo_jax.run import stops
with stops.catching() as asked:
    print("waiting", flush=True)
    wait = jax.jit(lambda x: jax.lax.while_loop(lambda x: x > 0, lambda x: x + 1 - x // x, x))
    jax.block_until_ready(wait(1.0))
"""


def test_the_second_ctrl_c_ends_a_process_that_waits_for_its_device():
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout.readline() == "waiting\n"
        time.sleep(2)  # it compiles, then waits for ever
        run.send_signal(signal.SIGINT)
        assert "stopping at the end of this stage; Ctrl-C again ends at once" in run.stderr.readline()
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=20) == 130


def test_handlers_are_given_back_and_statuses_differ():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stops.catching() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 20
        while not asked() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert asked() and asked()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert [status(e("")) for e in (Stopped, UserError, RuntimeError)] == [75, 2, 1]
