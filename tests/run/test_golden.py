"""One iteration against recorded numbers: whatever changes the mathematics shows here."""

import jax
import numpy as np
import optax
import pytest

from configs import flux_nano
from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.prompts import stream
from mvgrpo_jax.run import drawing
from mvgrpo_jax.run import iteration as stages
from mvgrpo_jax.run.build import build
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.programs import sampler_of
from tests.runs import small_config

# Of a small run, and of configs/flux_nano.py: name -> recorded.
GOLDEN = {
    "small": {
        "reward/scene": 0.7579291,
        "loss": 0.0,
        "gradient RMS": 1.1307521e-05,
        "update RMS": 0.00096194655,
        "parameter RMS": 0.1795057,
    },
    "flux_nano": {
        "reward/scene": 0.6532334,
        "loss": 0.0,
        "gradient RMS": 1.2450077e-06,
        "update RMS": 8.6550076e-05,
        "parameter RMS": 0.1795035,
    },
}
CONFIGS = {"small": small_config, "flux_nano": flux_nano.get_config}
# Name -> tolerance relative, absolute. At ratio 1 the loss is minus the mean advantage: nothing but rounding.
TOLERANCE = {
    "reward/scene": (1e-3, 0.0),
    "loss": (0.0, 2e-5),
    "gradient RMS": (1e-3, 0.0),
    "update RMS": (1e-3, 0.0),
    "parameter RMS": (1e-5, 0.0),
}


def rms(tree) -> float:
    return float(optax.tree.norm(tree)) / sum(x.size for x in jax.tree.leaves(tree)) ** 0.5


def one_iteration(config) -> dict[str, float]:
    config.eval.every = 0
    config.optimizer.warmup = 0
    run, initial = build(config)
    before = jax.tree.map(np.asarray, initial)
    batches, clock = stream(run.prompts, config.prompts_per_iteration, config.seed), Clock()
    with jax.set_mesh(run.mesh):
        state = run.programs.init(initial)
        prompts = [str(p) for p in next(batches)]
        samples = drawing.sample(run, 0, assemble(sampler_of(state), run.frozen), prompts, None, clock)
        views, scores = stages.judge(run, 0, samples, clock)

        batch, _ = stages.make_batch(run, 0, samples, views, scores, clock)
        state, (metrics,) = stages.update(run, state, batch, 0)
    run.close()
    count = sum(x.size for x in jax.tree.leaves(before))
    return {
        "reward/scene": float(scores.by_judge["scene"][0].mean()),
        "loss": float(metrics["loss"]),
        "gradient RMS": float(metrics["grad_norm"]) / count**0.5,
        "update RMS": rms(jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)),
        "parameter RMS": rms(state.params),
    }


@pytest.mark.parametrize("name", ["small", pytest.param("flux_nano", marks=pytest.mark.nightly)])
def test_an_iteration_gives_the_recorded_numbers(name):
    found = one_iteration(CONFIGS[name]())
    table = "\n".join(f'        "{key}": {value!r},' for key, value in found.items())
    advice = (
        f"one iteration of {name} does not give the recorded numbers any more. If the mathematics was not meant to change, "
        "find what did with git bisect and this test. If it was, say why in the commit, see that the study's scores hold "
        f"(bench/study.py), and record the new numbers of both configs in GOLDEN:\n{table}"
    )
    for key, value in GOLDEN[name].items():
        relative, absolute = TOLERANCE[key]
        assert np.isclose(found[key], value, rtol=relative, atol=absolute), advice
