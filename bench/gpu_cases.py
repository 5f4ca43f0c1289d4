"""What bench/gpu.py measures of kernels, of a LoRA run and of a full one at Flux's shapes; gpu_judges has the judges.

Weights are random and made on the device. A case is a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from bench import gpu_judges
from bench.gpu_timing import peak, random, timed
from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.core.structs import Batch, Condition, Old
from mvgrpo_jax.models import flux
from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.lora import join
from mvgrpo_jax.planning.abstract import AbstractRun

ROOT = Path(__file__).parents[1]

SHARED = {"prompts_per_iteration": 1, "sampling.steps": 8, "sampling.max_sequence_length": 512, "train.passes": 2}
BLOCKS = {"pipeline": "FLUX.1-dev:4+8", "train.param_dtype": "bfloat16"}
# Case -> (config file, what differs from it, the programs that are run). With passes = 2 the old densities are kept.
RUNS = {
    "lora": ("mvgrpo_flux_lora", SHARED, ("rollout", "update", "ratio", "decode", "encode")),
    "full": ("mvgrpo_flux", SHARED | BLOCKS, ("update", "precision")),
    "stored": ("mvgrpo_flux", SHARED | BLOCKS | {"views.count": 2, "train.remat": "none"}, ("update",)),
}
TINY = {"prompts_per_iteration": 1, "group_size": 2, "views.count": 1, "views.enhancer": "offline", "sampling.steps": 4}
TINY |= {"train.passes": 2}
TINY_RUNS = {"lora": TINY | {"lora.rank": 4, "train.remat": "full"}, "full": TINY, "stored": TINY}


def config_of(case: str, tiny: bool = False, **changes):
    """The config of a case, with changes by dotted key."""
    name, settings, _ = RUNS[case]
    config = arguments.load(str(ROOT / "configs" / f"{'flux_nano' if tiny else name}.py"))
    for key, value in ((TINY_RUNS[case] if tiny else settings) | changes).items():
        arguments.override(config, key, str(value))
    return config


def error(got: jax.Array, want: jax.Array) -> float:
    """|got - want| / |want|."""
    got, want = got.astype(jnp.float32), want.astype(jnp.float32)
    return float(jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel()))


def kernels(tiny: bool) -> Iterator[tuple[str, Callable]]:
    """A large product, the ceiling of all others, and attention at the rollout's shapes."""
    gpu = jax.devices()[0].platform == "gpu"

    def product():
        n = 256 if tiny else 8192
        a, b = (jax.random.normal(k, (n, n), jnp.bfloat16) for k in jax.random.split(jax.random.key(0)))
        seconds, _ = timed(lambda run=jax.jit(jnp.matmul): run(a, b), 20)
        return {"seconds": seconds, "operations": 2 * n**3}

    yield "matmul", product
    shape = (1, 64, 2, 16) if tiny else (12, 1536, 24, 128)
    n, tokens, heads, width = shape
    for kind in ("cudnn", "xla") if gpu else ("xla",):
        for name, times in (("forward", 1), ("forward and backward", 3)):

            def one(kind=kind, times=times):
                qkv = [jax.random.normal(k, shape, jnp.bfloat16) for k in jax.random.split(jax.random.key(0), 3)]
                run = jax.jit(lambda *a: attention(*a, kind=kind))
                wanted = jax.jit(lambda *a: attention(*a, kind="xla"))
                if times == 3:
                    total = lambda f: jax.jit(jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a).astype(jnp.float32))), (0, 1, 2)))
                    run, wanted = total(run), total(wanted)
                seconds, out = timed(lambda: run(*qkv), 10)
                with jax.default_matmul_precision("highest"):
                    exact = wanted(*(a[:1].astype(jnp.float32) for a in qkv))
                worst = max(error(a[:1], b) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(exact)))
                operations = times * 4 * n * tokens**2 * heads * width
                return {"seconds": seconds, "operations": operations, "note": f"error {worst:.1e} of float32"}

            yield f"attention {kind}, {name}", one


class Programs:
    """The programs of a case's config, and arrays for them: all that a run keeps on the device is there."""

    def __init__(self, case: str, tiny: bool):
        devices, self.config = jax.devices()[:1], config_of(case, tiny)
        self.run = AbstractRun(self.config, [devices])
        # Operations stand in the jaxpr of plain attention; the model's own are those without recomputation.
        self.counted = {
            "operations": AbstractRun(config_of(case, tiny), [devices], attention="xla"),
            "model_operations": AbstractRun(config_of(case, tiny, **{"train.remat": "none"}), [devices], attention="xla"),
        }
        self.programs = self.run.programs
        with jax.set_mesh(self.run.mesh):
            self.calls = self.run.calls()
            self.frozen = random(self.run.frozen) if self.run.frozen else None
            self.encoders, self.decoder = random(self.run.encoders), random(self.run.decoder)
            self.state = self.fresh()
            self.prompt = random(self.calls["rollout"].arguments[1])
        self.x0 = self.transitions = None
        self.compiled = {}

    def fresh(self):
        params = self.programs.adapters() if self.programs.lora else random(self.run.state.params)
        return self.programs.init(params)

    @property
    def policy(self):
        return self.state.params if self.frozen is None else join(self.frozen, self.state.params)

    def ready(self, name: str) -> dict:
        """Compiles a program. What its row says of it: operations, seconds of compilation, bytes by the compiler."""
        began = time.perf_counter()
        call = self.calls[name]
        program = self.compiled[name] = call.program.lower(*call.arguments).compile()
        m = program.memory_analysis()
        alone = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
        row = {"compile_s": time.perf_counter() - began, "compiled": alone, "before": peak()}
        return row | {key: run.operations(name, run.calls()[name]) for key, run in self.counted.items()}

    def placed(self, arrays, abstract):
        return jax.device_put(arrays, jax.tree.map(lambda a: a.sharding, abstract))

    def finished(self, name: str, row: dict, call: Callable) -> tuple[dict, object]:
        seconds, out = timed(call)
        return row | {"seconds": seconds, "peak": peak(), "program": name}, out

    def rollout(self) -> dict:
        keys = jax.random.split(jax.random.key(0))
        rest = self.placed((*keys, jnp.int32(0)), self.calls["rollout"].arguments[2:])
        row, run = self.ready("rollout"), self.compiled["rollout"]
        row, (trajectory, _) = self.finished("rollout", row, lambda: run(self.policy, self.prompt, *rest))
        self.transitions, self.x0 = trajectory
        pictures = math.prod(self.x0.shape[:-2])
        finite = bool(jnp.isfinite(self.x0).all())
        return row | {"rate": pictures / row["seconds"], "unit": "pictures/s", "note": "" if finite else "not finite"}

    def batch(self, transitions=None) -> Batch:
        """A batch whose views are all the prompt, so that the rollout's densities are those of every view."""
        abstract = self.calls["update"].arguments[2]
        if transitions is None:
            stage = self.programs.algorithm.schedule(0).stage
            transitions = jax.jit(lambda: self.programs.selected(self.config, stage).transitions)()
        views = jax.tree.map(lambda a, x: jnp.broadcast_to(a[None, :, None], x.shape), self.prompt, abstract.views)
        advantage = jax.random.normal(jax.random.key(1), abstract.advantage.shape)
        weight = jnp.full(abstract.weight.shape, 1.0 / abstract.weight.shape[0])
        recorded = jnp.broadcast_to(transitions.log_prob[None, :, :, None], abstract.old.log_prob.shape)
        return self.placed(Batch(transitions, Condition(*views), advantage, weight, Old(recorded, None)), abstract)

    def update(self) -> dict:
        row, run, batch = self.ready("update"), self.compiled["update"], self.batch()

        def call():
            self.state, metrics = run(self.state, None, batch, self.frozen)
            return metrics

        row, _ = self.finished("update", row, call)
        views = batch.weight.shape[0]
        evaluations = views * math.prod(batch.transitions.x_t.shape[:3])
        return row | {"rate": evaluations / row["seconds"], "unit": "evaluations/s", "note": f"{views} views"}

    def ratio(self) -> dict:
        """The ratio of the first update, where parameters are those that sampled: 1 but for rounding."""
        self.state = None
        self.state, notes, batch = self.fresh(), [], self.batch(self.transitions)
        row = self.ready("old_densities")
        densities = self.compiled["old_densities"]
        bare = batch._replace(old=None)
        row, kept = self.finished("old_densities", row, lambda: densities(self.policy, bare))
        for name, old in (("old densities kept", kept), ("the rollout's own", batch.old)):
            self.state = None
            self.state, metrics = self.compiled["update"](self.fresh(), None, batch._replace(old=old), self.frozen)
            notes.append(f"{name}: ratio - 1 from {metrics['ratio/min'] - 1:.1e} to {metrics['ratio/max'] - 1:.1e}")
        return row | {"note": "; ".join(notes)}

    def decode(self) -> dict:
        row, run = self.ready("decode"), self.compiled["decode"]
        row, (images, _) = self.finished("decode", row, lambda: run(self.decoder, self.x0[:, 0]))
        return row | {"rate": math.prod(images.shape[:-3]) / row["seconds"], "unit": "pictures/s"}

    def encode(self) -> dict:
        row, run = self.ready("encode_views"), self.compiled["encode_views"]
        abstract = list(self.calls["encode_views"].arguments[1:])
        ids = self.placed([jax.random.randint(jax.random.key(0), x.shape, 0, 100) for x in abstract], abstract)
        row, _ = self.finished("encode_views", row, lambda: run(self.encoders, *ids))
        return row | {"rate": math.prod(ids[0].shape[:-1]) / row["seconds"], "unit": "texts/s"}

    def precision(self) -> dict:
        """A forward pass in bfloat16 with either attention beside one in float32."""
        policy, half = self.programs.policy, jnp.bfloat16
        x = jax.random.normal(jax.random.key(2), (1, 1, *self.programs.latent_shape))
        prompt = jax.tree.map(lambda a: a[:1], self.prompt)

        def velocity(kind, dtype):
            network = flux.flux(self.run.pipeline.flux_config, attention=kind)
            chosen = dataclasses.replace(policy, network=network, dtype=dtype)
            return jax.jit(lambda params: chosen.velocity(params, x, 0.7, prompt))(self.state.params)

        with jax.default_matmul_precision("highest"):
            exact = velocity("xla", jnp.float32)
        kinds = dict.fromkeys((self.run.attention, "xla"))
        errors = [f"{kind} {error(velocity(kind, half), exact):.1e}" for kind in kinds]
        return {"note": f"velocity in bfloat16, error of float32: {', '.join(errors)}"}


def programs(case: str, tiny: bool) -> Iterator[tuple[str, Callable]]:
    made = Programs(case, tiny)
    for name in RUNS[case][2]:

        def one(name=name):
            with jax.set_mesh(made.run.mesh):
                return getattr(made, name)()

        yield f"{case}: {name}", one


def rows(case: str, tiny: bool = False) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The rows of a case: names, and functions that measure them."""
    others = {"kernels": kernels, "judges": gpu_judges.ours, "peers": gpu_judges.theirs}
    return others[case](tiny) if case in others else programs(case, tiny)
