"""Prompts of the embedded world, drawn by its grammar."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.world import captions, scene
from mvgrpo_jax.nano.world.scene import MAX_THINGS

# Names of the embedded world's prompts -> how many things a prompt names at most.
EMBEDDED = {"flux-nano": MAX_THINGS, "flux-nano-one": 1}
COUNT = 512
# Prompts that are ever drawn; draws in a row without a new one, after which the world is held to have no more.
MOST, STALE = 100_000, 300


def embedded_prompts(count: int, *, held_out: bool, things: int = MAX_THINGS, seed: int = 0) -> list[str]:
    """`count` different short prompts (0: COUNT) that name at most `things` things; held_out: each names a pair that
    pretraining never saw. UserError where there are not so many."""
    count = count or COUNT
    if count > MOST:
        raise UserError(f"{count} prompts of the embedded world were asked for, at most {MOST} are drawn; lower the count")
    rng, prompts = np.random.default_rng([7, int(held_out), things, seed]), {}
    draws = newest = 0  # so far, and when the last new prompt came
    while len(prompts) < count:
        draws += 1
        if draws - newest > STALE:
            raise UserError(
                f"the embedded world has hardly more than {len(prompts)} prompts of {things} things each, {count} were asked "
                "for; lower config.prompts.train_count or eval_count, or give a file"
            )
        drawn = scene.sample(rng, held_out)
        text = captions.prompt(dataclasses.replace(drawn, things=drawn.things[:things]), rng)
        if captions.read(text).is_held_out() == held_out and text not in prompts:
            prompts[text], newest = None, draws
    return list(prompts)
