"""Float32 masters of bfloat16 parameters, against the same run in float32."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.core import precision
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh

STEPS, RATE = 50, 2e-6


def weights():
    rng = np.random.default_rng(0)
    tree = {"a": {"kernel": 0.02 * rng.standard_normal((40, 50))}, "b": {"bias": rng.standard_normal(500)}}
    return jax.tree.map(lambda x: jnp.asarray(x.astype(ml_dtypes.bfloat16)), tree)


def gradients(step):
    rng = np.random.default_rng([1, step])
    return jax.tree.map(lambda p: jnp.asarray(np.sign(p) + rng.standard_normal(p.shape), jnp.float32), weights())


def trained(optimizer, params, dtype=jnp.float32):
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for number in range(STEPS):
        params, state = step(params, state, jax.tree.map(lambda g: g.astype(dtype), gradients(number)))
    return params, state


def adamw():
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE, weight_decay=1e-4))


def test_masters_are_the_float32_run():
    want, plain = trained(adamw(), jax.tree.map(lambda p: p.astype(jnp.float32), weights()))
    got, state = trained(precision.with_master_weights(adamw()), weights())
    for m, w, p in zip(*(jax.tree.leaves(t) for t in (state.masters, want, got)), strict=True):
        assert m.dtype == jnp.float32 and p.dtype == jnp.bfloat16
        np.testing.assert_allclose(m, w, rtol=1e-6, atol=0)
        np.testing.assert_array_equal(np.asarray(p), np.asarray(m).astype(ml_dtypes.bfloat16))
    for a, b in zip(jax.tree.leaves(state.inner), jax.tree.leaves(plain), strict=True):
        assert a.dtype == b.dtype and a.dtype in (jnp.float32, jnp.int32)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=0)
    # Without masters hardly a weight gets anywhere: that is what they are for.
    lost, _ = trained(adamw(), weights())
    moved = np.asarray(lost["a"]["kernel"]) != np.asarray(weights()["a"]["kernel"])
    apart = np.asarray(state.masters["a"]["kernel"]) != np.asarray(weights()["a"]["kernel"], np.float32)
    assert moved.mean() < 0.1 and apart.mean() > 0.99


def test_gradients_of_bfloat16_are_widened():
    _, state = trained(precision.with_master_weights(adamw()), weights(), jnp.bfloat16)
    assert {x.dtype.name for x in jax.tree.leaves(state)} == {"float32", "int32"}


@pytest.mark.parametrize("value, change", [(1.0, 300.0), (-3e-5, 2.0), (1e30, -1e30), (0.0, 1e-8), (2.0, -4.0)])
def test_parameters_are_the_masters_rounded_however_large_the_step(value, change):
    optimizer = precision.with_master_weights(optax.sgd(1.0))
    params = {"w": jnp.asarray([value], jnp.bfloat16)}
    updates, state = optimizer.update({"w": jnp.asarray([-change], jnp.float32)}, optimizer.init(params), params)
    got = optax.apply_updates(params, updates)["w"]
    want = (np.float32(params["w"][0]) + np.float32(change)).astype(ml_dtypes.bfloat16)
    assert got.dtype == jnp.bfloat16 and np.asarray(got)[0] == want


def test_masters_of_parameters_in_float32_are_not_the_same_buffers():
    """A step that donates its state may not be handed one buffer twice."""
    params = {"w": jnp.ones(3)}
    state = precision.with_master_weights(adamw()).init(params)
    assert state.masters["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()


def test_masters_of():
    params = weights()
    state = precision.with_master_weights(adamw()).init(params)
    assert precision.masters_of(state, params) is state.masters
    assert precision.masters_of(adamw().init(params), params) is params
    with pytest.raises(ValueError, match="need the parameters"):
        precision.with_master_weights(adamw()).update(params, state)


def test_masters_and_moments_are_split_like_the_parameters():
    mesh = make_mesh(fsdp=8)
    shapes = {"w": {"kernel": jax.ShapeDtypeStruct((16, 4), jnp.bfloat16)}}
    split = NamedSharding(mesh, P("fsdp"))
    state = jax.eval_shape(precision.with_master_weights(adamw()).init, shapes)
    placed = rules.like_parameters(state, shapes, {"w": {"kernel": split}}, mesh)
    assert placed.masters == {"w": {"kernel": split}}
    mu = next(s for s in jax.tree.leaves(placed.inner, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu"))
    assert mu.mu == mu.nu == {"w": {"kernel": split}} and mu.count.spec == P()
