"""Pipelines of networks, parameters and tokenizers: folders in and out, texts to encodings, latents to pictures."""

from mvgrpo_jax.pipelines.flux import (
    EMBEDDED,
    PUBLISHED,
    WEIGHTS,
    Pipeline,
    check_channels,
    config_of,
    decode,
    describe,
    load,
    published,
    read,
    save,
)
from mvgrpo_jax.pipelines.lanes import decode_lanes, encode_lanes, encode_views
from mvgrpo_jax.pipelines.text import clip_length, encode, shorten, text_length, tokenize

__all__ = [
    "EMBEDDED",
    "PUBLISHED",
    "WEIGHTS",
    "Pipeline",
    "check_channels",
    "clip_length",
    "config_of",
    "decode",
    "decode_lanes",
    "describe",
    "encode",
    "encode_lanes",
    "encode_views",
    "load",
    "published",
    "read",
    "save",
    "shorten",
    "text_length",
    "tokenize",
]
