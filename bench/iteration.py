"""One MV-GRPO iteration beside the same iteration in torch: `python bench/iteration.py --size 2.4M 30M`.

16 steps, four of them trained (0, 2, 4, 6), 12 draws each, 12 captions and the prompt, one prompt of 32 x 32 pixels (16
image tokens, 24 of text), random weights, float32. Encoders, decoder, captioner and judges are left out: their results are
given. Ours are the run's own programs (run/programs.py): rollout, selection, update. Torch runs diffusers' own
FluxTransformer2DModel in the ways of bench/iteration_peer.py, eager, and batched with its blocks under torch.compile, which
takes minutes.

Rounds are interleaved; figures go to docs/bench/iteration.json. tests/bench/test_iteration.py shows that both sides compute the
same pictures, loss, gradient and parameters. JAX_COMPILATION_CACHE_DIR spares a second run the compilation.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from bench import timing  # noqa: E402

if __name__ == "__main__":
    timing.begin()

from bench.iteration_peer import Peer, Task, Texts, adamw, operations  # noqa: E402
from configs import common  # noqa: E402
from mvgrpo_jax import pipelines  # noqa: E402
from mvgrpo_jax.convert import import_params  # noqa: E402
from mvgrpo_jax.core.rollout import normals  # noqa: E402
from mvgrpo_jax.core.structs import Batch, Condition, Trajectory  # noqa: E402
from mvgrpo_jax.planning.abstract import AbstractRun  # noqa: E402
from mvgrpo_jax.run.painting import ROLLOUT_NOISE, ROLLOUT_STEPS  # noqa: E402

# At Flux's ratio of blocks.
SIZES = {
    "2.4M": dict(num_layers=2, num_single_layers=4, num_attention_heads=4, attention_head_dim=32, axes_dims_rope=(8, 12, 12)),
    "30M": dict(num_layers=3, num_single_layers=6, num_attention_heads=6, attention_head_dim=64, axes_dims_rope=(16, 24, 24)),
}
NAMES = {
    "one": "torch, one sample at a time",
    "authors": "torch, as the authors' code",
    "batched": "torch, batched and compiled",
}


class Problem:
    """A random Flux in a folder of diffusers, read by both sides, and what an iteration of one prompt is given: the config,
    rewards [V, 1, B, G], and encoded texts of the views, Condition [V, 1, B], the first of which is the prompt's.

    shape: fields of the transformer's config.json that differ from flux-nano's; captions: K.
    """

    def __init__(self, folder: Path, shape: dict, *, steps=16, trained=(0, 2, 4, 6), group=12, captions=12, seed=0):
        from diffusers import FluxTransformer2DModel

        from tests.peers import randomise

        shutil.copytree(pipelines.EMBEDDED, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("transformer"))
        fields = FluxTransformer2DModel.load_config(pipelines.EMBEDDED / "transformer")
        self.network = randomise(FluxTransformer2DModel.from_config(fields, **shape), seed)
        self.network.save_pretrained(folder / "transformer")
        self.folder, self.trained, self.captions = folder, trained, captions
        c = common.get_config()
        c.pipeline, c.prompts_per_iteration, c.group_size, c.sampling.steps = str(folder), 1, group, steps
        c.algorithm.mvgrpo.trained_steps, c.views.count, c.eval.every, c.seed = trained, captions, 0, seed
        self.config = c
        rng, lead = np.random.default_rng(seed), (captions + 1, 1, len(trained))
        numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
        self.rewards = numbers(*lead, group)
        known = pipelines.describe(folder)
        txt = numbers(*lead, pipelines.text_length(known), known.flux_config.joint_attention_dim)
        self.views = Condition(txt, numbers(*lead, known.flux_config.pooled_projection_dim))
        for a in self.views:
            a[0] = a[0, :, :1]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())


class Ours:
    """The run's programs on one device, for the first `captions` of the problem's captions (by default all)."""

    def __init__(self, problem: Problem, captions: int | None = None):
        self.problem, captions = problem, problem.captions if captions is None else captions
        config = problem.config.copy_and_resolve_references()
        config.views.count = captions
        self.run = AbstractRun(config, [jax.devices()[:1]])
        self.programs, self._compiled = self.run.programs, {}
        self.rewards = {"clip": problem.rewards[: captions + 1]}
        self.weight = np.full(self.rewards["clip"].shape[:3], 1.0 / (captions + 1), np.float32)
        with jax.set_mesh(self.run.mesh):
            self.calls = self.run.calls()
            params = import_params(self.run.pipeline.transformer, problem.folder / "transformer")
            self.state = self.programs.init(params)
            self.params = self._placed(params, self.run.state.params)  # the state's own are given away by the update
            abstract = self.calls["update"].arguments[2].views
            views = jax.tree.map(lambda a, x: a[: x.shape[0], :, : x.shape[2]], problem.views, abstract)
            self.views = self._placed(views, abstract)
            self.keys = tuple(self.programs.key(0, purpose) for purpose in (ROLLOUT_NOISE, ROLLOUT_STEPS))

    @staticmethod
    def _placed(arrays, abstract):
        return jax.device_put(arrays, jax.tree.map(lambda a: a.sharding, abstract))

    def program(self, name: str):
        if name not in self._compiled:
            with jax.set_mesh(self.run.mesh):
                self._compiled[name] = self.calls[name].program.lower(*self.calls[name].arguments).compile()
        return self._compiled[name]

    def rollout(self) -> Trajectory:
        prompt = jax.tree.map(lambda a: a[0, :, 0], self.views)
        self.trajectory, _ = self.program("rollout")(self.state.params, prompt, *self.keys, np.int32(0))
        return jax.block_until_ready(self.trajectory)

    def batch(self) -> Batch:
        """Of the last rollout."""
        with jax.set_mesh(self.run.mesh):
            chosen = self.programs.select(self.keys[0], self.trajectory, self.rewards, self.weight, None, None)
        return Batch(chosen[0], self.views, *chosen[1:3])

    def update(self) -> dict[str, jax.Array]:
        """Selection and one optimiser step; returns its metrics."""
        self.state, metrics = self.program("update")(self.state, None, self.batch(), None)
        return jax.block_until_ready((self.state, metrics))[1]

    def operations(self, name: str) -> int:
        with jax.set_mesh(self.run.mesh):
            return self.run.operations(name, self.run.calls()[name])


def task(problem: Problem, ours: Ours) -> Task:
    """What ours is given, its noise among it, for the peer."""
    programs, group = ours.programs, problem.config.group_size
    start = jax.random.normal(ours.keys[0], (1, 1, *programs.latent_shape))[0, 0]
    draw = normals(ours.keys[1])
    noise = [np.asarray(draw(k, (1, group, *programs.latent_shape)))[0] for k in problem.trained]
    tensor = lambda a: torch.tensor(np.array(a))
    views = Texts(*(tensor(a[:, 0]) for a in problem.views))
    return Task(
        programs.sigmas.tolist(),
        problem.trained,
        tensor(start),
        tensor(noise),
        views.at((0, 0)),
        views,
        tensor(problem.rewards[:, 0]),
        programs.policy.grid,
    )


def peers(problem: Problem, given: Task, ways: list[str], together: int) -> dict[str, Peer]:
    """A peer of each way, with a network of its own."""
    made = {}
    for way in ways:
        network = copy.deepcopy(problem.network).train()
        if way == "batched":  # as diffusers advises: the network as a whole had not compiled after nine minutes
            network.compile_repeated_blocks(dynamic=False)
        made[way] = Peer(network, adamw(network.parameters()), given, way, together)
    return made


def measure(problem: Problem, options) -> dict:
    """Seconds, operations and ratios of the iteration of a problem."""
    ours, alone = Ours(problem), Ours(problem, captions=0)
    given = task(problem, ours)

    def update_alone():
        alone.trajectory = ours.trajectory
        return alone.update()

    arms = {"ours: rollout": ours.rollout, "ours: update": ours.update, "ours: update of one view": update_alone}
    for way, peer in peers(problem, given, options.ways, options.together).items():
        arms |= {f"{way}: rollout": peer.rollout, f"{way}: update": peer.update}
    products, product = timing.products()
    with timing.Disturbance() as others:
        seconds = timing.interleaved(arms | products, options.rounds, most=options.seconds)
    counted = Peer(problem.network, adamw(problem.network.parameters()), given, "authors")
    theirs = {"rollout": operations(counted.rollout), "update": operations(counted.update)}
    count = {f"{way}: {stage}": n for way in options.ways for stage, n in theirs.items()}
    count |= {f"ours: {stage}": ours.operations(stage) for stage in ("rollout", "update")}
    count |= {"ours: update of one view": alone.operations("update")} | dict.fromkeys(products, product)
    return facts(seconds, count, options.ways) | {"parameters": problem.parameters, "others": others.share}


def facts(seconds: timing.Seconds, count: dict[str, int], ways: list[str]) -> dict:
    """Medians, speeds and ratios of what was measured."""
    stages = {n: {"seconds": statistics.median(s), "operations": count[n]} for n, s in seconds.items()}
    iteration = timing.total(seconds, "ours: rollout", "ours: update")
    alone = timing.total(seconds, "ours: rollout", "ours: update of one view")
    ratios = {"K = 12 over K = 0": timing.ratio(iteration, alone)}
    ratios["K = 12 over K = 0, operations"] = (count["ours: rollout"] + count["ours: update"]) / (
        count["ours: rollout"] + count["ours: update of one view"]
    )
    whole = {"ours": statistics.median(iteration)}
    for way in ways:
        peer = timing.total(seconds, f"{way}: rollout", f"{way}: update")
        whole[way] = statistics.median(peer)
        ratios[f"{way}: iteration"] = timing.ratio(peer, iteration)
        for stage in ("rollout", "update"):
            ratios[f"{way}: {stage}"] = timing.ratio(seconds[f"{way}: {stage}"], seconds[f"ours: {stage}"])
    return {"rounds": len(iteration), "stages": stages, "iteration": whole, "ratios": ratios}


def show(row: dict) -> str:
    """A table of one size."""
    stages = row["stages"]
    speed = lambda name: stages[name]["operations"] / stages[name]["seconds"] / 1e9
    lines = []
    for way in row["iteration"]:
        of = "torch" if way in NAMES else "jax"
        for stage in ("rollout", "update"):
            name = f"{way}: {stage}"
            times = row["ratios"].get(name, 1.0)
            gflops = speed(name)
            share = f"{gflops / speed(f'product, {of}'):.0%}"
            lines.append((NAMES.get(way, way), stage, stages[name]["seconds"], gflops, share, times))
        lines.append(
            (NAMES.get(way, way), "iteration", row["iteration"][way], "", "", row["ratios"].get(f"{way}: iteration", 1.0))
        )
    for name in ("product, jax", "product, torch"):
        lines.append((name, "", stages[name]["seconds"], speed(name), "100%", ""))
    title = f"{row['parameters'] / 1e6:.1f} M parameters, {row['rounds']} rounds, "
    title += f"{row['others']:.0%} of the processors used by others"
    ratio = f"K = 12 over K = 0: {row['ratios']['K = 12 over K = 0']:.2f} in time, "
    ratio += f"{row['ratios']['K = 12 over K = 0, operations']:.2f} in operations"
    head = ("", "stage", "seconds", "GFLOP/s", "of its product", "times ours")
    return "\n".join([title, "", timing.table(head, lines), "", ratio, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--ways", nargs="*", choices=tuple(NAMES), default=list(NAMES))
    parser.add_argument("--unroll", type=int, default=1, help="blocks of ours in one step of their loop (config.train.unroll)")
    parser.add_argument("--together", type=int, default=4, help="trained steps in one backward pass of the batched way")
    timing.add_arguments(parser, rounds=15, seconds=600.0, name="iteration")
    options = parser.parse_args()
    for size in options.size:
        with tempfile.TemporaryDirectory() as folder:
            problem = Problem(Path(folder), SIZES[size])
            problem.config.train.unroll = options.unroll
            row = measure(problem, options) | {"unroll": options.unroll}
        timing.record(options.out, size if options.unroll == 1 else f"{size}, unroll {options.unroll}", row, row["others"])
        print(show(row), flush=True)


if __name__ == "__main__":
    main()
