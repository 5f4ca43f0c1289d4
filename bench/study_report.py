"""Tables and pictures of bench/study.py from docs/study/runs.jsonl; trains nothing."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from bench.study import ARMS, FAMILY, PAPER, budget_of
from mvgrpo_jax.prompts import load_prompts

MARKS = ("<!-- tables of bench/study.py -->", "<!-- end of the tables -->")
MAIN = ("mvgrpo online", "mvgrpo offline", "single view", *FAMILY)


def of_arm(runs: list[dict], arm: str) -> list[dict]:
    return [r for r in runs if r["arm"] == arm]


def mean_error(values: list[float]) -> str:
    """mean +- standard error; the error needs two runs."""
    if not values:
        return "-"
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    return f"{np.mean(values):.3f}" + (f" +- {error:.3f}" if error is not None else "")


def reached(run: dict, target: float) -> float | None:
    """Evaluations at which the curve first crosses a score, interpolated between evaluations of it."""
    before = None
    for spent, score, _ in run["curve"]:
        if score >= target:
            if before is None or score == before[1]:
                return spent
            return before[0] + (spent - before[0]) * (target - before[1]) / (score - before[1])
        before = (spent, score)
    return None


def after(run: dict, iterations: int) -> float:
    """The curve's score after so many iterations, interpolated: as many pictures drawn."""
    at = [spent * run["iterations"] / run["evaluations"] for spent, _, _ in run["curve"]]
    return float(np.interp(iterations, at, [score for _, score, _ in run["curve"]]))


def against(runs: list[dict], arm: str, other: str) -> str:
    """Mean and standard error of the difference in exact score between runs of one seed, which share prompts and noise."""
    if arm == other:
        return ""
    theirs = {r["seed"]: r["scene"] for r in of_arm(runs, other)}
    return mean_error([r["scene"] - theirs[r["seed"]] for r in of_arm(runs, arm) if r["seed"] in theirs])


def table(runs: list[dict], arms: tuple[str, ...], before: dict, target: float, iterations: int = 0) -> list[str]:
    """A row an arm. The gap is the gain of the exact score less that of the learned one, each in its own units. Seconds are the
    least disturbed run's. iterations: adds the score after so many."""
    heads = ["arm", "seeds", "iterations", "exact score", f"difference to {arms[0]}", "learned (clip-nano)", "gap of gains"]
    heads += ["diversity", f"evaluations to {target:.2f}", "seconds to it", "seconds a run"]
    heads += [f"curve after {iterations} iterations"] * bool(iterations)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    first = ["before training", "", "", f"{before['scene']:.3f}", "", f"{before['clip']:.3f}", "", f"{before['diversity']:.3f}"]
    lines.append("| " + " | ".join(first + [""] * (len(heads) - len(first))) + " |")
    for arm in arms:
        found = of_arm(runs, arm)
        if not found:
            continue
        gaps = [(r["scene"] - before["scene"]) - (r["clip"] - before["clip"]) for r in found]
        arrived = [(s, r) for r in found if (s := reached(r, target)) is not None]
        second = min(r["seconds"] / r["evaluations"] for r in found)
        spent = np.mean([s for s, _ in arrived]) if arrived else None
        cells = [arm, len(found), found[0]["iterations"], mean_error([r["scene"] for r in found]), against(runs, arm, arms[0])]
        cells += [mean_error([r["clip"] for r in found]), mean_error(gaps), mean_error([r["diversity"] for r in found])]
        cells += [f"{spent / 1000:.0f} k ({len(arrived)} of {len(found)})", f"{spent * second:.0f}"] if arrived else ["not", ""]
        cells += [f"{second * found[0]['evaluations']:.0f}"]
        cells += [mean_error([after(r, iterations) for r in found if r["iterations"] >= iterations])] * bool(iterations)
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    return lines


def curves(runs: list[dict], arms: tuple[str, ...], path: Path) -> None:
    """Held-out exact score over model evaluations, mean of seeds, a line an arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 5.5))
    for number, arm in enumerate(a for a in arms if of_arm(runs, a)):
        found = of_arm(runs, arm)
        spent = np.array([[c[0] for c in r["curve"]] for r in found if len(r["curve"]) == len(found[0]["curve"])])
        score = np.array([[c[1] for c in r["curve"]] for r in found if len(r["curve"]) == len(found[0]["curve"])])
        style = {"linewidth": 2.4} if arm.startswith("mvgrpo") else {"linewidth": 1.2, "linestyle": ("-", "--")[number % 2]}
        axis.plot(spent.mean(0) / 1000, score.mean(0), label=f"{arm} ({len(found)})", color=plt.cm.tab20(number % 20), **style)
    axis.set(xlabel="model evaluations, thousands", ylabel="exact score, 128 held-out prompts")
    axis.legend(fontsize=8, ncols=2)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def grid(path: Path, strips: Path) -> None:
    """The same held-out prompts and noise under every arm, a row an arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = [(a, strips / f"{a.replace(' ', '_')}.png") for a in ("before", *MAIN, *PAPER)]
    found = [(arm, file) for arm, file in found if file.exists()]
    if not found:
        return
    figure, rows = plt.subplots(len(found), 1, figsize=(10, 1.02 * len(found)), squeeze=False)
    prompts = load_prompts("flux-nano-one", 10, held_out=True)
    for (arm, file), axis in zip(found, rows[:, 0]):
        strip = plt.imread(file)
        axis.imshow(strip)
        if arm == "before":
            for i, prompt in enumerate(prompts):
                words = "\n".join(textwrap.wrap(prompt, 19))
                axis.text((i + 0.5) * strip.shape[0], -2, words, ha="center", va="bottom", fontsize=5)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(arm, rotation=0, ha="right", va="center", fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


def insert(page: Path, lines: list[str]) -> None:
    """Puts the tables between the page's two marks; the words around them are written by hand."""
    head, found, rest = page.read_text().partition(MARKS[0])
    _, closed, tail = rest.partition(MARKS[1])
    if not (found and closed):
        raise SystemExit(f"{page} lacks the lines {MARKS[0]} and {MARKS[1]}, between which the tables belong")
    page.write_text("\n".join([head + MARKS[0], *lines, MARKS[1] + tail]))


def tables(done: list[dict], before: dict) -> list[str]:
    """Lines of the three tables: the family, the ablations of mvgrpo, and the paper's sampling."""
    # Half of the best arm's gain while training, on the 128 prompts of the curves: a score that several arms pass.
    last = {a: np.mean([r["curve"][-1][1] for r in of_arm(done, a)]) for a in ARMS if of_arm(done, a) and a not in PAPER}
    target = round(float(np.mean([done[0]["curve"][0][1], max(last.values())])), 2)
    rest = tuple(a for a in ARMS if a not in (*MAIN, *PAPER))
    lines = [f"Budget {done[0]['budget']:,} forward passes a run. Mean and standard error over seeds.", ""]
    lines += table(done, MAIN, before, target)
    ablations = ("mvgrpo online", "mvgrpo offline", "single view", *rest)
    views = [a for a in ablations if not a.startswith("S = ")]  # step sets differ more in cost than the views do
    fewest = min(r["iterations"] for r in done if r["arm"] in views)
    lines += ["", "Ablations of mvgrpo:", "", *table(done, ablations, before, target, fewest)]
    paper = [r for r in done if r["arm"] in PAPER]
    if not paper:
        return lines
    lines += ["", f"The paper's sampling and step set, {paper[0]['budget']:,} forward passes a run:", ""]
    return lines + table(done, tuple(PAPER), before, target, min(r["iterations"] for r in paper))


def write(runs: list[dict], docs: Path) -> None:
    before = next(r for r in runs if r["arm"] == "before")
    done = [r for r in runs if r["arm"] != "before"]
    budget = max(r["budget"] for r in done if r["arm"] not in PAPER)
    done = [r for r in done if r["budget"] == budget_of(r["arm"], budget)]
    lines = tables(done, before)
    insert(docs / "results.md", lines)
    curves(done, MAIN, docs / "images" / "study_curves.png")
    if any(r["arm"] in PAPER for r in done):
        curves(done, tuple(PAPER), docs / "images" / "study_paper.png")
    grid(docs / "images" / "study_grid.png", docs / "study" / "strips")
    print("\n".join(lines))
