"""Compares runs: curves, scores with differences, trained against held-out judges, pictures before and after.

python -m mvgrpo_jax.compare RUN [RUN ...] --out DIR

The others are compared with the first. DIR gets report.html, which works from disk, scores.csv, before_after.png and the
paper's table (table.md, table.tex).
"""

from __future__ import annotations

import argparse

from mvgrpo_jax.compare import results, scores
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.storage import place


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.compare"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", type=place, nargs="+", metavar="RUN", help="workdirs")
    parser.add_argument("--out", type=place, required=True, metavar="DIR")
    options = parser.parse_args(argv)
    found = results.write(options.workdirs, options.out)
    for note in found.notes:
        print(f"note: {note}")
    print("\n".join([*scores.text(found.lines), *found.sentences, f"report: {found.page}"]))


if __name__ == "__main__":
    main()
