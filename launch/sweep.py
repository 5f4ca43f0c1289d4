"""Runs a sweep of configs/sweeps here, one run after another, or writes a job for each run.

    python launch/sweep.py --sweep configs/sweeps/views.py --out runs/sweeps/views               runs what is not finished
    python launch/sweep.py --sweep FILE --out DIR --summary                                      table of what is there
    python launch/sweep.py --sweep FILE --out DIR --write commands|slurm|tpu [...]               writes DIR/jobs/submit.sh
    ... -- --config.key=value                                                                    for every run

--write slurm starts each run by launch/slurm.sh, --write tpu by launch/tpu_pod.sh; --launcher=WORD hands a word on to them.
Runs are named after what varies. A finished run is left alone, an interrupted one goes on from its checkpoint. Jobs are written
for unfinished runs only, so writing again after a failure gives what is left. Every override is checked before anything starts.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mvgrpo_jax import configuration  # noqa: E402
from mvgrpo_jax.errors import UserError, reports_errors  # noqa: E402


def load(path: str) -> tuple[str, list[dict]]:
    """(config path, overrides of each run). UserError unless the file is a sweep."""
    file = Path(path)
    if not file.is_file():
        known = ", ".join(str(p) for p in sorted(Path("configs/sweeps").glob("*.py")) if p.stem != "__init__")
        raise UserError(f"--sweep {path}: no such file; there are: {known}")
    spec = importlib.util.spec_from_file_location(f"_sweep_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "CONFIG") or not hasattr(module, "get_sweep"):
        raise UserError(f"--sweep {path}: expected CONFIG and get_sweep(), as in configs/sweeps/views.py")
    runs = module.get_sweep()
    if not runs or len({name(r, runs) for r in runs}) < len(runs):
        raise UserError(f"--sweep {path}: get_sweep() must give at least one run, and each run once; got {len(runs)}")
    return module.CONFIG, runs


def varied(runs: list[dict]) -> list[str]:
    """Keys that are not the same in all runs."""
    keys = list(dict.fromkeys(k for r in runs for k in r))
    return [k for k in keys if len({str(r.get(k)) for r in runs}) > 1] or keys


def name(run: dict, runs: list[dict]) -> str:
    """The folder of a run: what varies in it, safe as a file and a job name."""
    parts = [f"{k.rpartition('.')[2]}-{run[k]}" for k in varied(runs) if k in run]
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", "_".join(parts)).strip("-_") or "run"


def flags(run: dict, more: list[str]) -> list[str]:
    return [*(f"--config.{k}={v}" for k, v in run.items()), *more]


def rows_of(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def finished(workdir: Path, iterations: int) -> bool:
    """Whether a run reached its end and exported its weights."""
    exported = any((workdir / kind / "README.md").exists() for kind in ("pipeline", "lora"))
    return exported and any(r["iteration"] >= iterations for r in rows_of(workdir))


def execute(command: list[str], log: Path) -> int:
    with log.open("a") as file:
        return subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode


def run_all(todo: list[tuple[str, Path, list[str]]], out: Path, execute: Callable = execute) -> list[str]:
    """Runs (name, workdir, command) one after another; returns the names of those that failed."""
    failed = []
    for number, (label, workdir, command) in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {label}", flush=True)
        workdir.mkdir(parents=True, exist_ok=True)
        if execute(command, workdir / "log.txt"):
            last = (workdir / "log.txt").read_text().strip().splitlines()[-1:] if (workdir / "log.txt").exists() else []
            print(f"  failed, see {workdir / 'log.txt'}: {' '.join(last)[:300]}", flush=True)
            failed.append(label)
    return failed


def submission(label: str, command: list[str], options) -> list[str]:
    """The words that start a run: the launcher of --write with its options, or the command itself."""
    if options.write == "commands":
        return command
    name = label[:60].lower().replace(".", "-").replace("_", "-").replace("=", "-")
    launcher = ["bash", str(ROOT / "launch" / {"slurm": "slurm.sh", "tpu": "tpu_pod.sh"}[options.write]), f"--name={name}"]
    if options.write == "slurm":
        launcher += [f"--{key}={getattr(options, key)}" for key in ("nodes", "gpus", "cpus", "hours")]
    else:
        launcher += [f"--type={options.tpu}", f"--hours={options.hours}"]
    return [*launcher, *options.launcher, "--", *command[command.index("mvgrpo_jax.main") + 1 :]]


def write_jobs(todo: list[tuple[str, Path, list[str]]], out: Path, options) -> Path:
    """A file below out/jobs that starts every unfinished run."""
    submit = ["#!/bin/bash", "set -e"]
    for label, workdir, command in todo:
        line = shlex.join(submission(label, command, options))
        if options.write == "tpu":  # it waits for its slice
            submit.append(f"mkdir -p {shlex.quote(str(workdir))}")
            line += f" > {shlex.quote(str(workdir))}/launch.log 2>&1 &"
        submit.append(line)
    if options.write == "tpu":
        submit.append("wait")
    path = out / "jobs" / "submit.sh"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(submit) + "\n")
    return path


def summary(runs: list[tuple[str, Path, dict, int, str]], out: Path, keys: list[str]) -> list[str]:
    """A table of (name, workdir, overrides, iterations, judge), also written to out/summary.csv, and means over seeds."""
    table = []
    for label, workdir, run, iterations, judge in runs:
        rows = rows_of(workdir)
        scores = [r[f"eval/{judge}"] for r in rows if f"eval/{judge}" in r]
        table.append(
            {
                "run": label,
                **{k: run.get(k, "") for k in keys},
                "iterations": f"{max((r['iteration'] for r in rows), default=0)}/{iterations}",
                "finished": finished(workdir, iterations),
                "first": scores[0] if scores else None,
                "last": scores[-1] if scores else None,
                "best": max(scores, default=None),
                "hours": sum(r.get("time/iteration", 0.0) for r in rows) / 3600,
            }
        )
    out.mkdir(parents=True, exist_ok=True)
    with (out / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    show = lambda x: "-" if x is None else f"{x:.4f}" if isinstance(x, float) else str(x)
    width = max(len(r["run"]) for r in table)
    columns = ("iterations", "finished", "first", "last", "best", "hours")
    lines = [f"{'run':<{width}}" + "".join(f"{c:>12}" for c in columns)]
    lines += [f"{r['run']:<{width}}" + "".join(f"{show(r[c]):>12}" for c in columns) for r in table]
    groups: dict[tuple, list[float]] = {}
    for r in table:
        if r["finished"]:
            groups.setdefault(tuple((k, str(r[k])) for k in keys if k != "seed"), []).append(r["last"])
    for key, values in groups.items():
        if len(values) > 1:
            mean = sum(values) / len(values)
            error = (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5
            lines.append(f"{', '.join(f'{k} {v}' for k, v in key)}: {mean:.4f} +- {error:.4f} over {len(values)} runs")
    return lines


@reports_errors
def main(argv: list[str] | None = None, execute: Callable = execute) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", required=True)
    parser.add_argument("--out", required=True, help="a folder for each run lies below it")
    parser.add_argument("--summary", action="store_true", help="the table alone")
    parser.add_argument("--write", choices=["commands", "slurm", "tpu"], help="write jobs instead of running")
    parser.add_argument("--hours", type=int, default=24, help="limit of a job")
    parser.add_argument("--nodes", type=int, default=1, help="slurm: nodes of a run")
    parser.add_argument("--gpus", type=int, default=8, help="slurm: GPUs of a node")
    parser.add_argument("--cpus", type=int, default=12, help="slurm: processor cores for each GPU")
    parser.add_argument("--tpu", default="v5p-64", help="tpu: accelerator type")
    parser.add_argument("--launcher", action="append", default=[], help="a word for the launcher, as --launcher=--spot")
    parser.add_argument("more", nargs="*", help="--config.key=value for every run, after --")
    options = parser.parse_args(argv)
    config, runs = load(options.sweep)
    if "://" in options.out:
        raise UserError(
            f"--out {options.out}: expected a folder (of a file system that all hosts of a run share), not a bucket"
        )
    out, todo, known = Path(options.out), [], []
    for run in runs:
        built = configuration.from_arguments(config, flags(run, options.more))
        label = name(run, runs)
        workdir = out / label
        command = [sys.executable if options.write is None else "python", "-m", "mvgrpo_jax.main", f"--config={config}"]
        command += [f"--workdir={workdir}", *flags(run, options.more)]
        known.append((label, workdir, run, built.iterations, built.eval.judge))
        if not finished(workdir, built.iterations):
            todo.append((label, workdir, command))
    failed = []
    if options.write:
        path = write_jobs(todo, out, options)
        print(f"{len(todo)} of {len(runs)} runs are not finished; jobs written, submit them with: bash {path}")
        return
    if not options.summary:
        print(f"{len(runs)} runs, {len(runs) - len(todo)} finished")
        failed = run_all(todo, out, execute)
    print("\n".join(summary(known, out, varied(runs))))
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; run the same command to try them again"
        )


if __name__ == "__main__":
    main()
