"""Scores of picture files under prompts, by the judges that a run trains on.

python -m mvgrpo_jax.score --judge clip=FOLDER --judge scene --images DIR --prompts FILE --out scores.json

A picture belongs to the prompt in the same place; one prompt is every picture's; with --all-pairs every picture is scored under
every prompt. Pictures of any size and mode are read as RGB, transparent ones over white.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from mvgrpo_jax.console.commands import program
from mvgrpo_jax.convert.files import write_json
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.rewards import scoring
from mvgrpo_jax.run.prompts import read_prompts

ROWS = 40  # of the printed table


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.score"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--judge", action="append", required=True, metavar="KIND[=FOLDER]", help="scene, clip or clip=FOLDER; may be repeated"
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="FILE", help="picture files, or folders")
    parser.add_argument("--prompts", type=Path, help="file with a prompt a line")
    parser.add_argument("--prompt", action="append", default=[], help="may be repeated")
    parser.add_argument("--all-pairs", action="store_true", help="every picture under every prompt")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    return parser.parse_args(argv)


def table(images: list[Path], prompts: list[str], scores: dict[str, np.ndarray], all_pairs: bool) -> str:
    """A line a picture and prompt, at most ROWS, and the means."""
    cells = (
        [(i, j) for i in range(len(images)) for j in range(len(prompts))] if all_pairs else [(i, i) for i in range(len(images))]
    )
    names = [path.name for path in images]
    cut = lambda text, room: text if len(text) <= room else f"{text[: room - 3]}..."
    left, wide = min(max(map(len, [*names, "picture"])), 30), min(max(map(len, [*prompts, "prompt"])), 50)
    columns = [max(len(name), 8) for name in scores]
    numbers = lambda values: "".join(f"  {value:>{c}.4f}" for value, c in zip(values, columns))
    lines = [f"{'picture':<{left}}  {'prompt':<{wide}}" + "".join(f"  {n:>{c}}" for n, c in zip(scores, columns))]
    for i, j in cells[:ROWS]:
        values = [s[i, j] if all_pairs else s[i] for s in scores.values()]
        lines.append(f"{cut(names[i], left):<{left}}  {cut(prompts[j], wide):<{wide}}{numbers(values)}")
    if len(cells) > ROWS:
        lines.append(f"... and {len(cells) - ROWS} more")
    return "\n".join([*lines, f"{'mean':<{left}}  {'':<{wide}}" + numbers([s.mean() for s in scores.values()])])


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    prompts = options.prompt + (read_prompts(options.prompts) if options.prompts else [])
    if not prompts:
        raise UserError("no prompt: give --prompt TEXT or --prompts FILE")
    images = scoring.find_pictures(options.images)
    judges = scoring.make_judges(options.judge)
    scores, kinds = scoring.score(judges, images, prompts, options.all_pairs)
    if not options.all_pairs and len(prompts) == 1:
        prompts = prompts * len(images)
    listed = {name: np.where(np.isfinite(s), s.astype(object), None).tolist() for name, s in scores.items()}  # JSON has no NaN
    write_json(options.out, {"judges": listed, "images": [str(p) for p in images], "prompts": prompts})
    if kinds["transparent"]:
        print(f"note: {kinds['transparent']} pictures have transparency and were laid over white", file=sys.stderr)
    others = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()) if kind not in ("", "transparent"))
    if others:
        print(f"note: read as RGB: {others}", file=sys.stderr)
    print(table(images, prompts, scores, options.all_pairs))
    print(f"scores: {options.out}")


if __name__ == "__main__":
    main()
