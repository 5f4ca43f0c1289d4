"""The memory table of docs/running.md: `python bench/plan_table.py [--only h200]`.

Plans configs/mvgrpo_flux.py and its LoRA twin for every topology, at 512 and 1024 pixels, one after another,
each in a process of its own. Figures are kept in docs/plans/*.json; what is there is not planned again, unless it is deleted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

GIB = 2**30
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "plans"
# Topology -> (devices, of which so many share the parameters); prompts are split over all, so that each device has one. Flux's
# smallest parameter has 64 rows, which is as far as they can be shared.
TOPOLOGIES = {"h200:1x8": (8, 8), "h200:2x8": (16, 16), "v5p:4x4x4": (64, 64), "v6e:8x8": (64, 64), "v5e:16x16": (256, 64)}
KINDS = {"full": "mvgrpo_flux", "lora": "mvgrpo_flux_lora"}
BEGIN, END = "<!-- plans: begin -->", "<!-- plans: end -->"


def plan(topology: str, kind: str, pixels: int) -> dict:
    path = FOLDER / f"{topology.replace(':', '-')}_{kind}_{pixels}.json"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mvgrpo_jax.plan", f"--config=configs/{KINDS[kind]}.py", f"--topology={topology}"]
        sizes = [f"--config.image.{side}={pixels}" for side in ("height", "width")]
        devices, shared = TOPOLOGIES[topology]
        spread = [f"--config.prompts_per_iteration={devices}", f"--config.mesh.data={devices // shared}"]
        print("+", topology, kind, pixels, flush=True)
        subprocess.run([*command, "--no-search", f"--json={path}", *sizes, *spread], cwd=ROOT)
        if not path.exists():
            sys.exit(f"{topology} {kind} {pixels}: could not be planned")
    return json.loads(path.read_text())


def row(topology: str, kind: str, pixels: int, facts: dict) -> str:
    programs = {p["name"]: p for p in facts["programs"]}
    cells = [f"{p['peak'] / GIB:.1f}" if not p["error"] else "over" for p in programs.values()]
    seconds = sum(p["calls"] * p["seconds"] for p in programs.values())
    share = sum(p["collective"] * p["calls"] for p in programs.values()) / GIB
    verdict = "fits" if facts["fits"] else "does not fit"
    return f"| {topology} | {kind} | {pixels} | {' | '.join(cells)} | {share:.0f} | {seconds:.0f} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="topologies that begin with this")
    options = parser.parse_args()
    lines = []
    for topology in TOPOLOGIES:
        for kind in KINDS:
            for pixels in (512, 1024):
                path = FOLDER / f"{topology.replace(':', '-')}_{kind}_{pixels}.json"
                if topology.startswith(options.only) or path.exists():
                    lines.append(row(topology, kind, pixels, plan(topology, kind, pixels)))
    head = [
        "| topology | trained | pixels | encode | rollout | decode | update | sent GiB | seconds | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    page = ROOT / "docs" / "running.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + "\n".join([BEGIN, *head, *lines, END]) + after)
    print("\n".join(head + lines))


if __name__ == "__main__":
    main()
