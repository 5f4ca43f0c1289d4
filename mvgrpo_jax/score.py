"""Scores of picture files under prompts, by the judges that a run trains on.

python -m mvgrpo_jax.score --judge clip=FOLDER --judge scene --images DIR --prompts FILE --out scores.json

A picture belongs to the prompt in the same place; one prompt is every picture's; with --all-pairs every picture is scored under
every prompt. Pictures of any size and mode are read as RGB, transparent ones over white.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mvgrpo_jax import rewards
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.convert.files import write_json
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.prompts import loading, reading
from mvgrpo_jax.rewards import results, scoring


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.score"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scoring.add_arguments(parser)
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="FILE", help="picture files, or folders")
    parser.add_argument("--prompts", type=Path, help="file with a prompt a line")
    parser.add_argument("--prompt", action="append", default=[], help="may be repeated")
    parser.add_argument("--all-pairs", action="store_true", help="every picture under every prompt")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    listed = reading.read(options.prompts) if options.prompts else []
    prompts = options.prompt + [prompt.text for prompt in listed]
    if not prompts:
        raise UserError("no prompt: give --prompt TEXT or --prompts FILE")
    images = scoring.find_pictures(options.images)
    judges = scoring.make_judges(options.judge, options.option)
    rewards.tell(judges, loading.records(listed))
    scores, kinds = scoring.score(judges, images, prompts, options.all_pairs)
    write_json(options.out, results.record(scores, images, prompts))
    for note in results.notes(kinds):
        print(f"note: {note}", file=sys.stderr)
    print(results.table(scores, images, prompts))
    print(f"scores: {options.out}")


if __name__ == "__main__":
    main()
