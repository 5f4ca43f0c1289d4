"""Prompts: files of every form that people have, which of them are kept, and the order in which training draws them."""

from mvgrpo_jax.prompts.loading import load_corpus, load_prompts, read_prompts
from mvgrpo_jax.prompts.reading import read, read_file
from mvgrpo_jax.prompts.records import Prompt
from mvgrpo_jax.prompts.selection import Bounds
from mvgrpo_jax.prompts.streaming import stream

__all__ = ["Bounds", "Prompt", "load_corpus", "load_prompts", "read", "read_file", "read_prompts", "stream"]
