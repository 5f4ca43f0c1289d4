"""Pictures from a pipeline by ODE or SDE, outside of training."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax import pipelines
from mvgrpo_jax.core import rollout, sde, seeds
from mvgrpo_jax.core.policy import Policy
from mvgrpo_jax.errors import UserError


def sampler(pipeline: pipelines.Pipeline, policy: Policy, sigmas: np.ndarray, *, solver: str = "ode", eta: float = 0.7):
    """A jitted (params of all components, ids_clip, ids_t5, latents [N, L, C], key) -> pictures [N, H, W, 3] in [0, 1].

    UserError: an SDE over sigmas that rise.
    """
    if solver == "sde" and sigmas[0] < sigmas[-1]:
        raise UserError("--solver sde needs sigmas that fall; this pipeline's scheduler has invert_sigmas; take --solver ode")
    kernel = sde.kernel("flow")
    g = kernel.noise(sigmas, eta)
    grid = rollout.Grid(jnp.asarray(sigmas, jnp.float32), jnp.asarray(g, jnp.float32))

    @jax.jit
    def run(params, ids_clip, ids_t5, latents, key):
        condition = pipelines.encode(pipeline, params, ids_clip, ids_t5, policy.dtype)
        velocity = lambda x, s: policy.velocity(params["transformer"], x, s, condition)
        noise = rollout.normals(key) if solver == "sde" else None
        x0 = rollout.walk(velocity, kernel, grid, latents[:, None], 0, len(g), np.arange(0), 0, noise)[0]
        return pipelines.decode(pipeline, params["vae"], x0[:, 0], policy.grid, policy.dtype)

    return run


def initial_latents(seed: int, first: int, count: int, shape: tuple[int, int]) -> jax.Array:
    """Noise [count, L, C]; picture i depends on (seed, i) alone, whatever the batch size. ValueError: seed not of 64 bits."""
    root = seeds.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(first, first + count))
    return jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys)


def given_latents(path: Path, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Latents from a file. UserError unless they are [count, *shape] numbers."""
    try:
        latents = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--latents {path}: not a readable .npy file ({error})") from None
    if latents.shape != (count, *shape) or not np.issubdtype(latents.dtype, np.floating):
        raise UserError(
            f"--latents {path}: expected floats of shape {[count, *shape]} (prompts, tokens, channels), "
            f"found {latents.dtype} {list(latents.shape)}"
        )
    return latents.astype(np.float32)
