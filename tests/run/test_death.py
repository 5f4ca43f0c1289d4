"""One of two processes dies, hangs or fails: the other ends soon, names it, and the same command goes on exactly."""

import signal

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.processes import start, succeed, together
from tests.runs import leaves, numbers, small_config

TRAINING = """
import os
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.run import checkpoint, drawing, iteration, loop
from tests.run.test_death import brief
workdir, place, victim, number = ARGUMENTS
if victim == str(jax.process_index()):
    owner = {"save": checkpoint.Checkpoints, "begin": drawing, "update": iteration}[place]
    real, calls = getattr(owner, place), []
    def struck(*arguments):
        calls.append(1)
        result = real(*arguments) if place == "save" else None  # it is written in the background meanwhile
        if len(calls) == 2:
            os.kill(os.getpid(), int(number))
        return result if place == "save" else real(*arguments)
    setattr(owner, place, struck)
reports_errors(loop.train)(brief(), workdir)
"""


def brief():
    """Two iterations, each with a checkpoint; who was silent for 6 s is dead."""
    config = small_config(iterations=2, group_size=2)
    config.rewards, config.views.count = ConfigDict({"scene": 1.0}), 1
    config.eval.every, config.checkpoint.every, config.log.images_every = 0, 1, 0
    config.mesh.fsdp, config.watch.silence_s = 2, 6.0
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of an uninterrupted run of two processes."""
    workdir = tmp_path_factory.mktemp("whole")
    succeed(together(TRAINING, str(workdir), "", "", ""))
    return workdir


def nightly(*case):
    return pytest.param(*case, marks=pytest.mark.nightly)


@pytest.mark.parametrize(
    "place, victim, number",
    [
        nightly("update", 1, signal.SIGKILL),
        nightly("update", 0, signal.SIGKILL),
        nightly("begin", 1, signal.SIGKILL),
        nightly("begin", 0, signal.SIGKILL),
        nightly("save", 1, signal.SIGKILL),
        nightly("save", 0, signal.SIGKILL),
        nightly("begin", 1, signal.SIGSTOP),
        nightly("begin", 0, signal.SIGSTOP),
    ],
)
def test_a_process_that_dies_ends_the_job_which_goes_on_exactly(whole, tmp_path, place, victim, number):
    processes = start(TRAINING, str(tmp_path), place, str(victim), str(int(number)))
    dead, other = processes[victim], processes[1 - victim]
    if number == signal.SIGKILL:
        assert dead.wait(timeout=400) == -number
    _, said = other.communicate(timeout=60 if number == signal.SIGKILL else 400)
    dead.kill()
    dead.communicate()
    assert other.returncode == 75, said[-3000:]
    assert f"process {victim} on " in said and "died or hangs" in said and "the same command goes on" in said, said[-3000:]

    succeed(together(TRAINING, str(tmp_path), "", "", ""))
    config = brief()
    (got, got_cursor), (want, want_cursor) = leaves(tmp_path, 2, config), leaves(whole, 2, config)
    assert got_cursor == want_cursor
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert numbers(tmp_path) == numbers(whole)


EXCHANGING = """
import os, sys, time
import jax.numpy as jnp
from jax.experimental.multihost_utils import process_allgather
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.parallel.watch import Watch
def work():
    with Watch(5.0, 0.0) as watch:
        for number in range(100000):
            watch.at(f"exchange {number}")
            process_allgather(jnp.ones(3))
            if number == 30:  # the stages before are told
                print("ready", flush=True)
            time.sleep(0.1)
reports_errors(work)()
"""


@pytest.mark.parametrize("victim, number", [(0, signal.SIGKILL), nightly(0, signal.SIGSTOP), nightly(1, signal.SIGSTOP)])
def test_who_waits_for_the_dead_in_a_collective_ends_and_names_it(victim, number):
    """Process 0 holds jax's service: when it is killed, jax aborts the others in a moment; when it is stopped, their calls
    hang."""
    processes = start(EXCHANGING)
    dead, other = processes[victim], processes[1 - victim]
    ready(dead)
    dead.send_signal(number)
    _, said = other.communicate(timeout=100)
    dead.kill()
    dead.communicate()
    assert other.returncode == 75, said[-3000:]
    assert f"process {victim} on " in said and "at exchange " in said, said[-3000:]


def ready(process):
    """Returns when a process has said that it is ready."""
    while "ready" not in process.stdout.readline():
        assert process.poll() is None


FAILING = """
import os, sys, time
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.parallel.watch import Watch
def work():
    with Watch(10.0, 0.0):
        if jax.process_index() == 1:
            raise UserError("no such folder: /data")
        time.sleep(60)
reports_errors(work)()
"""


def test_a_mistake_that_one_process_meets_ends_all_with_its_message():
    processes = start(FAILING)
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "error: no such folder: /data" in errors[1] and "process 1 on " in errors[0]
    assert "failed: no such folder: /data" in errors[0] and "goes on" not in errors[0]


ASKED = """
import os, sys, time
from mvgrpo_jax.run import stops
with stops.catching() as asked:
    print("ready", flush=True)
    for boundary in range(1000):
        time.sleep(0.02 + 0.03 * jax.process_index())
        if asked():
            break
print(boundary, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_processes_stop_at_one_boundary(number):
    """Processes of different speed, one of them asked."""
    processes = start(ASKED)
    ready(processes[1])
    processes[1].send_signal(number)
    results = [process.communicate(timeout=100) for process in processes]
    boundaries = [int(out.splitlines()[-1]) for out, _ in results]
    assert boundaries[0] == boundaries[1] < 999, results
