"""Iteration time against the latency of the captioner, overlapped or not: `python bench/enhancer_overlap.py`.

A simulated service answers each request after a time drawn from a log-normal distribution, --concurrency of them at a time. The
same iterations of MV-GRPO on flux-nano (sampling, captions, rewards, update) are run with sampling in one program, and branch
by branch. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs import flux_nano  # noqa: E402
from mvgrpo_jax.nano.world import captions, scene  # noqa: E402
from mvgrpo_jax.prompts import stream  # noqa: E402
from mvgrpo_jax.run import iteration as stages  # noqa: E402
from mvgrpo_jax.run.build import build  # noqa: E402
from mvgrpo_jax.run.metrics import Clock  # noqa: E402
from tests.services.faults import FaultServer, completion, http  # noqa: E402


def service(median: float, sigma: float):
    """A reply after a log-normal time, both drawn from the request's seed."""
    import asyncio

    async def reply(writer, request):
        rng = np.random.default_rng(request["seed"])
        await asyncio.sleep(median * float(np.exp(sigma * rng.standard_normal())))
        writer.write(http(completion(captions.describe(scene.sample(rng), "subject"))))

    return reply


def config_for(url: str, overlap: bool, options):
    c = flux_nano.get_config()
    c.prompts_per_iteration, c.group_size, c.views.count = options.prompts, options.group, options.group
    c.sampling.steps, c.algorithm.mvgrpo.trained_steps = options.steps, tuple(range(0, 2 * options.branches, 2))
    c.views.enhancer, c.views.overlap, c.views.perspectives = "vlm", overlap, ()
    c.views.service.update({"endpoints": (url,), "model": "m", "concurrency": options.concurrency, "hedge": 0.0})
    return c


def measure(config, iterations: int) -> tuple[float, float, float]:
    """Seconds of an iteration, of its sampling, and of the wait that was not hidden: medians after one to warm up."""
    run, initial = build(config)
    batches = stream(run.prompts, config.prompts_per_iteration, config.seed)
    with jax.set_mesh(run.mesh):
        state = run.programs.init(initial)
        rows = []
        for i in range(iterations + 1):
            began, clock = time.perf_counter(), Clock()
            prompts = [str(p) for p in next(batches)]
            samples = stages.sample(run, i, state.params, prompts, None, clock)
            views = stages.caption(samples, clock)
            scores = stages.score(run, i, samples, views, clock)
            batch = stages.make_batch(run, i, samples, views, scores, clock)
            state, history = stages.update(run, state, batch, i)
            jax.block_until_ready((state, history))
            sampling = clock.spent["time/rollout"] + clock.spent.get("time/decode", 0.0)
            log = stages.summarise(run, i, views, scores, batch)
            rows.append((time.perf_counter() - began, sampling, log["enhancer/wait_s"]))
    run.close()
    return tuple(float(x) for x in np.median(rows[1:], axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0], help="medians in seconds")
    parser.add_argument("--sigma", type=float, default=0.3, help="of the logarithm")
    parser.add_argument("--concurrency", type=int, default=64, help="requests that the service works on at once")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--branches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{'latency s':>10}{'sampling s':>12}{'whole s':>9}{'wait s':>8}{'overlapped s':>14}{'wait s':>8}{'ratio':>7}")
    rows = []
    for median in options.latency:
        found = {}
        for overlap in (False, True):
            with FaultServer(then=service(median, options.sigma)) as server:
                found[overlap] = measure(config_for(server.url, overlap, options), options.iterations)
        (whole, sampling, wait), (lapped, _, left) = found[False], found[True]
        row = {
            "latency": median,
            "sampling": sampling,
            "whole": whole,
            "wait": wait,
            "overlapped": lapped,
            "wait_overlapped": left,
        }
        rows.append(row)
        print(
            f"{median:>10.2f}{sampling:>12.2f}{whole:>9.2f}{wait:>8.2f}{lapped:>14.2f}{left:>8.2f}{lapped / whole:>7.2f}",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps({"settings": vars(options) | {"json": ""}, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
