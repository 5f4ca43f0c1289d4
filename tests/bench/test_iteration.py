"""The benchmark's two sides compute one iteration: pictures, loss, gradient and parameters; operations are counted right."""

import copy

import jax
import numpy as np
import pytest
import torch

from bench import iteration
from bench.iteration_peer import Peer, adamw, operations
from mvgrpo_jax.convert import naming
from mvgrpo_jax.models import flux
from tests import tiny

SHAPES = [
    dict(num_layers=1, num_single_layers=2, num_attention_heads=2, attention_head_dim=16, axes_dims_rope=(4, 6, 6)),
    dict(num_layers=2, num_single_layers=1, num_attention_heads=3, attention_head_dim=8, axes_dims_rope=(4, 2, 2)),
]
TASKS = [dict(steps=5, trained=(0, 2), group=3, captions=2), dict(steps=6, trained=(1, 2, 5), group=2, captions=1)]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=[0, pytest.param(1, marks=pytest.mark.nightly)], ids=["guided", "three heads"])
def sides(request, tmp_path_factory):
    """(problem, ours after a rollout, what the peer is given)."""
    folder = tmp_path_factory.mktemp("iteration")
    problem = iteration.Problem(folder, SHAPES[request.param], **TASKS[request.param], seed=request.param)
    ours = iteration.Ours(problem)
    ours.rollout()
    return problem, ours, iteration.task(problem, ours)


def named(ours, tree) -> dict[str, np.ndarray]:
    """Our tree under diffusers' names, in torch's layout."""
    arrays = dict(naming.leaves(jax.tree.map(np.asarray, tree)))
    found = {}
    for name, entry in naming.entries(ours.run.pipeline.transformer).items():
        a = arrays[entry.path] if entry.layer is None else arrays[entry.path][entry.layer]
        found[name] = naming.to_torch(a, entry.path[-1])
    return found


def close(got, want, scale=None):
    """Equal to TOLERANCE of the largest number of `scale`, by default of what is wanted."""
    want = np.asarray(want)
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=TOLERANCE * np.abs(want if scale is None else scale).max())


@pytest.mark.parametrize(
    "way, together", [("one", 1), ("authors", 1), pytest.param("batched", 1, marks=pytest.mark.nightly), ("batched", 2)]
)
def test_torch_computes_the_same_iteration(sides, way, together):
    problem, ours, given = sides
    network = copy.deepcopy(problem.network)
    peer = Peer(network, adamw(network.parameters()), given, way, together)
    samples, trajectory = peer.rollout(), ours.trajectory
    close(samples.states, trajectory.transitions.x_t[0, :, 0])
    close(samples.draws, trajectory.transitions.x_next[0])
    close(samples.pictures, trajectory.x0[0])
    batch = ours.batch()
    close(peer.advantages(), batch.advantage[:, 0])
    # The transitions that ours trains on, so that the gradient is not that of slightly different pictures.
    peer.samples = samples._replace(
        states=torch.tensor(np.array(batch.transitions.x_t[0, :, 0])), draws=torch.tensor(np.array(batch.transitions.x_next[0]))
    )
    loss, grads, _ = tiny.gradients(ours.programs.updater, ours.params, batch)
    assert peer.backward() == pytest.approx(float(loss), abs=TOLERANCE)
    grads = named(ours, grads)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    largest = max(np.abs(g).max() for g in grads.values())
    assert norm > 1e-3
    for name, parameter in network.named_parameters():
        close(parameter.grad, grads[name], largest)


@pytest.mark.nightly
def test_one_update_makes_the_same_parameters(sides):
    problem, ours, given = sides
    network = copy.deepcopy(problem.network)
    peer = Peer(network, adamw(network.parameters()), given, "authors")
    peer.rollout()
    peer.update()
    before = named(ours, ours.params)
    ours.state = ours.programs.init(jax.tree.map(np.array, ours.params))
    ours.update()
    after, moved = named(ours, ours.state.params), 0
    for name, parameter in network.named_parameters():
        # A first step of AdamW moves nearly every number by the learning rate, 2e-6, whatever its gradient.
        np.testing.assert_allclose(parameter.detach(), after[name], rtol=0, atol=5e-6)
        step, wanted = after[name] - before[name], parameter.detach().numpy() - before[name]
        moved += (np.sign(step) == np.sign(wanted)).sum()
    assert moved > 0.99 * problem.parameters


def test_operations_are_those_of_the_closed_form(sides):
    problem, ours, given = sides
    one = flux.forward_flops(ours.run.pipeline.flux_config, ours.programs.policy.tokens, given.prompt.txt.shape[0])
    evaluations = ours.programs.algorithm.graph.evaluations
    text = flux.text_flops(ours.run.pipeline.flux_config, given.prompt.txt.shape[0])
    spared, rest = divmod(evaluations * one - ours.operations("rollout"), text)
    assert rest == 0 and 0 < spared < evaluations  # texts that were embedded once for several samples
    passes = len(problem.rewards) * len(problem.trained)
    # Forward, and twice as much backward but for the gradients of what is given.
    assert 2.7 < ours.operations("update") / (passes * one) <= 3.0
    peer = Peer(problem.network, adamw(problem.network.parameters()), given, "authors")
    assert operations(peer.rollout) == evaluations * one
    assert operations(peer.update) == pytest.approx(ours.operations("update"), rel=0.02)
