"""python -m mvgrpo_jax.plan --config=configs/NAME.py --topology=h200:1x8 [--config.key=value ...]

Whether training with a config fits on hardware that is not here, and how long it would take. The programs that it would run
are compiled for that hardware; printed for each is what it holds in a device's memory, what it computes and what it sends.
The compilers come with pip install 'mvgrpo_jax[plan]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mvgrpo_jax.configuration import arguments, flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.planning import hardware


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.plan"), description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--topology", required=True, help="CHIP:SIZES, as v5p:4x4x4, v5p:4x4x4@2 (slices), v5e:16x16, h100:2x8")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument(
        "--program", action="append", default=[], help="only this program (encode, rollout, ...; may be repeated)"
    )
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="a program may use so much of a device (default: all but a reserve)"
    )
    parser.add_argument(
        "--fastest", action="store_true", help="look for the fastest setting that fits: mesh, remat, chunks of the update"
    )
    parser.add_argument(
        "--margin", type=flags.level, default=0.1, help="with --fastest: share of a device's memory that stays free"
    )
    parser.add_argument("--no-search", action="store_true", help="do not look for a setting that fits")
    options, rest = parser.parse_known_args(argv)
    if options.margin >= 1:
        raise UserError(f"--margin must be below 1, the share of a device's memory that stays free; got {options.margin:g}")
    chip, _, _ = hardware.parse(options.topology)
    hardware.prepare_environment()  # before the config, whose algorithms import jax
    if options.memory is not None:
        chip = hardware.with_memory(chip, options.memory)
    config = arguments.from_arguments(options.config, rest)
    from mvgrpo_jax.planning import compilation, fastest, remedies, table

    if options.fastest:
        search = fastest.Search(config, options.topology, chip, options.margin, lambda text: print(text, flush=True))
        best = search.run()
        print(fastest.report(search.tried[0], best, search.bound))
        if options.json:
            options.json.write_text(json.dumps({"topology": options.topology, **fastest.facts(search)}, indent=2) + "\n")
        sys.exit(best is None)
    costs, plan = compilation.measure(config, options.topology, tuple(options.program))
    print(table.table(costs, plan, chip))
    ok = remedies.fits(costs, chip)
    facts = {"topology": options.topology, "fits": ok, "programs": table.records(costs)}
    print(f"verdict: {'fits' if ok else 'does not fit'}")
    if not ok and not options.no_search:
        setting, costs_then = remedies.nearest(config, plan.mesh.shape, options.topology, costs, chip)
        print(table.nearest(setting, costs_then))
        facts["nearest"] = {"setting": setting, "programs": table.records(costs_then)}
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    if not ok:
        sys.exit(1)


if __name__ == "__main__":
    main()
