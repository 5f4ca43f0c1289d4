"""CLIP score: the cosine of picture and caption in a CLIPModel's shared space, from a transformers folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.core.structs import Captions
from mvgrpo_jax.models import clip
from mvgrpo_jax.rewards.preprocess import Preprocess

EMBEDDED = Path(__file__).parents[1] / "nano" / "assets" / "clip-nano"


class ClipReward:
    """folder: a CLIPModel folder, or 'clip-nano' (embedded). scale multiplies the cosine. chunk: items a tower call.

    Captions longer than the text tower are cut; `captions_cut` counts those of the last `score`, and the first is warned of.
    """

    def __init__(self, folder: str = "clip-nano", scale: float = 1.0, chunk: int = 64):
        from transformers import CLIPTokenizer

        path = EMBEDDED if folder == "clip-nano" else Path(folder)
        self.config = clip.config_from(read_json(path / "config.json"))
        self.net = clip.clip(self.config)
        self.params = import_params(self.net, path, dtype=jnp.float32)
        self.tokenizer = CLIPTokenizer.from_pretrained(path)
        prepare = path / "preprocessor_config.json"
        self.prepare = Preprocess.read(read_json(prepare), self.config.vision.image_size, str(prepare))
        self.scale, self.chunk = scale, chunk
        self.captions_cut, self._warned = 0, False
        self._image = jax.jit(lambda p, x: self.net.bind(p).embed_image(self.prepare(x)))
        self._text = jax.jit(lambda p, ids: self.net.bind(p).embed_text(ids))

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [N, projection_dim] of the first tokens that the text tower has places for."""
        length = min(self.config.text.max_position_embeddings, self.tokenizer.model_max_length)
        encoded = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True)
        cut = [text for text, one in zip(texts, encoded.encodings) if one.overflowing]
        self.captions_cut = len(cut)
        if cut and not self._warned:
            self._warned = True
            warnings.warn(
                f"the CLIP judge reads {length} tokens of a caption and cuts the rest, here of {len(cut)} of {len(texts)}, "
                f"such as {cut[0][:80]!r}; reward_captions_cut/clip counts them. Shorter captions are judged whole",
                stacklevel=2,
            )
        return in_chunks(lambda ids: self._text(self.params, ids), np.asarray(encoded["input_ids"], np.int32), self.chunk)

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Unit vectors [N, projection_dim] of pictures [N, H, W, 3] in [0, 1]."""
        return in_chunks(lambda x: self._image(self.params, x), images, self.chunk)

    def score(self, images: np.ndarray, captions: Captions) -> np.ndarray:
        texts = sorted({t for view in captions for prompt in view for t in prompt if t is not None})
        row = {text: i for i, text in enumerate(texts)}
        text = np.concatenate([self.embed_texts(texts), np.zeros((1, self.config.projection_dim), np.float32)])
        index = np.asarray([[[row.get(t, -1) for t in prompt] for prompt in view] for view in captions])
        image = self.embed_images(images.reshape(-1, *images.shape[3:])).reshape(*images.shape[:3], -1)
        return self.scale * np.einsum("prgd,vprd->vprg", image, text[index], dtype=np.float32)


def in_chunks(function, items: np.ndarray, chunk: int) -> np.ndarray:
    """Calls a jitted function on blocks of `chunk` rows, the last one padded, so that it compiles once."""
    out = []
    for first in range(0, len(items), chunk):
        block = items[first : first + chunk]
        padding = np.repeat(block[-1:], chunk - len(block), 0)
        out.append(np.asarray(function(np.concatenate([block, padding])))[: len(block)])
    return np.concatenate(out)
