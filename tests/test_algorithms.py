"""The algorithm interface: names resolve by import, the core knows none of them."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mvgrpo_jax
from configs import common
from mvgrpo_jax import algorithms
from mvgrpo_jax.errors import UserError

CORE = ("train", "rollout", "update", "programs", "plans", "credit", "objectives", "policy", "sde")


@pytest.mark.parametrize("name", CORE)
def test_the_core_names_no_algorithm(name):
    source = (Path(mvgrpo_jax.__file__).parent / f"{name}.py").read_text()
    code = re.sub(r'"""(?:.|\n)*?"""|#.*', "", source)
    for algorithm in algorithms.names():
        assert not re.search(rf"\b{algorithm}\b", code), f"{name}.py names {algorithm}: make it a function of Algorithm instead"


def test_files_stay_small():
    for path in Path(algorithms.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 100, f"{path.name} is over 100 lines: is part of it the core's?"


@pytest.mark.parametrize("name", algorithms.names())
def test_every_algorithm_builds_from_the_defaults(name):
    config = common.get_config()
    config.algorithm.name = name
    method = algorithms.make(config)
    assert method.plan.steps == 16 and method.plan.group == 12
    reward = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, method.plan.branches, 12)), jnp.float32)
    assert method.advantage({"clip": reward}).shape == reward.shape


def test_an_unknown_name_lists_what_exists():
    config = common.get_config()
    config.algorithm.name = "mvgrpoo"
    with pytest.raises(UserError, match="Did you mean 'mvgrpo'. there are: flow_grpo, mvgrpo"):
        algorithms.make(config)


def test_a_bad_value_names_the_algorithm():
    config = common.get_config()
    config.sampling.trained_steps = (0, 20)
    with pytest.raises(UserError, match="config for mvgrpo: trained steps must ascend within 0 .. 15"):
        algorithms.make(config)


def test_flow_grpo_trains_all_steps_but_the_last():
    config = common.get_config()
    config.algorithm.name = "flow_grpo"
    method = algorithms.make(config)
    assert method.plan.trained == tuple(range(15)) and method.plan.evaluations == 16 * 12


def test_flow_grpos_advantage_by_hand():
    config = common.get_config()
    config.algorithm.name = "flow_grpo"
    reward = jnp.asarray([[[[1.0, 3.0]], [[10.0, 10.0]]]])  # [V=1, P=2, R=1, G=2]
    got = algorithms.make(config).advantage({"clip": reward})
    np.testing.assert_allclose(got[0, :, 0], [[-1 / 1.0001, 1 / 1.0001], [0, 0]], rtol=1e-6)
    config.algorithm.global_std = True
    got = algorithms.make(config).advantage({"clip": reward})
    spread = np.std([1, 3, 10, 10]) + 1e-4
    np.testing.assert_allclose(got[0, :, 0], [[-1 / spread, 1 / spread], [0, 0]], rtol=1e-6)
