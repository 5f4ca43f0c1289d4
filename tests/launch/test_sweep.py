"""Sweeps: names, checks, jobs, restarts and the summary, with training replaced by what it leaves behind."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch import sweep
from mvgrpo_jax.errors import UserError
from tests.launch.stand_ins import StandIns

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
        ["--sweep", str(file), "--out", str(out), "--write", kind, "--hours", "7", "--nodes", "2", "--launcher=--set=A=b c"]
        + ["--", "--config.pipeline=/my models/flux"]
    )
    assert "3 of 4 runs are not finished" in capsys.readouterr().out
    submit = out / "jobs" / "submit.sh"
    assert subprocess.run(["bash", "-n", str(submit)]).returncode == 0
    lines = [shlex.split(line) for line in submit.read_text().splitlines() if "--config=" in line]
    assert len(lines) == 3
    for line in lines:
        assert "--config.pipeline=/my models/flux" in line and "--config.iterations=5" in line
        if kind == "commands":
            assert line[:3] == ["python", "-m", "mvgrpo_jax.main"]
            continue
        own = line[2 : line.index("--")]
        assert Path(line[1]).name == {"slurm": "slurm.sh", "tpu": "tpu_pod.sh"}[kind] and Path(line[1]).is_file()
        assert "--hours=7" in own and "--set=A=b c" in own and "mvgrpo_jax.main" not in line
        assert ("--nodes=2" in own) == (kind == "slurm") and ("--type=v5p-64" in own) == (kind == "tpu")
        if kind == "tpu":
            assert line[-1] == "&"


@pytest.mark.parametrize("kind", ["slurm", "tpu"])
def test_the_launchers_understand_what_is_written(file, tmp_path, kind):
    out, programs = tmp_path / "out", StandIns(tmp_path, sbatch="", gcloud="", python=f'exec "{sys.executable}" "$@"')
    sweep.main(["--sweep", str(file), "--out", str(out), "--write", kind, "--launcher=--dry_run"])
    code, said = programs.run(str(out / "jobs" / "submit.sh"), ZONE="here", PROJECT="mine", XLA_FLAGS="")
    said += "".join(log.read_text() for log in out.glob("*/launch.log"))
    assert code == 0 and not [c for c in programs.calls() if c[0] != "python"]
    assert (
        said.count("sbatch --job-name=learning-rate-0-0001-seed-" if kind == "slurm" else " create learning-rate-0-0001-seed-")
        == 2
    )
    assert said.count("--config.mesh.devices=8" if kind == "slurm" else "--config.mesh.devices=32") >= 4


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
