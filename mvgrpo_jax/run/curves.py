"""Metrics of one run or several as curves."""

from __future__ import annotations

import numpy as np

from mvgrpo_jax.run import page

SMOOTHED = 40
# Title, what it means, the metrics drawn.
PLOTS = (
    ("Held-out evaluation", "Fixed prompts and noise, ODE sampling.", "eval/"),
    ("Reward in training", "Mean over the samples under their own prompt.", "reward/"),
    ("Reward under all views", "Mean over prompt and captions.", "reward_views/"),
    ("Scores that a judge could not give", "Share of those that it was asked for; they train nothing.", "reward_invalid/"),
    ("Advantage", "Mean absolute value.", "advantage/"),
    ("Groups without a signal", "Share of groups whose rewards are all equal.", "zero_std/"),
    ("Probability ratio", "Of the last update of an iteration.", "ratio/"),
    ("Clipped ratios", "Share below and above the clip range.", "clip/"),
    ("Drift", "Largest difference of the update's log-probability from the rollout's, prompt view.", "drift/"),
    ("Gradient norm", "Before it is bounded.", "grad_norm"),
    ("Captions", "Asked for, missing, cut, asked for again; seconds of waiting that sampling did not hide.", "enhancer/"),
    ("Seconds", "Time of each stage.", "time/"),
)


def curve(rows: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Iterations and values of a metric, where it has one."""
    points = [(r["iteration"], r[name]) for r in rows if r.get(name) is not None]
    return [p[0] for p in points], [p[1] for p in points]


def names(runs: dict[str, list[dict]], prefix: str) -> list[str]:
    """The metrics of any run that start so."""
    return sorted({k for rows in runs.values() for r in rows for k in r if k.startswith(prefix)})


def figure(title: str, text: str, image: bytes) -> dict[str, str]:
    """What page.FIGURES shows."""
    return {"title": title, "text": text, "data": page.embedded(image)}


def figures(runs: dict[str, list[dict]]) -> list[dict[str, str]]:
    """Every plot that the runs have metrics for."""
    drawn = [(title, text, plot(runs, prefix)) for title, text, prefix in PLOTS]
    return [figure(title, text, image) for title, text, image in drawn if image]


def plot(runs: dict[str, list[dict]], prefix: str) -> bytes | None:
    """One PNG with every metric that starts with `prefix`; None when there is none."""
    found = names(runs, prefix)
    if not found:
        return None
    picture, axes = page.axes()
    for number, (label, rows) in enumerate(runs.items()):
        for color, name in enumerate(found):
            x, y = curve(rows, name)
            text = f"{label}: {name}" if len(runs) > 1 else name
            style = {"linestyle": ("-", "--", ":", "-.")[number % 4], "color": f"C{color % 10}", "label": text}
            axes.plot(x, y, marker="o" if len(x) < 20 else None, markersize=3, **style)
    axes.legend(fontsize=7)
    return page.drawn(picture)


def one(runs: dict[str, list[dict]], name: str) -> bytes:
    """A PNG of one metric, a line a run. Of over SMOOTHED values the running mean is drawn over the values themselves."""
    picture, axes = page.axes()
    for number, (label, rows) in enumerate(runs.items()):
        x, y = curve(rows, name)
        color = f"C{number % 10}"
        if len(x) > SMOOTHED:
            axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
            y = running_mean(y, len(y) // 20)
        axes.plot(x, y, color=color, label=label, marker="o" if len(x) < 20 else None, markersize=3)
    axes.legend(fontsize=7)
    return page.drawn(picture)


def running_mean(values: list[float], reach: int) -> list[float]:
    """The mean of each value and of up to `reach` before and after it, as many on either side."""
    last = len(values) - 1
    spans = [min(reach, i, last - i) for i in range(len(values))]
    return [float(np.mean(values[i - span : i + span + 1])) for i, span in enumerate(spans)]
