"""A long run of flux-nano at its smallest, watched from beside it: `python bench/endurance.py --iterations 2000`.

After each iteration the run notes its resident memory, the bytes of live arrays on the devices and what was compiled;
meanwhile another process looks at the bytes on the disk and reads metrics.jsonl. docs/bench/endurance.json has the figures,
docs/images/endurance.png the plot. It ends with an error where one of these does not hold:

  nothing is compiled after the warm-up; memory (without pages of files) and live arrays of the last tenth are those of the
  tenth after the warm-up, but for the bounds below; the disk stays below what the run said at its start; each reading of
  metrics.jsonl gives whole lines, and none that was there is gone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))

import numpy as np  # noqa: E402

MIB = 2**20
# Growth of memory that is no leak: glibc's arenas and the allocator of XLA go up and down by some MiB.
OWN_BOUND, LIVE_BOUND = 24 * MIB, 0.5 * MIB
JOB = "import sys\nfrom bench import endurance\nendurance.job(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))\n"


def config_of(iterations: int, every: int):
    """Two prompts, two samples, two views; a checkpoint, an evaluation and a sheet of samples each `every` iterations."""
    from tests.runs import small_config

    c = small_config(iterations=iterations, group_size=2)
    c.views.count = 1
    c.checkpoint.every = c.eval.every = c.log.images_every = every
    c.prompts.eval_count = 2
    return c


def memory() -> dict[str, int]:
    """Bytes of this process in memory, now: all, and those that are its own. The system drops pages of files as it likes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) * 1024 for name, key in (("resident", "VmRSS"), ("own", "RssAnon"))}


def job(out: str, iterations: int, every: int) -> None:
    """The run, and a line of OUT/iterations.jsonl after each iteration."""
    import jax

    from mvgrpo_jax.run import build, loop

    compiled: list[str] = []

    def listen(event: str, duration: float, **facts) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(facts.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    config = config_of(iterations, every)
    outlined = build.outline(config)
    outlined.close()
    (Path(out) / "predicted.json").write_text(json.dumps(outlined.on_disk))
    original, file = loop.Loop.iterate, (Path(out) / "iterations.jsonl").open("a")

    def iterate(self, number: int) -> None:
        original(self, number)
        live = sum(array.nbytes for array in jax.live_arrays())
        facts = {"iteration": number, **memory(), "live": live, "compiled": list(compiled), "time": time.time()}
        compiled.clear()
        file.write(json.dumps(facts) + "\n")
        file.flush()

    loop.Loop.iterate = iterate
    loop.train(config, Path(out) / "workdir")


def watch(process: subprocess.Popen, out: Path) -> list[dict]:
    """Looks at the workdir of a run until it ends: bytes on the disk, lines of metrics.jsonl that could be read."""
    from mvgrpo_jax.run import disk, metrics

    looks, workdir = [], out / "workdir"
    while process.poll() is None:
        time.sleep(1.0)
        lines = [row["iteration"] for row in metrics.read(workdir)] if (workdir / "metrics.jsonl").exists() else []
        looks.append({"time": time.time(), "disk": disk.used(workdir), "lines": len(lines), "whole": lines == sorted(lines)})
    return looks


def tenths(rows: list[dict], name: str) -> list[float]:
    """MiB in the first and the last tenth of some iterations, medians."""
    tenth = max(len(rows) // 10, 1)
    return [round(float(np.median([row[name] for row in part])) / MIB, 2) for part in (rows[:tenth], rows[-tenth:])]


def failures(rows: list[dict], looks: list[dict], predicted: int, warm: int) -> list[str]:
    """The claims that do not hold, in words."""
    wrong, after = [], rows[warm:]
    if late := {row["iteration"]: row["compiled"] for row in after if row["compiled"]}:
        wrong.append(f"compiled after {warm} iterations: {late}")
    for name, bound in (("own", OWN_BOUND), ("live", LIVE_BOUND)):
        first, last = tenths(after, name)
        if last - first > bound / MIB:
            wrong.append(f"{name} grew from {first:.1f} to {last:.1f} MiB")
    if (most := max(look["disk"] for look in looks)) > predicted:
        wrong.append(f"{most / MIB:.1f} MiB on the disk, {predicted / MIB:.1f} were said")
    counts = [look["lines"] for look in looks]
    if counts != sorted(counts) or not all(look["whole"] for look in looks):
        wrong.append("metrics.jsonl lost lines between two readings")
    return wrong


def plot(rows: list[dict], looks: list[dict], predicted: int, warm: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    numbers = [row["iteration"] for row in rows]
    memory = (axes[0], {"resident": "resident", "own": "without pages of files"}, "memory of the process")
    for axis, names, title in (memory, (axes[1], {"live": ""}, "live arrays on the devices")):
        for name, label in names.items():
            axis.plot(numbers, [row[name] / MIB for row in rows], linewidth=0.8, label=label)
        axis.axvline(warm, color="0.6", linewidth=0.8, linestyle=":")
        axis.set(xlabel="iteration", ylabel="MiB", title=title, ylim=(0, None))
    axes[0].legend(loc="lower right", frameon=False)
    began = looks[0]["time"]
    axes[2].plot([(look["time"] - began) / 60 for look in looks], [look["disk"] / MIB for look in looks], linewidth=0.8)
    axes[2].axhline(predicted / MIB, color="tab:red", linewidth=0.8)
    axes[2].set(xlabel="minutes", ylabel="MiB", title="workdir; red: said at the start", ylim=(0, None))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "endurance")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="iterations between two checkpoints, evaluations, sheets")
    parser.add_argument("--warm", type=int, default=60, help="iterations after which nothing grows or is compiled")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args(argv)
    if options.warm >= options.iterations:
        sys.exit("--warm must be less than --iterations")
    options.out.mkdir(parents=True)
    command = [sys.executable, "-c", JOB, str(options.out), str(options.iterations), str(options.every)]
    with (options.out / "log").open("w") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        looks = watch(process, options.out)
    if process.returncode:
        sys.exit(f"the run failed: {(options.out / 'log').read_text()[-3000:]}")
    rows = [json.loads(line) for line in (options.out / "iterations.jsonl").read_text().splitlines()]
    said = sum(json.loads((options.out / "predicted.json").read_text()).values())
    wrong = failures(rows, looks, said, options.warm)
    after = rows[options.warm :]
    facts = {
        "command": f"python bench/endurance.py --iterations {options.iterations}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "iterations": len(rows),
        "seconds an iteration, median": round(float(np.median(np.diff([row["time"] for row in rows]))), 4),
        "MiB without pages of files, first and last tenth after the warm-up": tenths(after, "own"),
        "resident MiB, most": round(max(row["resident"] for row in rows) / MIB, 1),
        "MiB of live arrays, first and last tenth after the warm-up": tenths(after, "live"),
        "MiB of live arrays, most (while a checkpoint is written)": round(max(row["live"] for row in rows) / MIB, 1),
        "last compilation, iteration": max(row["iteration"] for row in rows if row["compiled"]),
        "disk MiB, most": round(max(look["disk"] for look in looks) / MIB, 1),
        "disk MiB, said at the start": round(said / MIB, 1),
        "readings of metrics.jsonl": len(looks),
        "failures": wrong,
    }
    for folder in (options.docs / "bench", options.docs / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    (options.docs / "bench" / "endurance.json").write_text(json.dumps(facts, indent=1) + "\n")
    plot(rows, looks, said, options.warm, options.docs / "images" / "endurance.png")
    print(json.dumps(facts, indent=1))
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
