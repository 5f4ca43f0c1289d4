"""MV-GRPO beside single-view GRPO on flux-nano, several seeds: `python bench/nano_comparison.py --out runs/comparison`.

Every run has equal iterations and equal samples; the only difference is config.views. After training, each exported pipeline
paints held-out prompts that no run evaluated while training (--first skips those that configs were chosen on), and the exact
scorer judges them. Runs that are finished are not repeated; one process at a time. Writes comparison.json and comparison.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

VARIANTS = {
    "mv": [],
    "single": ["--config.views.count=0"],
}
REGIMES = {"demo": [], "few": ["--config.prompts.train_count=16"]}


def run(command: list[str]) -> None:
    print("+", " ".join(command), flush=True)
    if subprocess.run(command).returncode:
        sys.exit(f"failed: {' '.join(command)}")


def test_score(pipeline: str, out: Path, first: int, count: int, prompts: str) -> dict:
    """{judge: {mean, stderr}} on prompts first .. first + count - 1."""
    path = out / "summary.json"
    if not path.exists():
        options = ["--prompts", prompts, "--first", str(first), "--count", str(count), "--steps", "8", "--seed", "1"]
        run([sys.executable, "-m", "mvgrpo_jax.evaluate", "--pipeline", pipeline, "--out", str(out), *options])
    return json.loads(path.read_text())["judges"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--regime", choices=sorted(REGIMES), action="append", default=[])
    parser.add_argument("--first", type=int, default=192, help="held-out prompts that are skipped")
    parser.add_argument("--count", type=int, default=256, help="held-out prompts that judge")
    parser.add_argument("--prompts", default="flux-nano-one")
    parser.add_argument("flags", nargs="*", help="further --config.key=value for every run, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    judge = lambda pipeline, name: test_score(
        pipeline, options.out / "test" / name, options.first, options.count, options.prompts
    )
    before = judge("flux-nano", "before")
    rows = []
    for regime in options.regime or ["demo"]:
        for variant, flags in VARIANTS.items():
            for seed in range(options.seeds):
                name = f"{regime}_{variant}_{seed}"
                workdir = options.out / name
                if not (workdir / "report.html").exists():
                    command = [sys.executable, "-m", "mvgrpo_jax.main", "--config=configs/flux_nano.py", f"--workdir={workdir}"]
                    cache = "--compilation_cache=.cache/jax"
                    run([*command, f"--config.seed={seed}", cache, *REGIMES[regime], *flags, *options.flags])
                curve = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
                after = judge(str(workdir / "pipeline"), name)
                seconds = sum(r.get("time/iteration", 0.0) for r in curve)
                evaluations = {r["iteration"]: r["eval/scene"] for r in curve if "eval/scene" in r}
                row = {"regime": regime, "variant": variant, "seed": seed, "seconds": seconds, "curve": evaluations}
                rows.append(row | {f"test/{n}": s["mean"] for n, s in after.items()})
                (options.out / "comparison.json").write_text(json.dumps({"before": before, "runs": rows}, indent=2) + "\n")
    report(before, rows, options.out)


def report(before: dict, rows: list[dict], out: Path) -> None:
    """The table (mean and standard error over seeds) and the curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    start = before["scene"]["mean"]
    print(f"before: scene {start:.3f} (+- {before['scene']['stderr']:.3f} over prompts), clip {before['clip']['mean']:.3f}")
    print(f"{'regime':<8}{'views':<8}{'scene':>8}{'+-':>7}{'gain':>8}{'clip':>8}{'s':>7}")
    groups = sorted({(r["regime"], r["variant"]) for r in rows})
    figure, axis = plt.subplots(figsize=(7, 4), dpi=110)
    for regime, variant in groups:
        own = [r for r in rows if (r["regime"], r["variant"]) == (regime, variant)]
        scene = np.asarray([r["test/scene"] for r in own])
        error = scene.std(ddof=1) / len(scene) ** 0.5 if len(scene) > 1 else float("nan")
        clip, seconds = (np.mean([r[k] for r in own]) for k in ("test/clip", "seconds"))
        gain = f"{scene.mean() / start - 1:+.0%}"
        print(f"{regime:<8}{variant:<8}{scene.mean():>8.3f}{error:>7.3f}{gain:>8}{clip:>8.3f}{seconds:>7.0f}")
        steps = sorted(map(int, own[0]["curve"]))
        curves = np.asarray([[r["curve"].get(s, r["curve"].get(str(s))) for s in steps] for r in own])
        axis.plot(steps, curves.mean(0), marker="o", label=f"{regime}, {variant}")
        axis.fill_between(steps, curves.min(0), curves.max(0), alpha=0.15)
    axis.set_xlabel("iteration")
    axis.set_ylabel("exact score, held-out prompts seen while training")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(out / "comparison.png")


if __name__ == "__main__":
    main()
