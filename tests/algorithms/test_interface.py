"""The algorithm interface: names resolve by import, the core knows none of them."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import mvgrpo_jax
from configs import common
from mvgrpo_jax import algorithms
from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.errors import UserError
from tests.algorithms import harness
from tests.algorithms.plain import PROMPTS

pytestmark = pytest.mark.slow

PACKAGE = Path(mvgrpo_jax.__file__).parent
SHARED = sorted(p for folder in ("core", "parallel", "run", "planning") for p in (PACKAGE / folder).glob("*.py"))


@pytest.mark.parametrize("path", SHARED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shared_code_names_no_algorithm(path):
    code = re.sub(r'"""(?:.|\n)*?"""|#.*', "", path.read_text())
    for algorithm in algorithms.names():
        assert not re.search(rf"\b{algorithm}\b", code), (
            f"{path.name} names {algorithm}: make it a function of Algorithm instead"
        )


def test_files_stay_small():
    for path in Path(algorithms.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 100, f"{path.name} is over 100 lines: is part of it the core's?"


@pytest.mark.parametrize("name", algorithms.names())
@pytest.mark.parametrize(
    "steps, group", [(16, 12), *(pytest.param(*other, marks=pytest.mark.nightly) for other in ((5, 10), (10, 24)))]
)
def test_every_algorithm_builds_from_its_defaults(name, steps, group):
    config = common.get_config()
    config.algorithm.name, config.sampling.steps, config.group_size = name, steps, group
    method = algorithms.make(config)
    graph = method.graph
    assert graph.steps == steps and graph.group == group and graph.evaluations >= steps
    reward = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, graph.branches, graph.pictures)), jnp.float32)
    memory = method.chooser.memory if method.chooser else None
    trajectory = SimpleNamespace(transitions=SimpleNamespace(log_prob=jnp.zeros((8, graph.blocks, group))))
    found = method.advantage({"clip": reward}, jnp.ones(reward.shape[:3], bool), trajectory, memory)
    assert np.isfinite(found).all() and found.shape[:2] == (2, 8) and found.shape[-1] == group


@pytest.mark.parametrize("name", algorithms.names())
def test_a_missing_caption_takes_no_part_in_the_deviation_of_the_batch(name):
    """View 1 of prompt 2 is missing, its rewards are 0: the others' advantages are those of a batch without that prompt."""
    config = common.get_config()
    config.algorithm.name, config.sampling.steps, config.group_size, own = name, 10, 4, config.algorithm[name]
    own.combine = "whitened"
    if "global_std" in own:
        own.global_std = True
    method = algorithms.make(config)
    graph, rng = method.graph, np.random.default_rng(1)
    shape = (2, 8, graph.branches, graph.pictures)
    rewards = {"clip": rng.normal(3.0, 1.0, shape).astype(np.float32)}
    active, log_prob = np.ones(shape[:3], bool), rng.normal(size=(8, graph.blocks, graph.group)).astype(np.float32)
    active[1, 2], rewards["clip"][1, 2] = False, 0.0

    def advantage(prompts):
        trajectory = SimpleNamespace(transitions=SimpleNamespace(log_prob=jnp.asarray(log_prob[prompts])))
        memory = np.tile(np.float32([2.5, 0.8, 1.0]), (len(prompts), 1)) if method.chooser else None
        reward = {judge: jnp.asarray(values[:, prompts]) for judge, values in rewards.items()}
        return np.asarray(method.advantage(reward, jnp.asarray(active[:, prompts]), trajectory, memory))

    whole, without = advantage(np.arange(8)), advantage(np.delete(np.arange(8), 2))
    np.testing.assert_allclose(np.delete(whole, 2, 1)[1], without[1], rtol=1e-5, atol=1e-6)
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_says_where_it_is_from(name):
    text = algorithms.module(name).__doc__
    assert "arXiv" in text or "Bujiazi/GRPO-Series" in text
    assert (Path("docs") / "algorithms.md").read_text().count(f"## {name}:") == 1


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_has_a_flux_config(name):
    config = arguments.load("configs/mvgrpo_flux.py" if name == "mvgrpo" else f"configs/{name}_flux.py")
    assert config.algorithm.name == name and config.pipeline == "FLUX.1-dev"
    algorithms.make(config)


def test_views_are_the_algorithms_own_unless_given():
    config = common.get_config()
    config.group_size = 6
    assert algorithms.captions(config) == 6  # of mvgrpo one a sample
    config.algorithm.name = "dancegrpo"
    assert algorithms.captions(config) == 0  # the single-view system of its paper
    config.views.count = 3
    assert algorithms.captions(config) == 3
    config.views.enhancer = "none"
    assert algorithms.captions(config) == 0
    config.views.count = -2
    with pytest.raises(UserError, match="0 or more, or -1"):
        algorithms.captions(config)


def test_an_unknown_name_lists_what_exists():
    config = common.get_config()
    config.algorithm.name = "mvgrpoo"
    with pytest.raises(UserError, match="Did you mean 'mvgrpo'. there are: adagrpo, branchgrpo, dancegrpo"):
        algorithms.make(config)


@pytest.mark.parametrize(
    "name, own, message",
    [
        ("mvgrpo", {"trained_steps": (0, 20)}, "config for mvgrpo: trained steps must ascend within 0 .. 15"),
        ("mvgrpo", {"kernel": "sde"}, "unknown kernel 'sde'; there are: flow, dance, cps"),
        ("flow_grpo", {"divergence": "kl"}, "unknown divergence 'kl'; there are: transition, undivided, velocity"),
        ("flow_grpo_fast", {"form": "tree"}, "form must be 'window' or 'branch', got 'tree'"),
        ("flow_grpo_fast", {"size": 3, "first": 14}, "a window of 3 steps does not fit between steps 14 and 17 of 16"),
        ("dancegrpo", {"fraction": 0.0}, "leaves 0 to train"),
        ("mixgrpo", {"movement": "sideways"}, "unknown movement 'sideways'"),
        ("mixgrpo", {"tail": 0.0}, "must be within .0, 1., got 0.0"),
        ("tempflow_grpo", {"seeds": 5}, "anchors must divide the group into parts of at least 2, got 5 for group_size 12"),
        ("granular_grpo", {"strides": (0,)}, "strides must be positive"),
        ("branchgrpo", {"fans": (2, 2)}, "a tree of .2, 2. children has 4 leaves, but group_size is 12"),
        ("branchgrpo", {"prune_width": "worst"}, "prune_width must be none, best or extremes"),
        ("diffusion_nft", {"times": 40}, "times 40 is more than the 16 times"),
        ("diffusion_nft", {"solver": "heun"}, "unknown solver 'heun'; there are: euler, dpm2"),
        ("pave_grpo", {"segments": (1,)}, "segments must be numbers of substeps of at least 2"),
    ],
)
def test_a_bad_value_names_the_algorithm(name, own, message):
    config = common.get_config()
    config.algorithm.name = name
    config.algorithm[name].update(own)
    with pytest.raises(UserError, match=message):
        algorithms.make(config)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("mvgrpo", "flow_grpo", "mixgrpo", "branchgrpo", "adagrpo") else pytest.mark.nightly)
        for n in algorithms.names()
        if n != "diffusion_nft"
    ],
)
def test_the_ratio_is_one_before_the_first_update(name):
    """Exactly, where it is its own denominator; to rounding, where old densities are computed beforehand."""
    config = harness.settings(name, steps=6, group=6)
    memory = np.array([[0.0, 0.01, 1]] * PROMPTS, np.float32)
    for moved, tolerance in ((0.0, 0.0), (1e-30, 1e-5)):  # too little to change a parameter, but old densities are kept
        run = harness.run(config, views=2, off_policy=moved, memory=memory)
        for metric in ("ratio/min", "ratio/max"):
            assert np.abs(run.metrics[metric] - 1).max() <= tolerance
    assert np.isfinite(run.loss)
