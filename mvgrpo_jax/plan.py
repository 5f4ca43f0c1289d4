"""python -m mvgrpo_jax.plan --config=configs/NAME.py --topology=h200:1x8 [--config.key=value ...]

Compiles the programs that training with this config would run, for real hardware and without it, and prints for each
what it holds in a device's memory, what it computes, what it sends, and how long that would take; then whether it fits.
The compilers come with pip install 'mvgrpo_jax[plan]'.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from mvgrpo_jax import configuration, targets
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.targets import GIB

COLUMNS = (  # title, unit, width
    ("calls", "", 6),
    ("arguments", "GiB", 11),
    ("temporary", "GiB", 11),
    ("peak", "GiB", 9),
    ("of", "GiB", 8),
    ("compute", "PFLOP", 10),
    ("sent", "GiB", 10),
    ("each", "s", 9),
    ("compile", "s", 9),
)


def table(costs, plan, chip) -> str:
    """The report for people."""
    from mvgrpo_jax import planning

    lines = [f"{'program':<14}" + "".join(f"{title:>{width}}" for title, _, width in COLUMNS)]
    lines.append(" " * 14 + "".join(f"{unit:>{width}}" for _, unit, width in COLUMNS))
    for c in costs:
        if c.error:
            lines.append(f"{c.name:<14}{c.calls:>6}  {c.error}")
            continue
        sizes = [x / GIB for x in (c.arguments, c.temporaries, c.peak, chip.memory)]
        values = [*sizes, c.operations / 1e15, c.collective / GIB, c.seconds, c.compile_s]
        lines.append(f"{c.name:<14}{c.calls:>6}" + "".join(f"{v:>{w}.2f}" for v, (_, _, w) in zip(values, COLUMNS[1:])))
    total = sum(c.calls * c.seconds for c in costs)
    lines += [
        f"{plan.mesh.size} x {chip.name}, mesh {dict(plan.mesh.shape)}, attention {plan.attention}.",
        "Memory, bytes sent and compile time are of one device, compute is of all. Peak counts what other programs keep there.",
        f"An iteration's programs take {total:.1f} s if matrix products reach {planning.MFU:.0%} of the chip's peak, memory",
        "and links their full bandwidth, and the three overlap. Rewards, captions and the transfer of pictures are not in it.",
    ]
    if chip.reserve:
        lines += [
            f"{chip.reserve / GIB:.0f} GiB of each device are set aside for the CUDA context, NCCL's buffers and cuDNN's",
            "workspaces, which a compiler without a device does not count.",
        ]
    return "\n".join(lines)


def records(costs) -> list[dict]:
    return [dataclasses.asdict(c) | {"peak": c.peak} for c in costs]


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mvgrpo_jax.plan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--topology", required=True, help="CHIP:SIZES, as v5p:4x4x4, v5e:16x16, v6e:8x8, h200:1x8, h100:2x8")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument(
        "--program", action="append", default=[], help="only this program (encode, rollout, ...; may be repeated)"
    )
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="a program may use so much of a device (default: all but a reserve)"
    )
    parser.add_argument("--no-search", action="store_true", help="do not look for a setting that fits")
    options, rest = parser.parse_known_args(argv)
    chip, _ = targets.parse(options.topology)
    targets.prepare_environment()  # before the config, whose algorithms import jax
    if options.memory is not None:
        if options.memory <= 0:
            raise UserError(f"--memory must be above 0 GiB, got {options.memory}")
        chip = dataclasses.replace(chip, memory=int(options.memory * GIB), reserve=0)
    config = configuration.from_arguments(options.config, rest)
    from mvgrpo_jax import planning

    costs, plan = planning.measure(config, options.topology, tuple(options.program))
    print(table(costs, plan, chip))
    ok = planning.fits(costs, chip)
    facts = {"topology": options.topology, "fits": ok, "programs": records(costs)}
    print(f"verdict: {'fits' if ok else 'does not fit'}")
    if not ok and not options.no_search:
        setting, found = planning.nearest(config, options.topology, costs, chip)
        sizes = ", ".join(f"{c.name} {c.peak / GIB:.1f} GiB, {c.seconds:.0f} s" for c in found)
        print(f"nearest setting that fits: {setting}" + (f": {sizes}" if found else ""))
        facts["nearest"] = {"setting": setting, "programs": records(found)}
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    if not ok:
        sys.exit(1)


if __name__ == "__main__":
    main()
