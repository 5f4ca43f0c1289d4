"""The velocity network as the sampler and the update see it: lanes in, float32 velocity out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.models import flux, lora
from mvgrpo_jax.models.module import Network, Params, cast
from mvgrpo_jax.parallel import spread


def assemble(trained: Params, frozen: Params | None) -> Params:
    """The network's whole tree: what is trained, joined with the frozen base where only adapters are trained."""
    return trained if frozen is None else lora.join(frozen, trained)


# How sigma is rounded before the network sees it, in sampling and in training alike.
TIMESTEPS = {
    "exact": lambda s: s,
    "truncated": lambda s: jnp.floor(s * 1000.0) / 1000.0,  # DanceGRPO's code: whole thousandths, towards 0
    "bfloat16": lambda s: s.astype(jnp.bfloat16).astype(jnp.float32),  # AdaGRPO's code
}


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """Flux at one picture size. grid: packed tokens along each side; dtype: of the network's arithmetic; timestep: how sigma
    is rounded, a name of TIMESTEPS; time_scale: what the network is given for sigma = 1."""

    network: Network
    grid: tuple[int, int]
    guidance: float
    dtype: jnp.dtype = jnp.float32
    timestep: str = "exact"
    time_scale: float = 1.0

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def velocity(self, params: Params, x: jax.Array, sigma: jax.Array, condition: Condition) -> jax.Array:
        """x: [P, n, L, C]; sigma: [], [n] or [P, n]; condition: leading [P], shared by a prompt's n lanes. Returns float32 like
        x. Prompts x lanes are spread over the devices."""
        prompts, lanes = x.shape[:2]

        def for_each_lane(a):
            return spread.flatten(jnp.broadcast_to(a[:, None], (prompts, lanes, *a.shape[1:])))

        flat = spread.flatten(x)
        sigmas = spread.flatten(jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), (prompts, lanes)))
        sigmas = TIMESTEPS[self.timestep](sigmas) * self.time_scale
        guidance = jnp.full((len(flat),), self.guidance, jnp.float32)
        v = self.network(
            cast(params, self.dtype),
            flat.astype(self.dtype),
            sigmas,
            condition.txt,
            condition.pooled,
            flux.latent_ids(*self.grid),
            guidance,
            for_each_lane,
        )
        return spread.unflatten(v.astype(jnp.float32), prompts)[:, :lanes]
