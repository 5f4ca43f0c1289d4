"""Shows a file of prompts: how many there are, repeats, lengths, the first ten, and what was dropped and why.

python -m mvgrpo_jax.prompts --source FILE [--as KIND] [--plot FILE.png] [--out FILE.jsonl]

What is kept is what training with the same settings of config.prompts draws from. --source 'A,B' joins files, and 'A@3,B@1' is
a mixture. --out writes what is kept with its metadata, for other commands. --captions shows how many prompts have captions of
python -m mvgrpo_jax.enhance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.enhancers import offline
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.prompts import kinds, loading, showing
from mvgrpo_jax.prompts.selection import Bounds


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.prompts"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, metavar="FILE", help="prompt file, or several, as config.prompts.train")
    parser.add_argument(
        "--as", dest="kind", default="", metavar="KIND", help=f"instead of telling it: {', '.join(kinds.names())}"
    )
    parser.add_argument("--count", type=flags.natural, default=0, help="of each file, from its beginning; 0: all")
    parser.add_argument("--keep-repeats", action="store_true", help="as config.prompts.dedup=False")
    parser.add_argument("--min-length", type=flags.natural, default=0, help="characters")
    parser.add_argument("--max-length", type=flags.natural, default=0, help="characters; 0: no bound")
    parser.add_argument("--blocklist", default="", metavar="FILE", help="a word or phrase a line")
    parser.add_argument("--captions", type=Path, metavar="FILE", help="offline captions, as config.views.file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="lengths as a picture")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="writes the prompts that are kept")
    options = parser.parse_args(argv)
    if options.max_length and options.min_length > options.max_length:
        raise UserError(f"--min-length must be at most --max-length, got {options.min_length} and {options.max_length}")
    if options.out and options.out.suffix not in (".jsonl", ".ndjson"):
        raise UserError(f"--out {options.out}: JSON lines are written; name it .jsonl")
    return options


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    bounds = Bounds(not options.keep_repeats, options.min_length, options.max_length, options.blocklist)
    corpus = loading.load_corpus(options.source, options.count, kind=options.kind, bounds=bounds)
    print(showing.report(corpus))
    if options.captions:
        print(offline.coverage(options.captions, corpus.texts))
    if options.plot:
        showing.plot(corpus, options.plot)
        print(f"lengths: {options.plot}")
    if options.out:
        showing.write(corpus.prompts, options.out)
        print(f"prompts: {options.out}")


if __name__ == "__main__":
    main()
