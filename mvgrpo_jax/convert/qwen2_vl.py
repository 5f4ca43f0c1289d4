"""Files of Qwen2-VL and of reward models made of it, under the names that transformers 4 gave."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np

from mvgrpo_jax.convert.sources import Renamed, Source, TensorFiles
from mvgrpo_jax.errors import UserError

# Since transformers 5 both parts stand under "model", or without it where the part below a head is saved alone.
_NEW = ((re.compile(r"model\.visual\."), "visual."), (re.compile(r"(model\.)?language_model\."), "model."))
# What predicts the next token; a reward model's file has it, and nothing reads it.
_UNUSED = "lm_head."
# Kept in float32 whatever the rest is in.
HEAD = "rm_head."


def names(found: list[str]) -> dict[str, str]:
    """Our name -> the file's, without lm_head. Everything may stand under one more "model", as training loops save it."""
    under = any(name.startswith(("model.model.", "model.rm_head.")) for name in found)
    out = {}
    for name in found:
        short = name.removeprefix("model.") if under else name
        for pattern, instead in _NEW:
            if pattern.match(short):
                short = pattern.sub(instead, short, count=1)
                break
        if not short.startswith(_UNUSED):
            out[short] = name
    return out


class Typed:
    """A source whose tensors come out in one dtype, those under `HEAD` in float32."""

    def __init__(self, source: Source, dtype: np.dtype):
        self.source, self.kind, self.where = source, np.dtype(dtype), source.where

    def names(self) -> list[str]:
        return self.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(np.float32) if name.startswith(HEAD) else self.kind

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.source.read(name, start, stop).astype(self.dtype(name), copy=False)


def opened(place: str | Path, dtype: np.dtype | None = None) -> Typed:
    """The tensors of a file or of a folder with model.safetensors, one or in shards; a folder with one other safetensors file
    is read as that file. dtype None: the file's, of the first tensor that is not the head's. UserError for anything missing or
    cut short."""
    place = Path(place)
    if place.is_dir() and not any(place.glob("model*.safetensors*")):
        files = sorted(place.glob("*.safetensors"))
        if len(files) > 1:
            raise UserError(f"{place}: several safetensors files, {', '.join(f.name for f in files)}; name the one to read")
        place = files[0] if files else place
    elif not place.exists():
        raise UserError(f"{place}: no such file or folder; expected HPSv3.safetensors or a folder with it")
    source = TensorFiles(place)
    tensors = Renamed(source, names(source.names()))
    stored = [tensors.dtype(name) for name in tensors.names() if not name.startswith(HEAD)]
    return Typed(tensors, dtype or (stored[0] if stored else ml_dtypes.bfloat16))
