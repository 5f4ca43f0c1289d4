"""The plan's report: a line for each compiled program."""

from __future__ import annotations

import dataclasses

from mvgrpo_jax.planning.hardware import GIB, MFU

COLUMNS = (  # title, unit, width
    ("calls", "", 6),
    ("arguments", "GiB", 11),
    ("temporary", "GiB", 11),
    ("peak", "GiB", 9),
    ("of", "GiB", 8),
    ("compute", "PFLOP", 10),
    ("inside", "GiB", 10),
    ("between", "GiB", 10),
    ("hidden", "s", 9),
    ("exposed", "s", 9),
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
        network = [c.inside / GIB, c.between / GIB, c.hidden, c.exposed]
        values = [*sizes, c.operations / 1e15, *network, c.seconds, c.compile_s]
        lines.append(f"{c.name:<14}{c.calls:>6}" + "".join(f"{v:>{w}.2f}" for v, (_, _, w) in zip(values, COLUMNS[1:])))
    lines += [f"{c.name}: its communication is not counted ({c.note})" for c in costs if c.note]
    total, exposed = sum(c.calls * c.seconds for c in costs), sum(c.calls * c.exposed for c in costs)
    lines += [
        f"{plan.mesh.size} x {chip.name}, attention {plan.attention}.",
        f"mesh: {dict(plan.mesh.shape)} ({plan.reason})",
        "Memory, bytes and compile time are of one device, compute is of all. Peak counts what other programs keep there.",
        f"Bytes come at {chip.link / 1e9:.0f} GB/s a device inside a node or slice, at {chip.network / 1e9:.1f} between them.",
        "Hidden communication runs beside computing; exposed does not, and adds to the time.",
        f"An iteration's programs take {total:.1f} s, {exposed:.1f} s of them exposed communication, if matrix products reach",
        f"{MFU:.0%} of the chip's peak, memory and networks their full bandwidth. Rewards, captions and the transfer of",
        "pictures are not in it.",
    ]
    if chip.reserve:
        lines += [
            f"{chip.reserve / GIB:.0f} GiB of each device are set aside for the CUDA context, NCCL's buffers and cuDNN's",
            "workspaces, which a compiler without a device does not count.",
        ]
    return "\n".join(lines)


def records(costs) -> list[dict]:
    return [dataclasses.asdict(c) | {"peak": c.peak, "collective": c.collective} for c in costs]


def nearest(setting: str, costs) -> str:
    """A line on the nearest setting that fits, and what the programs that did not fit cost with it."""
    sizes = ", ".join(f"{c.name} {c.peak / GIB:.1f} GiB, {c.seconds:.0f} s" for c in costs)
    return f"nearest setting that fits: {setting}" + (f": {sizes}" if sizes else "")
