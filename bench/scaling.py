"""What `plan` says of 8 to 256 devices, weak and strong: `python bench/scaling.py`, then `--plot` alone draws what is there.

The programs of configs/mvgrpo_flux.py that decide, rollout and update, are compiled for every topology at FLUX.1-dev's width
and at few blocks. Weak: a prompt for each device; strong: so many prompts as there are devices at first. For each: bytes that
a device receives in an iteration, seconds of communication that nothing hides, seconds by the roofline.

Figures of 19 + 38 blocks are drawn from two depths as a straight line, and only where a third depth lies on it to 1 % at the
first topology (printed); where it does not, the figures of the deeper one are shown. What is in docs/bench/scaling.json is not
compiled again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import timing  # noqa: E402
from mvgrpo_jax.errors import reports_errors  # noqa: E402
from mvgrpo_jax.planning import hardware  # noqa: E402
from mvgrpo_jax.planning.hardware import GIB  # noqa: E402

TOPOLOGIES = tuple(f"h200:{nodes}x8" for nodes in (1, 2, 4, 8, 16, 32))
DEPTHS = (1, 2, 3)  # blocks of two streams, with twice as many of one: the first two make the line, the third tests it
FULL = 19
PROGRAMS = ("rollout", "update")
FIGURES = ("received", "exposed", "seconds")
LINEAR = 0.01
IMAGE = ROOT / "docs" / "images" / "scaling.png"


def config_of(prompts: int, depth: int):
    from mvgrpo_jax.configuration import arguments

    c = arguments.load(str(ROOT / "configs" / "mvgrpo_flux.py"))
    c.pipeline, c.prompts_per_iteration, c.eval.every = f"FLUX.1-dev:{depth}+{2 * depth}", prompts, 0
    return c


def key_of(topology: str, prompts: int, depth: int) -> str:
    return f"{topology}, {prompts} prompts, {depth}+{2 * depth} blocks"


def measured(out: Path, topology: str, prompts: int, depth: int) -> dict:
    """Totals of an iteration, from the JSON or compiled now; None of them where a program does not fit."""
    key = key_of(topology, prompts, depth)
    rows = json.loads(out.read_text()) if out.exists() else {}
    if key not in rows:
        from mvgrpo_jax.planning import compilation, table

        costs, run = compilation.measure(config_of(prompts, depth), topology, PROGRAMS)
        row = totals(costs) | {"mesh": dict(run.mesh.shape), "programs": table.records(costs)}
        timing.record(out, key, row, share=0.0)  # nothing is timed but the compiler
        print(f"{key}: {row['received'] / GIB:.1f} GiB received, {row['seconds']:.3g} s", flush=True)
        return row
    return rows[key]


def totals(costs) -> dict:
    """Of the programs of an iteration, as often as it calls them."""
    total = lambda what: sum(c.calls * what(c) for c in costs)
    row = {"received": total(lambda c: c.collective), "exposed": total(lambda c: c.exposed)}
    row |= {"seconds": total(lambda c: c.seconds), "compile_s": sum(c.compile_s for c in costs)}
    return row | {"errors": [c.error for c in costs if c.error]}


def line(depths: tuple[int, int], values: tuple[float, float], depth: int) -> float:
    """At `depth` of the straight line through two."""
    (a, b), (low, high) = depths, values
    return low + (high - low) * (depth - a) / (b - a)


def departures(rows: dict[int, dict]) -> dict[str, float]:
    """By which the third depth's figures differ from the line of the first two, relative."""
    first, second, third = sorted(rows)
    found = {}
    for figure in FIGURES:
        told = line((first, second), (rows[first][figure], rows[second][figure]), third)
        found[figure] = abs(told - rows[third][figure]) / max(abs(rows[third][figure]), 1e-12)
    return found


def at_full_depth(rows: dict[int, dict], straight: dict[str, bool]) -> dict[str, float]:
    """The figures of 19 + 38 blocks where depth is straight, else of the deeper of two."""
    low, high = sorted(rows)[:2]
    return {f: line((low, high), (rows[low][f], rows[high][f]), FULL) if straight[f] else rows[high][f] for f in FIGURES}


def points(out: Path, topologies: list[str], strong: int) -> tuple[list[dict], dict]:
    """A row for each topology and kind of scaling, and what is straight in depth."""
    tested = {depth: measured(out, topologies[0], devices_of(topologies[0]), depth) for depth in DEPTHS}
    apart = departures(tested)
    straight = {figure: value < LINEAR for figure, value in apart.items()}
    rows = []
    for topology in topologies:
        for kind, prompts in (("weak", devices_of(topology)), ("strong", strong)):
            found = {depth: measured(out, topology, prompts, depth) for depth in DEPTHS[:2]}
            row = {"topology": topology, "devices": devices_of(topology), "scaling": kind, "prompts": prompts}
            rows.append(row | at_full_depth(found, straight))
    compiled = {depth: row["compile_s"] for depth, row in tested.items()}
    return rows, {"departures": apart, "straight": straight, "compile_s": compiled}


def devices_of(topology: str) -> int:
    _, sizes, slices = hardware.parse(topology)
    count = slices
    for size in sizes:
        count *= size
    return count


def draw(rows: list[dict], about: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    titles = {"received": "GiB received by a device", "exposed": "exposed communication, s", "seconds": "by roofline, s"}
    figure, axes = pyplot.subplots(1, 4, figsize=(15, 3.6))
    for axis, (name, title) in zip(axes, titles.items()):
        for kind, style in (("weak", "o-"), ("strong", "s--")):
            of_kind = [row for row in rows if row["scaling"] == kind]
            scale = GIB if name == "received" else 1
            axis.plot([row["devices"] for row in of_kind], [row[name] / scale for row in of_kind], style, label=kind)
        blocks = "19 + 38 blocks" if about["straight"][name] else f"{DEPTHS[1]} + {2 * DEPTHS[1]} blocks"
        axis.set_title(f"{title}\n({blocks})", fontsize=9)
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("devices")
        axis.legend()
    depths = sorted(about["compile_s"])
    axes[3].plot([3 * depth for depth in depths], [about["compile_s"][depth] for depth in depths], "o-")
    axes[3].set_title("compilation, s", fontsize=9)
    axes[3].set_xlabel("blocks")
    axes[3].set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


@reports_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=list(TOPOLOGIES), help="of one chip, the smallest first")
    parser.add_argument("--strong", type=int, default=8, help="prompts of an iteration where they do not grow")
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--out", type=Path, default=timing.FOLDER / "scaling.json")
    options = parser.parse_args()
    hardware.prepare_environment()
    rows, about = points(options.out, options.topologies, options.strong)
    head = ("topology", "scaling", "prompts", "GiB received", "exposed s", "seconds")
    cells = [
        (r["topology"], r["scaling"], r["prompts"], r["received"] / GIB, float(r["exposed"]), float(r["seconds"])) for r in rows
    ]
    print(timing.table(head, cells))
    for name, apart in about["departures"].items():
        said = "19 + 38 blocks by a straight line" if about["straight"][name] else "of few blocks: not straight in depth"
        print(f"{name}: the third depth departs from the line by {apart:.2%}; {said}")
    draw(rows, about, options.image)


if __name__ == "__main__":
    main()
