"""Speed, memory and rounding on one GPU: `sh bench/gpu.sh DIR`, or `python bench/gpu.py --out DIR`.

Needs an H100 or H200 and some eleven minutes, no weights and no data. Rows are written to DIR/rows.jsonl and DIR/table.md as
they come; a row or a case that fails says why there, and the others go on. `--tiny` runs all rows at toy size on a CPU.
`--plan`, on a machine with the compilers of the extra `plan`, makes docs/gpu/plan.json: what `plan` says of the same programs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PLANS = ROOT / "docs" / "gpu" / "plan.json"
GIB = 2**30
HEAD = ("row", "seconds", "TFLOP", "TFLOP/s", "of peak", "of matmul", "MFU", "a second", "peak GiB", "plan GiB", "ratio")
HEAD += ("compile s", "note")


class Report:
    """The rows of a folder."""

    def __init__(self, out: Path):
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        path = out / "rows.jsonl"
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, row: dict) -> None:
        self.rows.append(row)
        with (self.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        (self.out / "table.md").write_text(self.table())
        print("| " + " | ".join(cells(row, self.product)) + " |", flush=True)

    @property
    def product(self) -> float:
        """Operations a second of the large product; 0 before it is measured."""
        return next((r["operations"] / r["seconds"] for r in self.rows if r["row"] == "matmul" and "seconds" in r), 0.0)

    def table(self) -> str:
        lines = ["| " + " | ".join(line) + " |" for line in (HEAD, ["---"] * len(HEAD))]
        lines += ["| " + " | ".join(cells(row, self.product)) + " |" for row in self.rows]
        titles = dict.fromkeys(f"{r['date']}, {r['device']}, jax {r['jax']}" for r in self.rows if "device" in r)
        return "\n".join([*titles, "", *lines, ""])


def cells(row: dict, product: float) -> list[str]:
    """A row of the table. of peak: operations done, of the chip's; MFU: the same without what is computed twice."""
    seconds, operations = row.get("seconds", 0.0), row.get("operations", 0)
    speed = operations / seconds if seconds and operations else 0.0
    useful = row.get("model_operations", operations) / seconds if speed else 0.0
    share = lambda a, b: f"{a / b:.0%}" if a and b else ""
    number = lambda a, form: f"{a:{form}}" if a else ""
    used, planned = row.get("peak", 0), row.get("plan", 0)
    below = "<= " if used and row.get("before") == used else ""  # an earlier row's peak was not passed
    return [
        row["row"],
        number(seconds, ".4g"),
        number(operations / 1e12, ".4g"),
        number(speed / 1e12, ".4g"),
        share(speed, row.get("peak_flops")),
        share(speed, product),
        share(useful, row.get("peak_flops")),
        f"{row['rate']:.3g} {row['unit']}" if "rate" in row else "",
        below + f"{used / GIB:.1f}" if used else "",
        number(planned / GIB, ".1f"),
        below + f"{used / planned:.2f}" if used and planned else "",
        number(row.get("compile_s"), ".0f"),
        row.get("error") or row.get("note", ""),
    ]


def measure(case: str, report: Report, tiny: bool) -> None:
    """All rows of a case, in this process."""
    import jax

    from bench import gpu_cases
    from mvgrpo_jax.planning import hardware
    from mvgrpo_jax.run import budget

    device = jax.devices()[0]
    facts = {"case": case, "device": device.device_kind, "jax": jax.__version__, "date": time.strftime("%Y-%m-%d %H:%M")}
    facts["peak_flops"] = budget.peak_flops(device)[0]
    planned = json.loads(PLANS.read_text()).get(hardware.KINDS.get(device.device_kind, ""), {}) if PLANS.exists() else {}
    for name, one in gpu_cases.rows(case, tiny):
        print(f"... {name}", flush=True)
        began = time.perf_counter()
        try:
            row = one()
            row["plan"] = planned.get(case, {}).get(row.get("program", ""), 0)
        except Exception as error:  # of any kind: the other rows are wanted all the same
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        report.add({"row": name} | facts | row | {"took": time.perf_counter() - began})


def plan(chips: list[str]) -> None:
    """The peak of every program that is measured, by chip and case, compiled without one; what is there is kept."""
    from mvgrpo_jax.planning import hardware

    hardware.prepare_environment()
    from bench import gpu_cases
    from mvgrpo_jax.planning import compilation

    facts = json.loads(PLANS.read_text()) if PLANS.exists() else {}
    for chip in chips:
        for case, (_, _, wanted) in gpu_cases.RUNS.items():
            peaks = facts.setdefault(chip, {}).setdefault(case, {})
            for name in ({"ratio": "old_densities", "encode": "encode_views", "precision": ""}.get(row, row) for row in wanted):
                if name and name not in peaks:
                    costs, _ = compilation.measure(gpu_cases.config_of(case), f"{chip}:1x1", (name,))
                    peaks[name] = costs[0].peak
                    PLANS.write_text(json.dumps(facts, indent=2) + "\n")
                    print(f"{chip}, {case}, {name}: {peaks[name] / GIB:.1f} GiB {costs[0].error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--plan", nargs="*", metavar="CHIP", help="chips to plan for (default: h200 h100)")
    parser.add_argument("--seconds", type=float, default=720.0, help="for all cases; those that are left then are left out")
    parser.add_argument("--only", nargs="+", default=("kernels", "judges", "peers", "lora", "full", "stored"), metavar="CASE")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan is not None:
        plan(options.plan or ["h200", "h100"])
    elif options.case:
        measure(options.case, Report(options.out), options.tiny)
    else:
        end = time.monotonic() + options.seconds
        for case in options.only:
            command = [sys.executable, __file__, "--case", case, "--out", str(options.out), *["--tiny"] * options.tiny]
            try:
                status = subprocess.run(command, timeout=max(end - time.monotonic(), 0.1)).returncode
                problem = f"ended with status {status}" if status else ""
            except subprocess.TimeoutExpired:
                problem = f"not done within the {options.seconds:.0f} s of all cases"
            if problem:
                Report(options.out).add({"row": case, "error": problem})
        print("\n" + Report(options.out).table())


if __name__ == "__main__":
    main()
