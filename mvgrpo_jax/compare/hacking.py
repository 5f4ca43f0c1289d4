"""Reward hacking: what judges that train gain against what those gain that only watch (weight 0)."""

from __future__ import annotations

from typing import NamedTuple

from mvgrpo_jax.compare.runs import Compared
from mvgrpo_jax.run import curves, page

DEVIATIONS, SHARE = "standard deviations", "per cent of the first score"


class Gains(NamedTuple):
    """Of a run: trained and held_out {judge: {iteration: change since the first evaluation}}, in `unit`: standard deviations of
    the first evaluation's scores over its prompts where those are known, else per cent of its mean."""

    run: str
    unit: str
    trained: dict[str, dict[int, float]]
    held_out: dict[str, dict[int, float]]


def gains(run: Compared) -> Gains | None:
    """None for a run without a judge of either sort, or without two evaluations by all of them."""
    found = {judge: run.scores(judge) for judge in run.judges if run.scores(judge)}
    trained = {judge for judge in found if run.weight(judge)}
    common = sorted(set.intersection(*(set(scores) for scores in found.values())))
    if not trained or trained == set(found) or len(common) < 2:
        return None
    found = {judge: {iteration: scores[iteration] for iteration in common} for judge, scores in found.items()}
    spread = {judge: curves.curve(run.rows, f"eval_std/{judge}")[1][:1] for judge in found}
    deviations = all(values and values[0] > 0 for values in spread.values())
    if not deviations and not all(scores[min(scores)] for scores in found.values()):
        return None
    change = {}
    for judge, scores in found.items():
        begin = scores[min(scores)]
        scale = spread[judge][0] if deviations else abs(begin) / 100
        sign = 1 if run.weight(judge) >= 0 else -1  # a judge of negative weight is trained to fall
        change[judge] = {iteration: sign * (score - begin) / scale for iteration, score in scores.items()}
    parts = ({judge: change[judge] for judge in found if (judge in trained) == wanted} for wanted in (True, False))
    return Gains(run.name, DEVIATIONS if deviations else SHARE, *parts)


def plot(found: Gains) -> bytes:
    """A PNG: judges that train as lines, those that watch dashed."""
    picture, axes = page.axes(fitted=True)
    for style, role, group in (("-", "trained", found.trained), ("--", "held out", found.held_out)):
        for number, (judge, changes) in enumerate(group.items()):
            color = f"C{number + (len(found.trained) if role != 'trained' else 0)}"
            axes.plot(
                list(changes), list(changes.values()), style, color=color, marker="o", markersize=3, label=f"{judge} ({role})"
            )
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.set_ylabel(found.unit, fontsize=8)
    axes.legend(fontsize=7)
    return page.drawn(picture)


def sentence(found: Gains) -> str:
    """What the last evaluation says, and since when. They diverge where the mean of the trained judges rose while that of the
    others fell."""
    trained, held_out = (_mean(group) for group in (found.trained, found.held_out))
    last = max(trained)
    sides = [
        f"{role} {', '.join(group)} {mean[last]:+.2f}"
        for role, group, mean in (("trained", found.trained, trained), ("held out", found.held_out, held_out))
    ]
    shown = f"{found.run}, iteration {last}: {'; '.join(sides)} {found.unit}"
    peak = max(held_out, key=lambda iteration: held_out[iteration])
    if trained[last] <= 0 or held_out[last] == held_out[peak]:
        return shown
    if held_out[last] < 0:
        return f"{shown}; they diverge: what is held out falls since iteration {peak}"
    return f"{shown}; what is held out was highest at iteration {peak}"


def _mean(group: dict[str, dict[int, float]]) -> dict[int, float]:
    """Over the judges of a group."""
    return {i: sum(changes[i] for changes in group.values()) / len(group) for i in next(iter(group.values()))}
