"""A page, report.html, of one run or several: curves, pictures before and after.

python -m mvgrpo_jax.report WORKDIR [WORKDIR ...] [--out FILE]
"""

from __future__ import annotations

import argparse

from mvgrpo_jax.console.commands import program
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.run import report
from mvgrpo_jax.storage import place


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("mvgrpo_jax.report"), description=__doc__)
    parser.add_argument("workdirs", type=place, nargs="+")
    parser.add_argument("--out", type=place)
    options = parser.parse_args(argv)
    path = report.write(options.workdirs, options.out)
    for workdir in options.workdirs:
        print("\n".join(report.changes(workdir)))
    print(f"report: {path}")


if __name__ == "__main__":
    main()
