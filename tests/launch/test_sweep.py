"""Sweeps: names, checks, jobs, restarts and the summary, with training replaced by what it leaves behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import sweep
from mvgrpo_jax.errors import UserError

SWEEP = """
from configs.sweeps import across, grid
CONFIG = "configs/flux_nano.py"
def get_sweep():
    return across(grid(optimizer__learning_rate=(1e-4, 2e-4), iterations=(5,)), grid(seed=(0, 1)))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lr.py"
    path.write_text(SWEEP)
    return path


def leave(workdir: Path, iteration: int, score: float, exported: bool):
    """What a run leaves after some iterations."""
    rows = [{"iteration": 0, "eval/scene": 0.5}, {"iteration": iteration, "eval/scene": score, "time/iteration": 360.0}]
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if exported:
        (workdir / "pipeline").mkdir(exist_ok=True)
        (workdir / "pipeline" / "README.md").write_text("card")


def trainer(calls, fail=()):
    def execute(command, log):
        calls.append(command)
        words = dict(w.removeprefix("--").split("=", 1) for w in command if "=" in w)
        if Path(words["workdir"]).name in fail:
            log.write_text("error: out of room\n")
            return 1
        leave(Path(words["workdir"]), 5, 0.6 + float(words["config.optimizer.learning_rate"]) * 100, True)
        return 0

    return execute


def test_runs_are_named_after_what_varies(file):
    config, runs = sweep.load(str(file))
    assert config == "configs/flux_nano.py"
    names = [sweep.name(r, runs) for r in runs]
    assert names[0] == "learning_rate-0.0001_seed-0" and len(set(names)) == 4  # iterations is the same in all


def test_only_what_is_not_finished_runs(file, tmp_path, capsys):
    out, calls = tmp_path / "out", []
    leave(out / "learning_rate-0.0001_seed-0", 5, 0.7, True)
    leave(out / "learning_rate-0.0001_seed-1", 3, 0.6, False)  # was interrupted
    failing = {"learning_rate-0.0002_seed-1"}
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--sweep", str(file), "--out", str(out)], execute=trainer(calls, failing))
    assert stop.value.code == 2 and len(calls) == 3
    printed = capsys.readouterr()
    assert "4 runs, 1 finished" in printed.out and "1 of 4 runs failed: learning_rate-0.0002_seed-1" in printed.err
    assert "out of room" in printed.out
    sweep.main(["--sweep", str(file), "--out", str(out)], execute=trainer(calls))
    assert len(calls) == 4 and calls[-1][-2:] == ["--config.iterations=5", "--config.seed=1"]
    sweep.main(["--sweep", str(file), "--out", str(out), "--summary"], execute=trainer(calls))
    assert len(calls) == 4
    printed = capsys.readouterr().out
    assert "optimizer.learning_rate 0.0002: 0.6200 +- 0.0000 over 2 runs" in printed  # the last scores' mean over seeds
    rows = list(csv.DictReader((out / "summary.csv").open()))
    assert [r["iterations"] for r in rows] == ["5/5"] * 4 and rows[0]["hours"] == "0.1" and rows[0]["last"] == "0.7"


@pytest.mark.parametrize("kind", ["commands", "slurm", "tpu"])
def test_written_jobs(file, tmp_path, kind, capsys):
    out = tmp_path / "out"
    leave(out / "learning_rate-0.0001_seed-0", 5, 0.7, True)
    sweep.main(
        ["--sweep", str(file), "--out", str(out), "--write", kind, "--hours", "7", "--nodes", "2"]
        + ["--", "--config.pipeline=/my models/flux"]
    )
    assert "3 of 4 runs are not finished" in capsys.readouterr().out
    scripts = sorted((out / "jobs").iterdir())
    for script in scripts:
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    submit = (out / "jobs" / "submit.sh").read_text()
    texts = [s.read_text() for s in scripts if s.name != "submit.sh"]
    assert len(texts) == (0 if kind == "commands" else 3)
    for text in texts or [submit]:
        assert "'--config.pipeline=/my models/flux'" in text.replace("'\"'\"'", "'") and "mvgrpo_jax.main" in text
    if kind == "slurm":
        assert all("#SBATCH --time=7:00:00" in t and "srun --kill-on-bad-exit=1 python" in t for t in texts)
        assert all("--config.mesh.devices=16" in t and "#SBATCH --gpus-per-node=8" in t and "--distributed" in t for t in texts)
        assert submit.count("sbatch ") == 3
    if kind == "tpu":
        assert all("--accelerator-type=v5p-64" in t and "--worker=all" in t for t in texts)
        assert all("--config.mesh.devices=32" in t for t in texts) and submit.count("bash ") == 3


@pytest.mark.parametrize(
    "code, restarts, again", [(0, 0, False), (1, 0, False), (2, 0, False), (75, 0, True), (137, 19, True), (75, 20, False)]
)
def test_a_slurm_job_is_queued_again_after_what_may_pass(file, tmp_path, code, restarts, again):
    sweep.main(["--sweep", str(file), "--out", str(tmp_path / "out"), "--write", "slurm"])
    job, record = next((tmp_path / "out" / "jobs").glob("learning*.sbatch")), tmp_path / "record"
    for name, text in (("srun", "exit $CODE"), ("scontrol", 'echo "$*" > "$RECORD"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(record), "CODE": str(code), "SLURM_JOB_ID": "7"}
    variables |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    assert subprocess.run(["bash", str(job)], env=variables).returncode == code
    assert record.exists() == again and (not again or record.read_text() == "requeue 7\n")


GCLOUD = """#!/bin/bash
echo "$*" >> "$RECORD"
case "$*" in
    *" create "*) exit ${CREATE:-0} ;;
    *" describe "*) head -1 "$STATES"; sed -i 1d "$STATES" ;;
    *" ssh "*) sleep ${TRAIN:-0}; exit ${SSH:-0} ;;
esac
"""


@pytest.fixture
def tpu_job(file, tmp_path):
    """run(states, **environment) -> (exit status, what gcloud was asked to do) of a written TPU job; waiting takes no time."""
    sweep.main(["--sweep", str(file), "--out", str(tmp_path / "out"), "--write", "tpu"])
    job = next((tmp_path / "out" / "jobs").glob("learning*.sh"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("gcloud", GCLOUD), ("sleep", '#!/bin/bash\n[ "$1" = 60 ] || exec /bin/sleep "$1"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    record, states = tmp_path / "record", tmp_path / "states"

    def run(*said, stop_at="", **environment):
        record.write_text("")
        states.write_text("".join(f"{state}\n" for state in said))
        variables = {"PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(record), "STATES": str(states)}
        variables |= {"ZONE": "here", "PROJECT": "mine"} | environment
        errors = tmp_path / "errors"
        with errors.open("w") as file:
            running = subprocess.Popen(["bash", str(job)], env=variables, stderr=file, start_new_session=True)
        while stop_at and stop_at not in record.read_text():
            time.sleep(0.02)
        if stop_at:
            running.terminate()
        running.wait(timeout=60)
        if stop_at:
            os.killpg(running.pid, signal.SIGKILL)  # what it had started
        actions = [
            next(w for w in line.split() if w in "create describe ssh delete") for line in record.read_text().splitlines()
        ]
        return running.returncode, actions, errors.read_text()

    return run


def test_a_tpu_job_gives_its_slice_back_whatever_happens(tpu_job):
    waited = ["create", "describe", "describe", "ssh", "delete"]
    assert tpu_job("WAITING_FOR_RESOURCES", "ACTIVE")[:2] == (0, waited)
    assert tpu_job("ACTIVE", SSH="3")[:2] == (3, ["create", "describe", "ssh", "delete"])  # training failed
    code, actions, said = tpu_job("PROVISIONING", "FAILED")
    assert code == 1 and actions == ["create", "describe", "describe", "delete"] and "is FAILED" in said
    code, actions, _ = tpu_job("ACTIVE", stop_at="ssh", TRAIN="100")
    assert code != 0 and actions == ["create", "describe", "ssh", "delete"]


def test_a_tpu_job_ends_where_it_gets_no_slice(tpu_job):
    assert tpu_job("ACTIVE", CREATE="4")[:2] == (4, ["create"])
    code, actions, said = tpu_job("ACTIVE", ZONE="")
    assert code != 0 and not actions and "ZONE" in said


@pytest.mark.parametrize("tpu, devices", [("v5p-64", 32), ("v4-16", 8), ("v5litepod-256", 256), ("v6e-64", 64)])
def test_devices_of_a_slice(tpu, devices):
    assert sweep.devices_of_a_job(SimpleNamespace(write="tpu", tpu=tpu)) == devices
    with pytest.raises(UserError, match="--tpu v5p: expected an accelerator type"):
        sweep.devices_of_a_job(SimpleNamespace(write="tpu", tpu="v5p"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("CONFIG = 'configs/flux_nano.py'", "expected CONFIG and get_sweep"),
        ("CONFIG = 'configs/flux_nano.py'\ndef get_sweep(): return []", "at least one run"),
        ("CONFIG = 'configs/flux_nano.py'\ndef get_sweep(): return [{'seed': 1}, {'seed': 1}]", "each run once"),
        ("CONFIG = 'configs/flux_nano.py'\ndef get_sweep(): return [{'optimizer.lr': 1}]", "unknown config key 'optimizer.lr'"),
        ("CONFIG = 'configs/flux_nano.py'\ndef get_sweep(): return [{'seed': 'x'}]", "seed=x: expected int"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path, text, message, capsys):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        sweep.main(["--sweep", str(path), "--out", str(tmp_path / "out")], execute=trainer([]))
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_sweep_lists_what_there_is():
    with pytest.raises(UserError, match="configs/sweeps/views.py"):
        sweep.load("configs/sweeps/nothing.py")


@pytest.mark.parametrize("path", sorted(Path("configs/sweeps").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_shipped_sweeps_are_valid(path, tmp_path, capsys):
    sweep.main(["--sweep", str(path), "--out", str(tmp_path / "out"), "--write", "commands"])
    count = len(sweep.load(str(path))[1])
    assert f"{count} of {count} runs are not finished" in capsys.readouterr().out


def test_a_run_is_a_process_with_a_log(tmp_path):
    command = [sys.executable, "-c", "print('said'); raise SystemExit(3)"]
    assert sweep.execute(command, tmp_path / "log.txt") == 3 and (tmp_path / "log.txt").read_text() == "said\n"
