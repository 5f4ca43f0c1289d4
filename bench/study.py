"""Every algorithm on flux-nano with one budget of model evaluations: `python bench/study.py --out runs/study`.

An arm is a set of config overrides, trained for each seed until the budget is spent (in forward passes; a forward and backward
counts three). Then the exported pipeline paints held-out prompts that no setting was chosen on. One process at a time; runs
that are finished are not repeated, interrupted ones go on. Each finished run is a line of docs/study/runs.jsonl; --report makes
the tables in docs/results.md and the pictures docs/images/study_*.png from it. Committed are three seeds of every arm, and five
of those with 16 steps (--seeds 5).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

FACTS = ROOT / "docs" / "study" / "runs.jsonl"
STRIPS = FACTS.parent / "strips"
FAMILY = (
    "flow_grpo",
    "flow_grpo_fast",
    "dancegrpo",
    "mixgrpo",
    "tempflow_grpo",
    "branchgrpo",
    "granular_grpo",
    "diffusion_nft",
    "grpo_guard",
    "pave_grpo",
    "adagrpo",
)
OFFLINE = {"views.enhancer": "offline", "views.file": "{captions}"}
UNRELATED = {"views.enhancer": "offline", "views.file": "{unrelated}"}
# Arm -> overrides. The first ones are the comparison of the family, the others ablations of mvgrpo.
ARMS: dict[str, dict[str, object]] = {
    "mvgrpo online": {},
    "mvgrpo offline": OFFLINE,
    "single view": {"views.count": 0},
    **{name: {"algorithm.name": name} for name in FAMILY},
    **{f"K = {k}": {"views.count": k} for k in (1, 2, 4, 8, 12)},
    "unrelated captions": UNRELATED,
    "sum over views": {"views.aggregate": "sum"},
    "one perspective": {"views.perspectives": ("subject",)},
    **{f"S = {s}": {"algorithm.mvgrpo.trained_steps": s} for s in ((0,), (1,), (0, 1, 2), (0, 1, 2, 3))},
}
# The paper's sampling: 592 evaluations a prompt for the rollout, beside which views cost little. An iteration of 8 prompts
# costs three to four of the others', hence the larger budget.
SCHEDULE = {"sampling.steps": 16, "group_size": 12, "prompts_per_iteration": 8, "algorithm.mvgrpo.trained_steps": (0, 2, 4, 6)}
PAPER = {f"{arm}, 16 steps": ARMS[arm] | SCHEDULE for arm in ("mvgrpo online", "mvgrpo offline", "single view")}
ARMS |= PAPER
BUDGETS = 3
# Not run yet, and not on the page: --arm names them.
WEIGHTS = {f"prompt weight {w}": {"views.aggregate": "balanced", "views.prompt_weight": w} for w in (0.25, 0.5, 0.75)}


def budget_of(arm: str, budget: int) -> int:
    """Forward passes of a run of this arm where the family's runs have `budget`."""
    return budget * (BUDGETS if arm in PAPER else 1)


def flags_of(arm: str, seed: int, out: Path) -> dict[str, object]:
    files = {"captions": str(out / "captions.jsonl"), "unrelated": str(out / "unrelated.jsonl")}
    own = {k: v.format(**files) if isinstance(v, str) else v for k, v in (ARMS | WEIGHTS)[arm].items()}
    return {"seed": seed, "log.images_every": 1000, "checkpoint.every": 20, "checkpoint.keep": 1, **own}


def run(command: list[str]) -> None:
    print("+", " ".join(command), flush=True)
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(f"failed: {' '.join(command)}")


def words(flags: dict[str, object]) -> list[str]:
    return [f"--config.{k}={v}" for k, v in flags.items()]


def plan(flags: dict[str, object], total: int, most: int = 10**9) -> tuple[int, int]:
    """(iterations that spend `total` forward passes, `most` of them at most; forward passes they spend)."""
    from mvgrpo_jax import configuration, pipelines
    from mvgrpo_jax.parallel.mesh import make_mesh
    from mvgrpo_jax.run import budget
    from mvgrpo_jax.run.programs import Programs

    config = configuration.from_arguments("configs/flux_nano.py", words(flags))
    programs = Programs.build(config, pipelines.describe(config.pipeline), make_mesh())
    spent, iterations = 0, 0
    costs: dict = {}
    while True:
        moment = programs.algorithm.schedule(iterations)
        if moment not in costs:
            costs[moment] = budget.of(config, programs, iterations).evaluations
        if iterations == most or (spent + costs[moment] > total and iterations):
            return iterations, spent
        spent, iterations = spent + costs[moment], iterations + 1


def captions(out: Path) -> None:
    """Captions of the training prompts by the embedded rewriter, and the same ones given to other prompts."""
    from configs import flux_nano
    from mvgrpo_jax.prompts import load_prompts

    out.mkdir(parents=True, exist_ok=True)
    config = flux_nano.get_config()
    prompts = load_prompts(config.prompts.train, config.prompts.train_count, held_out=False)
    (out / "prompts.txt").write_text("\n".join(prompts) + "\n")
    path = out / "captions.jsonl"
    if not path.exists():
        run(
            [sys.executable, "-m", "mvgrpo_jax.enhance", "--prompts", str(out / "prompts.txt"), "--out", str(path), "--k", "12"]
        )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    half = len(lines) // 2
    moved = [{"prompt": a["prompt"], "captions": b["captions"]} for a, b in zip(lines, lines[half:] + lines[:half])]
    (out / "unrelated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in moved))


def judge(pipeline: str, out: Path, seed: int) -> dict[str, float]:
    """Scores of 256 held-out prompts beyond the 192 that settings were chosen on, and diversity of 8 pictures each of 32."""
    common = [sys.executable, "-m", "mvgrpo_jax.evaluate", "--pipeline", pipeline, "--prompts", "flux-nano-one", "--steps", "8"]
    scores = {}
    for part, count, more in (("scores", 256, []), ("diversity", 32, ["--seeds", "8"])):
        folder = out / part
        if not (folder / "summary.json").exists():
            run([*common, "--first", "192", "--count", str(count), "--seed", str(1), "--out", str(folder), *more])
        found = json.loads((folder / "summary.json").read_text())
        means = {name: judged["mean"] for name, judged in found["judges"].items()}
        scores |= {"diversity": found["collapse"]["pixel_distance"]["mean"]} if more else means
    return scores


def one(arm: str, seed: int, out: Path, total: int) -> dict:
    """Trains an arm with a seed, unless that is done, and measures it."""
    flags = flags_of(arm, seed, out)
    iterations, spent = plan(flags, total)
    every = max(iterations // 8, 1)
    workdir = out / f"{arm.replace(' ', '_')}_{seed}"
    if not (workdir / "report.html").exists():
        given = words(flags | {"iterations": iterations, "eval.every": every})
        main = [sys.executable, "-m", "mvgrpo_jax.main", "--config=configs/flux_nano.py", f"--workdir={workdir}"]
        run([*main, *given, "--compilation_cache=.cache/jax"])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    # Seconds of an iteration that does not evaluate, the lower quartile: what else the machine does only adds to them.
    seconds = sorted(r["time/iteration"] for r in rows if "time/iteration" in r and "time/eval" not in r)
    steady = seconds[len(seconds) // 4]
    curve = [(r["iteration"] * spent / iterations, r["eval/scene"], r["eval/clip"]) for r in rows if "eval/scene" in r]
    facts = {"arm": arm, "seed": seed, "iterations": iterations, "evaluations": spent, "seconds": steady * iterations}
    last = next(r for r in reversed(rows) if "ratio/max" in r or "optimality" in r)
    if seed == 0:
        strip(arm, workdir)
        if not (STRIPS / "before.png").exists():
            strip("before", workdir, 0)
    facts |= {k: last[k] for k in ("zero_std/scene", "kl", "grad_norm") if k in last}
    return facts | {"curve": curve} | judge(str(workdir / "pipeline"), workdir / "test", seed)


def strip(arm: str, workdir: Path, row: int = -1, count: int = 10) -> None:
    """Keeps the pictures of the first held-out prompts, painted from the same noise in every run, as one row."""
    import numpy as np
    from PIL import Image

    STRIPS.mkdir(parents=True, exist_ok=True)
    images = np.load(sorted((workdir / "eval").glob("*.npy"))[row])[:count]
    Image.fromarray(np.concatenate(images, axis=1)).save(STRIPS / f"{arm.replace(' ', '_')}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study")
    parser.add_argument("--budget", type=int, default=90_000, help=f"forward passes a run; {BUDGETS} times that with 16 steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arm", action="append", default=[], help="only this arm (may be repeated)")
    parser.add_argument("--report", action="store_true", help="tables and pictures of what is done; trains nothing")
    options = parser.parse_args()
    if unknown := set(options.arm) - set(ARMS | WEIGHTS):
        sys.exit(f"no arm {', '.join(sorted(unknown))}; there are: {', '.join(ARMS | WEIGHTS)}")
    FACTS.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in FACTS.read_text().splitlines()] if FACTS.exists() else []
    if options.report:
        from bench import study_report

        return study_report.write(done, ROOT / "docs")
    captions(options.out)
    if not any(r["arm"] == "before" for r in done):
        add({"arm": "before", "seed": 0, "budget": 0, **judge("flux-nano", options.out / "before", 0)})
    for seed in range(options.seeds):  # every arm once, then again: what is there early can be compared
        for arm in options.arm or ARMS:
            total = budget_of(arm, options.budget)
            if not any((r["arm"], r["seed"], r["budget"]) == (arm, seed, total) for r in done):
                add({"budget": total} | one(arm, seed, options.out, total))


def add(facts: dict) -> None:
    with FACTS.open("a") as file:
        file.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
