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
# So many draws in a row without a new prompt: all of them are known.
EXHAUSTED = 2_000


def embedded_prompts(count: int, *, held_out: bool, things: int = MAX_THINGS, seed: int = 0) -> list[str]:
    """`count` different short prompts (0: COUNT) that name at most `things` things; held_out: each names a pair that
    pretraining never saw. UserError where there are not so many."""
    rng, prompts, barren = np.random.default_rng([7, int(held_out), things, seed]), {}, 0
    count = count or COUNT
    while len(prompts) < count:
        drawn = scene.sample(rng, held_out)
        text = captions.prompt(dataclasses.replace(drawn, things=drawn.things[:things]), rng)
        is_new = captions.read(text).is_held_out() == held_out and text not in prompts
        barren = 0 if is_new else barren + 1
        if is_new:
            prompts[text] = None
        elif barren == EXHAUSTED:
            raise UserError(
                f"the embedded world has about {len(prompts)} such prompts, but {count} are asked for; lower the count "
                "(config.prompts.train_count, config.prompts.eval_count, --count)"
            )
    return list(prompts)
