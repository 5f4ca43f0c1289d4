"""Texts for a pipeline's two encoders: token ids, what fits into them, and encodings."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.pipelines.flux import Pipeline


def tokenize(pipeline: Pipeline, texts: list[str], max_sequence_length: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Ids for both encoders, int32 [N, clip length] and [N, max_sequence_length], and a warning for each text cut."""
    short = clip_length(pipeline)
    ids_clip = pipeline.tokenizer(texts, padding="max_length", max_length=short, truncation=True)["input_ids"]
    ids_t5 = pipeline.tokenizer_2(texts, padding="max_length", max_length=max_sequence_length, truncation=True)["input_ids"]
    warnings = []
    for i, text in enumerate(texts):
        if ids_t5[i][-1] == pipeline.tokenizer_2.pad_token_id:
            continue
        uncut = pipeline.tokenizer_2(text)["input_ids"]
        if len(uncut) > max_sequence_length:
            lost = pipeline.tokenizer_2.decode(uncut[max_sequence_length - 1 : -1]).strip()
            warnings.append(f"prompt of {len(uncut)} tokens is cut to {max_sequence_length}; lost: {lost!r}")
    return np.asarray(ids_clip, np.int32), np.asarray(ids_t5, np.int32), warnings


def shorten(pipeline: Pipeline, text: str, max_sequence_length: int) -> str:
    """The text, or as many of its whole sentences (else words) as the T5 encoder reads."""
    ids = pipeline.tokenizer_2(text, verbose=False)["input_ids"]
    if len(ids) <= max_sequence_length:
        return text
    kept = pipeline.tokenizer_2.decode(ids[: max_sequence_length - 1], skip_special_tokens=True)
    end = max(kept.rfind(c) for c in ".!?")
    if end > len(kept) // 2:
        return kept[: end + 1]
    return kept.rsplit(" ", 1)[0] if " " in kept else kept


def clip_length(pipeline: Pipeline) -> int:
    """CLIP tokens of every text: what the tokenizer says, and at most as many as the encoder has positions. A tokenizer without
    model_max_length says a number beyond any length."""
    positions, _ = pipeline.text_encoder.shapes["text_model"]["embeddings"]["position_embedding"]["embedding"].shape
    return int(min(positions, pipeline.tokenizer.model_max_length))


def text_length(pipeline: Pipeline) -> int:
    """T5 tokens when none are asked for: what the tokenizer says, and diffusers' 512 at most."""
    return int(min(512, pipeline.tokenizer_2.model_max_length))


def encode(pipeline: Pipeline, params: dict[str, Params], ids_clip, ids_t5, dtype=jnp.float32) -> Condition:
    """Token ids -> Condition. Pure: to be jitted by the caller."""
    _, pooled = pipeline.text_encoder(params["text_encoder"], ids_clip, dtype)
    txt = pipeline.text_encoder_2(params["text_encoder_2"], ids_t5, None, dtype)
    return Condition(txt.astype(dtype), pooled.astype(dtype))
