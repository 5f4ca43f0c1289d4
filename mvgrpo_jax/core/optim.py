"""The optimiser: AdamW with warm-up and a bound on the gradient's norm."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mvgrpo_jax.errors import UserError


def make(config) -> optax.GradientTransformation:
    """From config.optimizer: learning_rate, warmup (updates), weight_decay, b1, b2, eps, max_grad_norm (0: no bound)."""
    if config.learning_rate < 0:
        raise UserError(f"config.optimizer.learning_rate must not be negative, got {config.learning_rate}")
    rate = optax.constant_schedule(config.learning_rate)
    if config.warmup:
        rate = optax.linear_schedule(config.learning_rate / config.warmup, config.learning_rate, config.warmup)
    adamw = optax.adamw(rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay)
    if not config.max_grad_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adamw)


def average(config) -> Callable[[jax.Array], jax.Array] | None:
    """step -> decay of the average of weights, after config.ema; None without one. A step that does not count keeps all."""
    if not config.decay:
        return None
    if config.every < 1:
        raise UserError(f"config.ema.every must be at least 1, got {config.every}")

    def decay(step: jax.Array) -> jax.Array:
        n = step.astype(jnp.float32)
        wanted = jnp.minimum(config.decay, (1.0 + n) / (10.0 + n)) if config.warmup else jnp.float32(config.decay)
        return jnp.where(step % config.every == 0, wanted, 1.0)

    return decay
