"""CLIP score: the cosine of picture and caption in a CLIPModel's shared space, from a transformers folder."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.core.structs import Captions
from mvgrpo_jax.models import clip

EMBEDDED = Path(__file__).parents[1] / "nano" / "assets" / "clip-nano"


class ClipReward:
    """folder: a CLIPModel folder, or 'clip-nano' (embedded). scale multiplies the cosine. chunk: items a tower call."""

    def __init__(self, folder: str = "clip-nano", scale: float = 1.0, chunk: int = 64):
        from transformers import CLIPTokenizer

        path = EMBEDDED if folder == "clip-nano" else Path(folder)
        self.config = clip.config_from(read_json(path / "config.json"))
        self.net = clip.clip(self.config)
        self.params = import_params(self.net, path, dtype=jnp.float32)
        self.tokenizer = CLIPTokenizer.from_pretrained(path)
        prepare = read_json(path / "preprocessor_config.json")
        self.mean, self.std = (np.asarray(prepare[k], np.float32) for k in ("image_mean", "image_std"))
        self.scale, self.chunk = scale, chunk
        self._image = jax.jit(lambda p, x: self.net.bind(p).embed_image(self.prepare(x)))
        self._text = jax.jit(lambda p, ids: self.net.bind(p).embed_text(ids))

    def prepare(self, images: jax.Array) -> jax.Array:
        """[N, H, W, 3] in [0, 1] -> resized (shortest side, cubic), centre-cropped and normalised for the tower."""
        side = self.config.vision.image_size
        n, height, width, channels = images.shape
        if (height, width) != (side, side):
            ratio = side / min(height, width)
            size = (round(height * ratio), round(width * ratio))
            images = jnp.clip(jax.image.resize(images, (n, *size, channels), "cubic", antialias=True), 0.0, 1.0)
            top, left = (size[0] - side) // 2, (size[1] - side) // 2
            images = images[:, top : top + side, left : left + side]
        return (images - self.mean) / self.std

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [N, projection_dim]."""
        length = min(self.config.text.max_position_embeddings, self.tokenizer.model_max_length)
        encoded = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True)["input_ids"]
        return in_chunks(lambda ids: self._text(self.params, ids), np.asarray(encoded, np.int32), self.chunk)

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
