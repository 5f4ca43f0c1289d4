"""Prompts: files of a prompt a line, or the embedded world's, served by grain in an order that resumes exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import grain.python as grain
import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.world import captions, scene
from mvgrpo_jax.nano.world.scene import MAX_THINGS

# Names of the embedded world's prompts -> how many things a prompt names at most.
EMBEDDED = {"flux-nano": MAX_THINGS, "flux-nano-one": 1}
EMBEDDED_COUNT = 512
# Of the embedded world: prompts that are ever drawn; draws in a row without a new one, after which it is held to have no more.
MOST, STALE = 100_000, 300


def read_prompts(path: str | Path) -> list[str]:
    """The non-empty lines of a text file. UserError when it is missing, empty or not text."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"prompt file {path} does not exist; expected a text file with a prompt a line") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"prompt file {path} is not UTF-8 text ({error}); expected a prompt a line") from None
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"prompt file {path} is empty; expected a prompt a line")
    return prompts


def embedded_prompts(count: int, *, held_out: bool, things: int = MAX_THINGS, seed: int = 0) -> list[str]:
    """Different short prompts of the embedded world that name at most `things` things; held_out: each names a pair that
    pretraining never saw. UserError when there are not so many."""
    rng, found = np.random.default_rng([7, int(held_out), things, seed]), {}
    if count > MOST:
        raise UserError(f"{count} prompts of the embedded world were asked for, at most {MOST} are drawn; lower the count")
    draws = news = 0  # so far, and when the last new prompt came
    while len(found) < count:
        draws += 1
        if draws - news > STALE:
            raise UserError(
                f"the embedded world has hardly more than {len(found)} prompts of {things} things each, {count} were asked "
                "for; lower config.prompts.train_count or eval_count, or give a file"
            )
        drawn = scene.sample(rng, held_out)
        text = captions.prompt(dataclasses.replace(drawn, things=drawn.things[:things]), rng)
        if captions.read(text).is_held_out() == held_out and text not in found:
            found[text], news = None, draws
    return list(found)


def load_prompts(source: str, count: int, *, held_out: bool) -> list[str]:
    """Prompts from a name of EMBEDDED (the embedded world) or from a file; at most `count` (0: all of a file)."""
    if source in EMBEDDED:
        return embedded_prompts(count or EMBEDDED_COUNT, held_out=held_out, things=EMBEDDED[source])
    found = read_prompts(source)
    return found[:count] if count else found


def stream(texts: list[str], batch: int, seed: int) -> grain.DatasetIterator:
    """An endless iterator over shuffled batches of prompt texts; get_state and set_state resume it exactly."""
    if len(texts) < batch:
        raise UserError(
            f"config.prompts_per_iteration is {batch}, but there are only {len(texts)} training prompts; "
            "lower it or give more prompts"
        )
    dataset = grain.MapDataset.source(texts).seed(seed).shuffle().repeat().batch(batch)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
