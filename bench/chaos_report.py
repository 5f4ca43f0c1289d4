"""The table of bench/chaos.py, and docs/bench/chaos.json."""

from __future__ import annotations

import collections
import datetime
import json
import os
import platform
from pathlib import Path

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
TITLES = {
    "kill": "SIGKILL",
    "term": "SIGTERM",
    "damage": "SIGKILL, and the newest checkpoint damaged",
    "disk": "a disk that fills up, and is cleared",
    "server": "a captioner or judge that dies, and comes back",
}
# The statuses that a survivor, or the run itself, may end with.
MEANT = {
    "kill": {-9, 75},
    "term": {75},
    "damage": {-9, 75},
    "disk": {0, 2},
    "server": {0, 2},
}


def run_of(blow: dict) -> tuple:
    """What names the run that a blow struck, among those of one kind and number of processes."""
    return blow["seed"], blow["iterations"], blow["chain"]


def summary(blows: list[dict]) -> list[dict]:
    """A row for each kind and number of processes."""
    rows = []
    for kind in TITLES:
        for processes in sorted({b["processes"] for b in blows if b["kind"] == kind}):
            own = [b for b in blows if (b["kind"], b["processes"]) == (kind, processes)]
            struck = [b for b in own if b["delay_s"] > 0]
            chains = {run_of(b): b["same"] for b in own}
            statuses = collections.Counter(status for b in struck for status in b["statuses"])
            # What was updated and was not saved: the next start of the same run begins where the checkpoint is.
            lost = [max(b["updates"] - after["began"], 0) for b, after in zip(own, own[1:]) if run_of(b) == run_of(after)]
            rows.append(
                {
                    "kind": kind,
                    "processes": processes,
                    "blows": sum("damage" in b for b in own) if kind == "damage" else len(struck),
                    "places": dict(collections.Counter(b["place"] for b in struck)),
                    "statuses": {str(status): count for status, count in sorted(statuses.items())},
                    "without a message": sum(bool(b["said"]) and not all(b["said"]) and any(b["statuses"]) for b in struck),
                    "not meant": sum(bool(set(b["statuses"]) - MEANT[kind]) for b in struck),
                    "trained again at most": max(lost, default=0),
                    "runs": len(chains),
                    "bit for bit": sum(all(same.values()) for same in chains.values()),
                    "damages": dict(collections.Counter(b["damage"].split(" ", 1)[1] for b in own if "damage" in b)),
                }
            )
    return rows


def table(blows: list[dict]) -> str:
    lines = [
        "| what | processes | blows | statuses | without a message | iterations trained again, most | runs | bit for bit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in summary(blows):
        statuses = ", ".join(f"{count} x {status}" for status, count in row["statuses"].items())
        lines.append(
            f"| {TITLES[row['kind']]} | {row['processes']} | {row['blows']} | {statuses} | {row['without a message']} | "
            f"{row['trained again at most']} | {row['runs']} | {row['bit for bit']} |"
        )
    return "\n".join(lines)


def write(blows: list[dict], docs: Path) -> str:
    """Writes docs/bench/chaos.json and the table of docs/results.md; returns the table."""
    facts = {
        "command": "python bench/chaos.py --report",
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "seeds": sorted({b["seed"] for b in blows}),
        "rows": summary(blows),
    }
    (docs / "bench").mkdir(exist_ok=True)
    (docs / "bench" / "chaos.json").write_text(json.dumps(facts, indent=1) + "\n")
    page = docs / "results.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + "\n".join([BEGIN, table(blows), END]) + rest.partition(END)[2])
    return table(blows)
