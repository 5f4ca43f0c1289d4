"""Attention kernels against plain softmax in numpy, and the choice between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import flux
from mvgrpo_jax.models.attention import attention, choose
from mvgrpo_jax.parallel.mesh import make_mesh
from tests import tiny


def plain(q, k, v):
    """[N, S, H, D] in float64."""
    logits = np.einsum("nqhd,nkhd->nhqk", q, k) / q.shape[-1] ** 0.5
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("nhqk,nkhd->nqhd", weight / weight.sum(-1, keepdims=True), v)


def inputs(length, batch=2, heads=2, dim=64):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, length, heads, dim)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("kind, length", [("xla", 40), ("splash_interpret", 128), ("splash_interpret", 40)])
def test_kernels_compute_softmax_attention(kind, length):
    """The TPU kernel in the interpreter, also with a length that it has to pad."""
    q, k, v = inputs(length)
    got = attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), kind=kind)
    np.testing.assert_allclose(got, plain(*(a.astype(np.float64) for a in (q, k, v))), atol=2e-5)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_causal_attention_with_keys_that_heads_share(sizes):
    """What a network asks for that does not know where it runs; a mesh may have more parts than there are keys' heads."""
    q, k, v = inputs(20, batch=4, heads=8)
    k, v = k[:, :, :2], v[:, :, :2]
    with jax.set_mesh(make_mesh(*sizes)):
        got = jax.jit(lambda *a: attention(*a, kind="native", causal=True))(*(jnp.asarray(a, jnp.bfloat16) for a in (q, k, v)))
    q, k, v = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (q, np.repeat(k, 4, 2), np.repeat(v, 4, 2)))
    for length in (1, 7, 20):  # the last place sees all before it
        want = plain(q[:, :length], k[:, :length], v[:, :length])[:, -1]
        np.testing.assert_allclose(got[:, length - 1].astype(np.float32), want, atol=0.02)


def test_the_tpu_kernels_gradient_under_views_on_a_mesh():
    """vmap over views and shard_map over samples and heads, as the update uses it; gradients equal the plain kernel's."""
    mesh = make_mesh(2, 2, 2)
    q, k, v = (jnp.asarray(np.stack([a, 2 * a])) for a in inputs(40, batch=4))

    def loss(kind, q, k, v):
        out = jax.vmap(lambda q, k, v: attention(q, k, v, kind=kind))(q, k, v)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum()

    with jax.set_mesh(mesh):
        got = jax.jit(jax.grad(lambda *a: loss("splash_interpret", *a), (0, 1, 2)))(q, k, v)
        want = jax.jit(jax.grad(lambda *a: loss("xla", *a), (0, 1, 2)))(q, k, v)
    tiny.close(got, want, 1e-4)


@pytest.mark.nightly
def test_a_transformer_with_the_tpu_kernel():
    _, params = tiny.policy_and_params()
    x = jax.random.normal(jax.random.key(0), (2, tiny.TOKENS, 8))
    args = (x, jnp.asarray([0.3, 0.7]), jnp.ones((2, 3, 8)), jnp.ones((2, 8)), flux.latent_ids(*tiny.GRID), jnp.ones(2))
    want = flux.flux(tiny.CONFIG)(params, *args)
    got = flux.flux(tiny.CONFIG, attention="splash_interpret")(params, *args)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_choice_follows_platform_and_precision():
    assert choose("auto", "tpu", jnp.float32) == "splash"
    assert choose("auto", "cuda", jnp.bfloat16) == "cudnn"
    assert (
        choose("auto", "cuda", jnp.float32) == choose("auto", "cpu", jnp.bfloat16) == choose("xla", "tpu", jnp.float32) == "xla"
    )
    for kind, platform, dtype, message in (
        ("flash", "cpu", jnp.float32, "unknown attention 'flash'; there are: auto"),
        ("cudnn", "cuda", jnp.float32, "needs an NVIDIA GPU and bfloat16"),
        ("splash", "cpu", jnp.float32, "needs a TPU, found cpu"),
    ):
        with pytest.raises(UserError, match=message):
            choose(kind, platform, dtype)
