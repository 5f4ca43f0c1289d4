"""The plan's report: a line for each compiled program."""

from __future__ import annotations

import dataclasses

from mvgrpo_jax.planning.compilation import MFU
from mvgrpo_jax.planning.hardware import GIB

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
        f"An iteration's programs take {total:.1f} s if matrix products reach {MFU:.0%} of the chip's peak, memory",
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


def nearest(setting: str, costs) -> str:
    """A line on the nearest setting that fits, and what the programs that did not fit cost with it."""
    sizes = ", ".join(f"{c.name} {c.peak / GIB:.1f} GiB, {c.seconds:.0f} s" for c in costs)
    return f"nearest setting that fits: {setting}" + (f": {sizes}" if sizes else "")
