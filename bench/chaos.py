"""Strikes runs of flux-nano at random moments and lets them go on: `python bench/chaos.py --out runs/chaos`.

    --kills 50 --terms 20 --damages 20 --disks 10 --servers 10    how many blows of each kind
    --processes 1 2                                               runs of one process, and jobs of two

A chain is one run, struck again and again until it ends; then its whole state (parameters, optimiser, average, prompts), its
numbers and its exported files must be those of a run that nobody struck, bit for bit. Every chain draws from a generator of its
own, seeded with --seed, its kind, processes and number. Chains that are done are not done again. The facts of each blow are
lines of OUT/blows.jsonl; `--report` writes docs/bench/chaos.json and the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["JAX_PLATFORMS"] = "cpu"
# As the tests: quick to compile. The blows are what takes time here, not the arithmetic.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import numpy as np  # noqa: E402

from bench import chaos_faults as faults  # noqa: E402
from bench import chaos_job, chaos_report, chaos_starts  # noqa: E402
from bench.chaos_starts import Job, Started, when  # noqa: E402

KINDS = ("kill", "term", "damage", "disk", "server")
MOST = 8  # blows of a chain
DISK = 192 * 2**20


def digest(workdir: Path, processes: int, iterations: int) -> dict[str, str]:
    """Digests of everything that a run must end with: each array of its last checkpoint and the cursor, the numbers of all
    iterations without times and without what clients of servers counted (retries), the exported weights."""
    from tests.runs import leaves, numbers

    arrays, cursor = leaves(workdir, iterations, chaos_job.config_of(processes, iterations))
    state = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
    told = [{k: v for k, v in row.items() if not k.startswith(("enhancer/", "judge/"))} for row in numbers(workdir)]
    files = sorted((workdir / "pipeline" / "transformer").glob("*.safetensors"))
    return {
        "state": state.hexdigest(),
        "cursor": _digest(cursor),
        "numbers": _digest(told),
        "export": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest(),
    }


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Bench:
    """The folder of a bench: runs that nobody struck, chains, blows.jsonl."""

    def __init__(self, out: Path, seed: int, iterations: int):
        self.out, self.seed, self.iterations = out, seed, iterations
        self.known: dict[tuple[int, bool], tuple[dict, dict]] = {}
        self.path = out / "blows.jsonl"
        out.mkdir(parents=True, exist_ok=True)

    def blows(self) -> list[dict]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def whole(self, processes: int, servers: list[str]) -> tuple[dict[str, str], dict[str, float]]:
        """(digests, seconds in each place) of the run that nobody struck. It is made anew by each call of this script, because
        what is compared must have been compiled alike."""
        key = processes, bool(servers)
        if key not in self.known:
            folder = self.out / f"whole_{processes}{'_servers' if servers else ''}"
            _empty(folder)
            job = Job(folder, processes, self.iterations, servers)
            job.go()  # compiles
            _empty(job.place)
            started = job.go()
            if not started.finished:
                sys.exit(f"the run that nobody struck failed:\n{started.errors[0][-3000:]}")
            self.known[key] = digest(job.place, processes, self.iterations), chaos_starts.lengths(started)
        return self.known[key]

    def chain(self, kind: str, processes: int, number: int, most: int) -> list[dict]:
        """Strikes one run at most so many times; the facts of the blows, the last of which says how the run ended."""
        rng = np.random.default_rng([self.seed, KINDS.index(kind), processes, number])
        folder = self.out / f"{kind}_{processes}_{number}"
        _empty(folder)
        with contextlib.ExitStack() as stack:
            servers = stack.enter_context(faults.servers()) if kind == "server" else None
            want, lengths = self.whole(processes, servers.urls if servers else [])
            disk = faults.Disk(DISK) if kind == "disk" else None
            if disk:
                stack.callback(disk.close)
            place = disk.folder / "workdir" if disk else None
            job = Job(folder, processes, self.iterations, servers.urls if servers else (), place)
            rows = list(self._strike(kind, job, rng, lengths, most, disk, servers))
            got = digest(job.place, processes, self.iterations)
        same = {what: got[what] == value for what, value in want.items()}
        for row in rows:
            row |= {"kind": kind, "processes": processes, "chain": number, "seed": self.seed}
            row |= {"iterations": self.iterations, "same": same}
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return rows

    def _strike(self, kind: str, job: Job, rng, lengths: dict[str, float], most: int, disk, servers):
        """Blows until the run ends, then a start without one; yields the facts of each blow."""
        order: list[str] = []
        for _ in range(most):
            # A checkpoint that is damaged has one before it: nothing is damaged in the first iterations.
            places = ("rollout", "update", "checkpoint", "seal") if kind == "damage" else chaos_job.PLACES
            order = order or [str(place) for place in rng.permutation(places)]
            place = order.pop()
            victim = 0 if place == "seal" else int(rng.integers(job.processes))  # the first process alone seals
            times = 1 if place in ("export", "evaluation") else int(rng.integers(1, 3)) + 2 * (kind == "damage")
            delay = float(rng.uniform(0.0, 1.2 * lengths.get(place, 0.2)))
            facts: dict = {"place": place, "victim": victim}
            started = job.go(when(place, times, delay, victim, self._act(kind, rng, disk, servers, facts)))
            if disk:
                disk.clear()
            if kind == "server":
                self._revive(servers)
            row = self._facts(facts, started, kind, job)
            yield row
            if started.finished:
                return
            if kind == "damage" and (there := _checkpoints(job.place)) and len(there) > 1:
                how = str(rng.choice(faults.DAMAGES))
                row["damage"] = faults.damage(there[-1], how, rng)
        last = job.go()
        if not last.finished:
            sys.exit(f"{job.folder}: the run does not go on:\n{last.errors[0][-3000:]}")

    def _act(self, kind: str, rng, disk: faults.Disk, servers: faults.Servers, facts: dict):
        """What a blow does to the victim."""
        if kind == "disk":
            return lambda process: disk.fill(process, int(rng.integers(0, 2**21)))
        if kind == "server":
            return lambda process: self._server(servers, rng, facts)
        return lambda process: process.send_signal(signal.SIGTERM if kind == "term" else signal.SIGKILL)

    def _facts(self, facts: dict, started: Started, kind: str, job: Job) -> dict:
        said = [started.said(i) for i in range(job.processes) if i != facts["victim"] or kind not in ("kill", "damage")]
        return facts | {
            "delay_s": round(started.struck, 4),
            "statuses": started.statuses,
            "began": started.began,
            "updates": started.updates,
            "said": said,
        }

    def _server(self, servers: faults.Servers, rng, facts: dict) -> None:
        """Kills a server, and starts it anew some seconds later."""
        name, away = str(rng.choice(list(servers.ports))), float(rng.uniform(0.5, 12.0))
        facts |= {"server": name, "away_s": round(away, 2)}
        servers.kill(name)
        self.reviving = threading.Timer(away, servers.start, (name,))
        self.reviving.start()

    def _revive(self, servers: faults.Servers) -> None:
        if timer := getattr(self, "reviving", None):
            timer.join()


def _checkpoints(workdir: Path) -> list[Path]:
    """Committed checkpoints, the oldest first."""
    folder = workdir / "checkpoints"
    return sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)) if folder.exists() else []


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "chaos")
    for kind, count in zip(KINDS, (50, 20, 20, 10, 10)):
        parser.add_argument(f"--{kind}s", type=int, default=count, help="blows, of each number of processes (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--iterations", type=int, default=chaos_job.ITERATIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="writes the table of what is done; strikes nothing")
    options = parser.parse_args(argv)
    bench = Bench(options.out, options.seed, options.iterations)
    if options.report:
        print(chaos_report.write(bench.blows(), ROOT / "docs"))
        return
    for kind in KINDS:
        for processes in options.processes:
            wanted, number = getattr(options, f"{kind}s"), 0
            while wanted > 0:
                this = {"kind": kind, "processes": processes, "chain": number}
                this |= {"seed": options.seed, "iterations": options.iterations}
                done = [blow for blow in bench.blows() if this.items() <= blow.items()]
                rows = done or bench.chain(kind, processes, number, MOST if kind == "damage" else min(MOST, wanted))
                blows = sum("damage" in row if kind == "damage" else row["delay_s"] > 0 for row in rows)
                print(json.dumps(this | {"blows": blows, **rows[-1]["same"]}), flush=True)
                wanted, number = wanted - max(blows, 1), number + 1
    print(chaos_report.table(bench.blows()))


if __name__ == "__main__":
    main()
