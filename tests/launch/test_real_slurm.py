"""launch/slurm.sh on a real SLURM of this machine: a run of two processes, interrupted twice, ends as an uninterrupted one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.launch import cluster
from tests.runs import leaves, numbers, small_config

ROOT = Path(__file__).parents[2]
GRACE = 30  # seconds between SIGTERM and SIGKILL
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.slow,
    pytest.mark.skipif(bool(cluster.missing()), reason=f"no SLURM here: {cluster.missing()}"),
]
# The run of tests.runs.small_config without captions of pictures, longer; nothing is saved but at a signal and at the end.
SETTINGS = {
    "iterations": 8,
    "prompts_per_iteration": 2,
    "group_size": 2,
    "views.count": 1,
    "sampling.steps": 4,
    "algorithm.mvgrpo.trained_steps": "(0, 1)",
    "eval.every": 0,
    "checkpoint.every": 100,
    "log.images_every": 0,
    "log.trackers": "()",
    "mesh.fsdp": 2,
    "ema.decay": 0.5,
    "optimizer.learning_rate": 1e-3,
}


def words(workdir):
    settings = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    return ["--config=configs/flux_nano.py", f"--workdir={workdir}", *settings]


def same_config():
    config = small_config()
    flat = {k: v for k, v in SETTINGS.items() if k not in ("algorithm.mvgrpo.trained_steps", "log.trackers")}
    config.update_from_flattened_dict(flat)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of the uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(
        ["bash", "launch/local.sh", "--processes=2", "--python", sys.executable, "--", *words(workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster.Cluster(tmp_path_factory.mktemp("slurm"), GRACE) as running:
        yield running


def environment(slurm):
    """Of the one who submits: a process has one device, as those of the uninterrupted run."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return slurm.environment | {"XLA_FLAGS": " ".join([*flags, "--xla_force_host_platform_device_count=1"])}


def submit(slurm, workdir, *options):
    """The number of a job that trains there, and a function that gives its log."""
    script = ["bash", "launch/slurm.sh", "--gpus=0", "--cpus=1", "--python", sys.executable, f"--grace={GRACE}", *options]
    done = subprocess.run(
        [*script, "--", *words(workdir)], cwd=ROOT, env=environment(slurm), capture_output=True, text=True, check=True
    )
    number = done.stdout.split()[-1]
    return number, lambda: "".join(p.read_text() for p in workdir.glob(f"slurm-{number}.out"))


def interrupt(slurm, number, workdir, said, *command):
    """Waits for two more iterations, does what interrupts the job, and starts it again where SLURM would wait two minutes."""
    there, before = len(rows(workdir)), slurm.job(number).get("Restarts", "0")
    state = lambda: slurm.job(number)["JobState"]
    slurm.until(lambda: len(rows(workdir)) >= there + 2 or state() == "FAILED", "two iterations", 400)
    assert state() == "RUNNING", said()[-3000:]
    slurm.say(*command)
    slurm.until(lambda: state() == "PENDING", "the requeue", 2 * GRACE)
    time.sleep(10)  # until the node has forgotten the credential of the start before
    slurm.say("scontrol", "update", f"JobId={number}", "StartTime=now")
    slurm.until(lambda: state() == "RUNNING", "the restart", 200)
    assert int(slurm.job(number)["Restarts"]) == int(before) + 1


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_that_is_interrupted_ends_as_if_it_had_not_been(slurm, whole, tmp_path):
    workdir = tmp_path / "run"
    number, said = submit(slurm, workdir, "--tasks=2")
    interrupt(slurm, number, workdir, said, "scontrol", "requeue", number)
    interrupt(slurm, number, workdir, said, "scancel", "--signal=TERM", number)  # as --signal=TERM@ does before the limit
    slurm.until(lambda: slurm.job(number)["JobState"] in ("COMPLETED", "FAILED"), "the end", 400)
    text = said()
    assert slurm.job(number)["JobState"] == "COMPLETED", text[-3000:]
    assert text.count("stopped by a signal before") >= 2 and text.count("going on from iteration") == 2
    assert numbers(workdir) == numbers(whole)
    config = same_config()
    (got, cursor), (want, want_cursor) = (leaves(where, SETTINGS["iterations"], config) for where in (workdir, whole))
    assert cursor == want_cursor
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


# In the place of the interpreter: a run that saves and stops at SIGTERM.
STOPS = """#!/bin/bash
echo started
trap 'echo saved; exit 75' TERM
while true; do sleep 0.1; done
"""


def test_scancel_ends_a_job_for_good(slurm, tmp_path):
    stops = tmp_path / "stops"
    stops.write_text(STOPS)
    stops.chmod(0o755)
    number, said = submit(slurm, tmp_path / "run", "--tasks=2", "--python", str(stops))
    slurm.until(lambda: said().count("started") == 2, "the start")
    slurm.say("scancel", number)
    slurm.until(lambda: slurm.job(number).get("EndTime", "Unknown") != "Unknown" and "saved" in said(), "the end")
    time.sleep(5)
    job = slurm.job(number)
    assert said().count("saved") == 2 and job["JobState"] == "CANCELLED" and job["Restarts"] == "0"


# In the place of the interpreter: all but the run itself is real, which asks the servers it was told of, after SIGTERM too.
ASKS = """#!/bin/bash
case "$*" in
    *mvgrpo_jax.main*) exec "{python}" "{script}" "$@" ;;
    *) exec "{python}" "$@" ;;
esac
"""
ASKING = """
import ast, os, signal, sys, time, urllib.error, urllib.request
(endpoints,) = [w.split("=", 1)[1] for w in sys.argv if w.startswith("--config.judges.scene.endpoints=")]
def ask(url, key):
    request = urllib.request.Request(url + "/score", data=b"", headers={"Authorization": "Bearer " + key})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(url,) = ast.literal_eval(endpoints)
print("answers", ask(url, os.environ["VLLM_API_KEY"]), "without the key", ask(url, "x"), flush=True)
while not asked:
    time.sleep(0.1)
print("after SIGTERM", ask(url, os.environ["VLLM_API_KEY"]), flush=True)
"""


def test_a_sidecar_is_a_part_of_the_job_and_outlives_its_sigterm(slurm, tmp_path):
    script, python = tmp_path / "asking.py", tmp_path / "python"
    script.write_text(ASKING)
    python.write_text(ASKS.format(python=sys.executable, script=script))
    python.chmod(0o755)
    sidecar = ("--sidecar=judges:1x0:judges.scene", "--sidecar_word=judges:--judge=scene")
    number, said = submit(slurm, tmp_path / "run", "--tasks=1", "--python", str(python), *sidecar)
    slurm.until(lambda: "answers" in said() or slurm.job(number)["JobState"] == "FAILED", "the servers", 200)
    assert "1 servers answer" in said() and "without the key 401" in said(), said()[-3000:]
    slurm.say("scancel", "--signal=TERM", number)
    slurm.until(lambda: slurm.job(number)["JobState"] == "COMPLETED", "the end", 60)
    first = said().split("answers ")[-1].split()[0]
    assert f"after SIGTERM {first}" in said() and "serving on until the job is over" in said(), said()[-3000:]
    slurm.until(lambda: not slurm.say("squeue", "--noheader"), "the end of the servers")
