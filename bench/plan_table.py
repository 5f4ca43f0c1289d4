"""The memory table of docs/planning.md: `python bench/plan_table.py [--only h200]`.

Plans configs/mvgrpo_flux.py and its LoRA twin for every topology, at 512 and 1024 pixels, one after another, each in a process
of its own: the programs that decide. Figures are kept in docs/plans/*.json; what is there is not
planned again, unless it is deleted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

GIB = 2**30
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mvgrpo_jax.planning import hardware  # noqa: E402

FOLDER = ROOT / "docs" / "plans"
# Topology -> prompts of an iteration: where they are fewer than the devices, several share a prompt's pictures and views.
TOPOLOGIES = {"h200:1x8": 8, "h200:2x8": 16, "v5p:4x4x4": 16, "v6e:8x8": 16, "v5e:16x16": 64}
KINDS = {"full": "mvgrpo_flux", "lora": "mvgrpo_flux_lora"}
# Title of a column -> the program whose fullest moment it shows. The others of a run are smaller: encoding of prompts, what
# cuts and joins branches, and an evaluation, whose painting is a rollout of fewer pictures.
COLUMNS = {"text": "encode_views", "rollout": "rollout", "decode": "decode", "judge": "judge clip", "update": "update"}
BEGIN, END = "<!-- plans: begin -->", "<!-- plans: end -->"


def plan(topology: str, kind: str, pixels: int, again: str = "") -> dict:
    path = FOLDER / f"{topology.replace(':', '-')}_{kind}_{pixels}.json"
    before = json.loads(path.read_text()) if path.exists() else None
    if before is None or again:
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mvgrpo_jax.plan", f"--config=configs/{KINDS[kind]}.py", f"--topology={topology}"]
        sizes = [f"--config.image.{side}={pixels}" for side in ("height", "width")]
        spread = [f"--config.prompts_per_iteration={TOPOLOGIES[topology]}"]
        print("+", topology, kind, pixels, again, flush=True)
        only = [f"--program={name}" for name in ([again] if again else COLUMNS.values())]
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "plan.json"
            subprocess.run([*command, f"--json={part}", *sizes, *spread, *only], cwd=ROOT)
            if not part.exists():
                sys.exit(f"{topology} {kind} {pixels}: could not be planned")
            found = json.loads(part.read_text())
        if before is not None:
            new = {p["name"]: p for p in found["programs"]}
            found["programs"] = [new.get(p["name"], p) for p in before["programs"]]
            chip = hardware.parse(topology)[0]
            found["fits"] = all(not p["error"] and p["peak"] <= chip.memory - chip.reserve for p in found["programs"])
            if not found["fits"] and "nearest" in before:  # found for another program than this one
                found.setdefault("nearest", before["nearest"])
        path.write_text(json.dumps(found, indent=2) + "\n")
    return json.loads(path.read_text())


def row(topology: str, kind: str, pixels: int, programs: list[dict], verdict: str) -> str:
    cells = []
    for name in COLUMNS.values():
        (one,) = [p for p in programs if p["name"] == name]
        cells.append("over" if one["error"] else f"{one['peak'] / GIB:.1f}")
    total = lambda key: sum(p["calls"] * p[key] for p in programs)
    sent = f"{total('inside') / GIB:.0f} | {total('between') / GIB:.0f} | {total('exposed'):.0f}"
    head = f"{topology} | {TOPOLOGIES[topology]} | {kind} | {pixels}"
    return f"| {head} | {' | '.join(cells)} | {sent} | {total('seconds'):.0f} | {verdict} |"


def rows(topology: str, kind: str, pixels: int, facts: dict) -> list[str]:
    """The config as it is and, where that does not fit, with the nearest setting that does."""
    lines = [row(topology, kind, pixels, facts["programs"], "fits" if facts["fits"] else "does not fit")]
    if found := facts.get("nearest", {}).get("programs"):
        new = {p["name"]: p for p in found}
        programs = [new.get(p["name"], p) for p in facts["programs"]]
        lines.append(row(topology, kind, pixels, programs, "fits with " + facts["nearest"]["setting"].split("  (")[0]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="topologies that begin with this")
    parser.add_argument("--again", default="", help="plan this program again and put its figures into what is there")
    parser.add_argument("--pixels", type=int, nargs="+", default=[512, 1024])
    options = parser.parse_args()
    lines = []
    for topology in TOPOLOGIES:
        for kind in KINDS:
            for pixels in (512, 1024):
                path = FOLDER / f"{topology.replace(':', '-')}_{kind}_{pixels}.json"
                wanted = topology.startswith(options.only) and pixels in options.pixels
                if wanted or path.exists():
                    lines += rows(topology, kind, pixels, plan(topology, kind, pixels, options.again if wanted else ""))
    head = [
        f"| topology | prompts | trained | pixels | {' | '.join(COLUMNS)} "
        "| inside GiB | between GiB | exposed s | seconds | verdict |",
        "|---" * (len(COLUMNS) + 9) + "|",
    ]
    page = ROOT / "docs" / "planning.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + "\n".join([BEGIN, *head, *lines, END]) + after)
    print("\n".join(head + lines))


if __name__ == "__main__":
    main()
