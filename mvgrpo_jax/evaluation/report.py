"""What a command prints of a finished evaluation."""

from __future__ import annotations

from typing import Any


def lines(summary: dict[str, Any]) -> list[str]:
    """A line a judge, a line a judge of the comparison, and what was not as it should be."""
    out = []
    for name, found in summary["judges"].items():
        out.append(f"{name}: {_number(found)} over {found['prompts']} prompts")
        if found["missing"]:
            out.append(
                f"note: {name} gave no score of {found['missing']} pictures; their cells are empty, the same command asks again"
            )
        if found["captions_cut"]:
            out.append(f"note: {name} cut {found['captions_cut']} prompts that are longer than it reads")
    for name, found in summary.get("against", {}).get("judges", {}).items():
        won = {key: None if found["win_rate"][key] is None else 100 * found["win_rate"][key] for key in ("mean", "low", "high")}
        against = summary["against"]["name"]
        out.append(
            f"{name}: wins {_number(won, 1)} % of {found['pairs']} pairs against {against}, by {_number(found['difference'])}"
        )
    if summary["not_finite"]:
        out.append(f"note: {summary['not_finite']} pictures are not finite and were not judged")
    return out


def _number(found: dict[str, Any], digits: int = 4) -> str:
    if found["mean"] is None:
        return "no score"
    interval = "" if found["low"] is None else f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    return f"{found['mean']:.{digits}f}{interval}"
