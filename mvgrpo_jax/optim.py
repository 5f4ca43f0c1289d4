"""The optimiser: AdamW with warm-up and a bound on the gradient's norm."""

from __future__ import annotations

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
