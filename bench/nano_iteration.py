"""Seconds of an iteration of configs/flux_nano.py, whole: `python bench/nano_iteration.py [--against COMMIT]`.

  demo     as `make demo` trains: 16 prompts, 5 steps, G = K = 10
  K = 12   the paper's sampling: 2 prompts, N 16, S {0, 2, 4, 6}, G 12
  K = 0    the same without captions

Each is a run of mvgrpo_jax.main, with its captioner, its judge and everything that it writes. Rounds alternate, and with
--against each run is followed by the same one of this repository at an earlier commit, from a work tree in --work. Figures are
medians over rounds of a run's median, without its first iterations and the last; idle is metrics.jsonl's time/idle.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import timing  # noqa: E402  (the path comes first)

PAPER = {"sampling.steps": 16, "group_size": 12, "prompts_per_iteration": 2, "algorithm.mvgrpo.trained_steps": (0, 2, 4, 6)}
CASES = {"demo": {}, "K = 12": PAPER | {"views.count": 12}, "K = 0": PAPER | {"views.count": 0}}
FIRST = 2  # iterations that compile and warm up
NOW = "now"


def tree_of(commit: str, work: Path) -> Path:
    """A work tree of this repository at a commit."""
    tree = work / commit
    if not tree.exists():
        for command in (["clone", "-q", str(ROOT), str(tree)], ["-C", str(tree), "checkout", "-q", commit]):
            if subprocess.run(["git", *command]).returncode:
                sys.exit(f"git {' '.join(command)} failed")
    return tree


def measure(tree: Path, flags: dict[str, object], iterations: int, workdir: Path) -> list[dict]:
    """Metrics of the iterations that count."""
    shutil.rmtree(workdir, ignore_errors=True)
    given = {"iterations": iterations, "eval.every": 0, "checkpoint.every": 10**6, "log.images_every": 10**6, **flags}
    words = [f"--config.{key}={value}" for key, value in given.items()]
    env = os.environ | {"PYTHONPATH": str(tree), "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / f"cache_{tree.name}")}
    command = [sys.executable, "-m", "mvgrpo_jax.main", "--config=configs/flux_nano.py", f"--workdir={workdir}", *words]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{done.stderr[-3000:]}")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "time/iteration" in row][FIRST:-1]


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| iteration | tree | seconds | idle, % | that tree / now |", "|---|---|---|---|---|"]
    for case, trees in found.items():
        for tree, row in trees.items():
            idle = f"{100 * row['idle']:.1f}" if "idle" in row else ""
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            lines.append(f"| {case} | {tree} | {row['seconds']:.2f} | {idle} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=7, help="of a run")
    parser.add_argument("--case", choices=list(CASES), action="append", help="default: all")
    parser.add_argument("--against", help="a commit of this repository")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "nano_iteration")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench" / "nano_iteration.json")
    timing.begin()
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    cases = options.case or list(CASES)
    trees = {NOW: ROOT} | ({options.against: tree_of(options.against, work)} if options.against else {})
    rounds: dict[tuple[str, str], list[dict[str, float]]] = {(case, tree): [] for case in cases for tree in trees}
    with timing.Disturbance() as others:
        for number in range(options.rounds):
            for case in cases:
                for tree, place in trees.items():
                    rows = measure(place, CASES[case], options.iterations, work / "run")
                    row = {"seconds": statistics.median(r["time/iteration"] for r in rows)}
                    if idle := [r["time/idle"] for r in rows if "time/idle" in r]:
                        row["idle"] = statistics.median(idle)
                    rounds[case, tree].append(row)
                    print(json.dumps({"round": number, "case": case, "tree": tree} | row), flush=True)
    of = lambda case, tree, name: [row[name] for row in rounds[case, tree] if name in row]
    ratio = lambda a, b: timing.ratio(of(*a, "seconds"), of(*b, "seconds"))
    found: dict[str, dict[str, dict[str, float]]] = {case: {} for case in cases}
    for case, tree in rounds:
        row = {name: statistics.median(values) for name in ("seconds", "idle") if (values := of(case, tree, name))}
        found[case][tree] = row | ({} if tree == NOW else {"ratio": ratio((case, tree), (case, NOW))})
    facts: dict = {"rounds": options.rounds, "iterations": options.iterations, "cases": found}
    if {"K = 12", "K = 0"} <= set(cases):
        facts["views"] = {tree: ratio(("K = 12", tree), ("K = 0", tree)) for tree in trees}
    timing.record(options.out, "nano_iteration", facts, others.share)
    print(table(found))
    for tree, value in facts.get("views", {}).items():
        print(f"K = 12 / K = 0, {tree}: {value:.2f}")


if __name__ == "__main__":
    main()
