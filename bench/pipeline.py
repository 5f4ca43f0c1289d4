"""Who waits for whom: `python bench/pipeline.py [--latencies 0.1 0.5 2]`.

The same iterations of MV-GRPO on flux-nano with a captioner and a judge whose answers take as long as asked in rollouts: median
of a log-normal time for each request, all of them at once. They cost this machine nothing, as servers elsewhere do. Four ways:

  serial      one program draws all branches; captions are asked for when all pictures are there
  overlapped  branch by branch, the shortest first (config.views.overlap)
  by branch   so, and a branch's gradient is computed while captions of others are awaited (config.train.by_branch)
  ahead       the next rollout is drawn before this iteration's update (config.train.async_steps=1)

The parts are this repository's own loop; idle is the share of an iteration in which the devices have nothing to do, as
metrics.jsonl says it (run/timeline.py). Rounds of the ways alternate; figures are medians over their iterations. The bound is
what no order of the same work can beat where an update needs the scores of its own rollout: whatever of the update could be
done before the last answers come is taken to be done. --out keeps the table.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import flux_nano  # noqa: E402
from mvgrpo_jax.enhancers import OnlineEnhancer  # noqa: E402
from mvgrpo_jax.nano import captioner as embedded  # noqa: E402
from mvgrpo_jax.nano.judge import SceneReward  # noqa: E402
from mvgrpo_jax.rewards import Panel  # noqa: E402
from mvgrpo_jax.run import build, loop, metrics, timeline, trackers  # noqa: E402
from mvgrpo_jax.services import Worker  # noqa: E402

# (config.views.overlap, config.train.by_branch, config.train.async_steps)
WAYS = {
    "serial": (False, False, 0),
    "overlapped": (True, False, 0),
    "by branch": (True, True, 0),
    "ahead": (True, False, 1),
}
SIGMA = 0.3  # of the logarithm of a time


def seconds(median: float, seed: int) -> float:
    return median * float(np.exp(SIGMA * np.random.default_rng(seed).standard_normal()))


class SlowCaptioner(embedded.EmbeddedCaptioner):
    """The embedded captioner, far away."""

    remote = True

    def __init__(self, median: float):
        self.median = median

    async def caption(self, image, perspective, seed, deadline) -> str:
        await asyncio.sleep(seconds(self.median, seed))
        return await super().caption(image, perspective, seed, deadline)


class SlowJudge(SceneReward):
    """The exact judge, far away: all pictures of a question are scored at once."""

    def __init__(self, median: float):
        self.median, self.worker, self.asked = median, Worker("judge"), 0

    def begin(self, images: np.ndarray, captions) -> Any:
        self.asked += 1
        return self.worker.submit(self._score(images, captions, self.asked))

    async def _score(self, images, captions, number: int):
        await asyncio.sleep(seconds(self.median, number))
        return super().score(images, captions)

    def take_log(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.worker.close()


def config_of(way: str, options):
    c = flux_nano.get_config()
    overlap, by_branch, ahead = WAYS[way]
    c.iterations, c.eval.every, c.checkpoint.every = options.iterations + 2, 0, 0
    c.prompts_per_iteration, c.group_size, c.views.count = options.prompts, options.group, options.group
    c.sampling.steps, c.algorithm.mvgrpo.trained_steps = options.steps, tuple(options.trained)
    c.rewards = {"scene": 1.0}
    c.log.images_every, c.log.trackers = 1, ()
    c.views.overlap, c.train.by_branch, c.train.async_steps = overlap, by_branch, ahead
    return c


def measure(way: str, captions: float, judge: float, options) -> list[dict]:
    """Metrics of the iterations of a run, without the first two; `rollout` and `update` are the devices' seconds."""
    config = config_of(way, options)
    outlined = build.outline(config)
    run, initial = build.load(outlined)
    slow = OnlineEnhancer(SlowCaptioner(captions), config.views.count, config.seed, embedded.PERSPECTIVES)
    panel = Panel({"scene": SlowJudge(judge)}, run.mesh)
    run = dataclasses.replace(run, enhancer=slow, panel=panel, overlap=WAYS[way][0])
    with tempfile.TemporaryDirectory() as folder, jax.set_mesh(run.mesh):
        workdir = Path(folder)
        job = loop.Job(lambda: False, lambda stage: None, lambda: None)
        progress = loop.begin(run, initial, workdir)
        loop.Loop(run, workdir, progress, outlined.budget, job, trackers.begin(config, workdir)).run_to_the_end()
        rows = [row for row in metrics.read(workdir) if "time/idle" in row]
        for row, kept in zip(rows[1:], timeline.read(workdir), strict=True):
            spans = [timeline.Span(*s) for s in kept["spans"] if s[0] == timeline.DEVICE]
            of = lambda *names, spans=spans: sum(s.end - s.start for s in spans if s.name.split(" ")[0] in names)
            row["rollout"] = of("rollout", "anchor", "tail", "finish", "decode", "branch", "join")
            row["update"] = of(
                "update", "old_densities", "remember", "select", "encode_views", "nothing", "add", "finish_update"
            )
            row["whole"] = kept["seconds"]
    run.close()
    return rows[2:-1]  # the last one waits for its own update


def last_of(count: int) -> float:
    """The median of the longest of so many times, in their medians."""
    return float(np.exp(SIGMA * stats.norm.ppf(0.5 ** (1 / count))))


def bound(rollout: float, update: float, captions: float, judge: float) -> float:
    """The least idle share of an iteration whose update needs the scores of its own rollout, where the last answers take
    captions + judge after the last picture and all of the update fills the wait."""
    wait = max(0.0, captions + judge - update)
    return wait / (rollout + update + wait)


def table(found: list[dict]) -> str:
    lines = [
        "| latency, rollouts | way | seconds | idle, % | serial / this | bound on-policy, % |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row['latency']:g} | {row['way']} | {row['seconds']:.2f} | {100 * row['idle']:.1f} | {row['ratio']:.2f} | "
            f"{100 * row['bound']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0, 2.0], help="captioner, in rollouts")
    parser.add_argument("--judge", type=float, default=0.1, help="judge's latency, in the captioner's")
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--group", type=int, default=12)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--trained", type=int, nargs="+", default=[0, 2, 4, 6])
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))  # every way is built anew
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    median = lambda rows, key: float(np.median([row[key] for row in rows]))
    alone = measure("serial", 0.0, 0.0, options)
    rollout, found = median(alone, "rollout"), []
    print(f"rollout {rollout:.2f} s, update {median(alone, 'update'):.2f} s, idle {100 * median(alone, 'time/idle'):.1f} %")
    for latency in options.latencies:
        captions, judge = latency * rollout, latency * options.judge * rollout
        rows = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                rows[way] += measure(way, captions, judge, options)
        for way, of in rows.items():
            item = {"latency": latency, "way": way, "seconds": median(of, "whole"), "idle": median(of, "time/idle")}
            item["ratio"] = median(rows["serial"], "whole") / item["seconds"]
            last = captions * last_of(options.prompts * options.group)  # of a branch's requests
            item |= {"rollout_s": median(of, "rollout"), "update_s": median(of, "update")}
            item["bound"] = bound(item["rollout_s"], item["update_s"], last, judge)
            found.append(item)
            print(json.dumps(item), flush=True)
        if options.out:  # what is there when it is stopped
            facts = {"command": " ".join(sys.argv), "date": time.strftime("%Y-%m-%d"), "rollout_s": rollout, "rows": found}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
