"""What is known when all is painted and judged, as arrays [prompts, seeds], and what follows from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.evaluation import collapse, judging, look
from mvgrpo_jax.evaluation.intervals import estimate, wins
from mvgrpo_jax.evaluation.ledger import Ledger
from mvgrpo_jax.evaluation.side import Side

PAIR = ("judge", "prompt", "number", "seed", "score", "against", "difference")  # of a row of pairs.csv


@dataclasses.dataclass(frozen=True)
class Results:
    """Of one side: scores {judge: [P, S]} with not-a-number where there is none, brightness, saturation [P, S], small pictures
    uint8 [P, S, 32, 32, 3], and vectors [P, S, d] where a judge gave some."""

    side: Side
    scores: dict[str, np.ndarray]
    brightness: np.ndarray
    saturation: np.ndarray
    small: np.ndarray
    not_finite: int
    vectors: np.ndarray | None


def collect(side: Side, judges: list[str], space: str | None) -> Results:
    """Reads the ledgers of a side that is painted and judged. space: the judge whose vectors are kept. UserError where another
    evaluation lacks something."""
    looks = side.looks.read()
    keys = [[f"{number:05d}_{seed}" for seed in side.job.seeds] for number in side.job.prompts.numbers]
    if lost := [key for row in keys for key in row if key not in looks]:
        raise UserError(f"{side.folder} lacks {len(lost)} pictures, such as {lost[0]}; run its own command to its end first")
    scores = {}
    for name in judges:
        book = judging.ledger(side, name)
        known = book.read()
        if not known and any(record["finite"] for record in looks.values()):
            raise UserError(
                f"{side.folder} has no scores of the judge {name!r}; run its own command with --judge {name} first, which adds "
                "them and paints nothing anew"
            )
        scores[name] = np.asarray([[_or_nan(known.get(key)) for key in row] for row in keys])
    each = lambda name: np.asarray([[looks[key][name] for key in row] for row in keys])
    small = np.stack([np.stack([look.small(looks[key]) for key in row]) for row in keys])
    lost = int((~each("finite")).sum())
    vectors = _vectors(side, space, keys) if space else None
    return Results(side, scores, each("brightness"), each("saturation"), small, lost, vectors)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _vectors(side: Side, space: str, keys: list[list[str]]) -> np.ndarray | None:
    """[P, S, d], not-a-number where there is none; None where there is not one."""
    known = {key: judging.unpacked(text) for key, text in Ledger(side.folder, judging.VECTORS.format(space)).read().items()}
    if not known:
        return None
    nothing = np.full_like(next(iter(known.values())), np.nan)
    return np.stack([np.stack([known.get(key, nothing) for key in row]) for row in keys])


def summary(ours: Results, theirs: Results | None, cut: dict[str, int]) -> dict[str, Any]:
    """What summary.json holds. cut: captions that a judge had to cut, by its name."""
    prompts = ours.side.job.prompts
    out: dict[str, Any] = {"name": ours.side.name, "prompts": len(prompts.texts), "pictures": len(ours.side.items)}
    out["not_finite"] = ours.not_finite
    out["judges"] = {name: _of_judge(values) | {"captions_cut": cut.get(name, 0)} for name, values in ours.scores.items()}
    out["styles"] = {style: _of_style(ours, rows) for style, rows in by_style(prompts.styles).items()}
    out["collapse"] = _collapse(ours)
    if theirs:
        out["against"] = {
            "name": theirs.side.name,
            "not_finite": theirs.not_finite,
            "judges": {name: _compared(ours.scores[name], theirs.scores[name]) for name in ours.scores},
            "styles": {style: _of_style(theirs, rows) for style, rows in by_style(prompts.styles).items()},
            "collapse": _collapse(theirs),
        }
    return out


def by_style(styles: tuple[str, ...]) -> dict[str, list[int]]:
    """{style: rows of its prompts}, in the order of their first; without those that have none."""
    found: dict[str, list[int]] = {}
    for row, style in enumerate(styles):
        if style:
            found.setdefault(style, []).append(row)
    return found


def _of_judge(values: np.ndarray) -> dict[str, Any]:
    missing = int(np.isnan(values).sum())
    return estimate(values).as_json() | {"scored": values.size - missing, "missing": missing}


def _of_style(results: Results, rows: list[int]) -> dict[str, Any]:
    return {"prompts": len(rows), "judges": {name: _of_judge(values[rows]) for name, values in results.scores.items()}}


def _compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """A judge's scores of the other side; the difference, ours less theirs, and the share of pairs that ours wins, over pairs
    that both have a score of."""
    won = wins(ours, theirs)
    return {
        **_of_judge(theirs),
        "pairs": int((~np.isnan(won)).sum()),
        "difference": estimate(ours - theirs).as_json(),
        "win_rate": estimate(won).as_json(),
    }


def _collapse(results: Results) -> dict[str, Any]:
    """Estimates of how bright and saturated pictures are; with several seeds how unlike a prompt's pictures are; with vectors
    which pictures of different prompts are nearly the same."""
    found = {"brightness": estimate(results.brightness).as_json(), "saturation": estimate(results.saturation).as_json()}
    if len(results.side.job.seeds) > 1:
        found["pixel_distance"] = estimate(collapse.deviations(results.small)[:, None]).as_json()
    if results.vectors is None:
        return found
    if len(results.side.job.seeds) > 1:
        found["clip_distance"] = estimate(collapse.distances(results.vectors)[:, None]).as_json()
    flat = [(n, s) for n, s in np.ndindex(results.vectors.shape[:2]) if not np.isnan(results.vectors[n, s, 0])]
    texts, seeds = results.side.job.prompts.texts, results.side.job.seeds
    numbers = results.side.job.prompts.numbers
    repeated = collapse.duplicates(np.stack([results.vectors[place] for place in flat]), [texts[n] for n, _ in flat])
    name = lambda row: f"{numbers[flat[row][0]]:05d}_{seeds[flat[row][1]]}"
    pairs = [{"pictures": [name(a), name(b)], "cosine": round(cosine, 4)} for a, b, cosine in repeated.pairs]
    return found | {"near_duplicates": {"share": repeated.share, "from": collapse.DUPLICATE, "pairs": pairs}}


def pairs(ours: Results, theirs: Results) -> list[dict[str, Any]]:
    """A row for each judge and pair of pictures that it scored both of, by judge, the largest difference first."""
    prompts, seeds, rows = ours.side.job.prompts, ours.side.job.seeds, []
    for name, values in ours.scores.items():
        difference = values - theirs.scores[name]
        places = [place for place in np.ndindex(values.shape) if not np.isnan(difference[place])]
        for n, s in sorted(places, key=lambda place: -difference[place]):
            scores = (float(array[n, s]) for array in (values, theirs.scores[name], difference))
            rows.append(dict(zip(PAIR, (name, prompts.texts[n], prompts.numbers[n], seeds[s], *scores), strict=True)))
    return rows
