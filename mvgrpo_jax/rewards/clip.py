"""CLIP score: the cosine of picture and caption in a CLIPModel's shared space, from a transformers folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.models import clip
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.preprocess import Preprocess, as_float

EMBEDDED = Path(__file__).parents[1] / "nano" / "assets" / "clip-nano"


class ClipReward:
    """folder: a CLIPModel folder, or 'clip-nano' (embedded). scale multiplies the cosine. chunk: items that a device puts
    through a tower at a time.

    A judge on the devices (base.DeviceJudge). Captions longer than the text tower are cut; `take_cut` counts them, and the
    first is warned of.
    """

    def __init__(self, folder: str = "clip-nano", scale: float = 1.0, chunk: int = 64):
        from transformers import CLIPTokenizer

        self.folder = path = EMBEDDED if folder == "clip-nano" else Path(folder)
        self.config = clip.config_from(read_json(path / "config.json"))
        self.network = clip.clip(self.config)
        self.tokenizer = CLIPTokenizer.from_pretrained(path)
        prepare = path / "preprocessor_config.json"
        self.prepare = Preprocess.read(read_json(prepare), self.config.vision.image_size, str(prepare))
        self.scale, self.chunk = scale, chunk
        self._cut: set[str] = set()
        self._warned = False

    def load(self, sharding: Callable | None = None) -> Params:
        return import_params(self.network, self.folder, dtype=jnp.float32, sharding=sharding)

    def take_cut(self) -> int:
        count, self._cut = len(self._cut), set()
        return count

    def tokens(self, texts: list[str]) -> np.ndarray:
        """int32 [N, S]: the first tokens that the text tower has places for."""
        length = min(self.config.text.max_position_embeddings, self.tokenizer.model_max_length)
        encoded = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True)
        cut = {text for text, one in zip(texts, encoded.encodings) if one.overflowing}
        self._cut |= cut
        if cut and not self._warned:
            self._warned = True
            warnings.warn(
                f"the CLIP judge reads {length} tokens of a caption and cuts the rest, here of {len(cut)} of {len(texts)}, "
                f"such as {min(cut)[:80]!r}; reward_captions_cut/clip counts them. Shorter captions are judged whole",
                stacklevel=2,
            )
        return np.asarray(encoded["input_ids"], np.int32)

    def embed_images(self, params, images) -> jax.Array:
        """Unit vectors [P, n, projection_dim] of pictures [P, n, H, W, 3]."""
        net = self.network.bind(params)
        embed = lambda x: net.embed_image(self.prepare(as_float(x)))
        flat = rules.by_parts(embed, rules.flatten(images), self.chunk)
        return rules.unflatten(flat, images.shape[0])[:, : images.shape[1]]

    def embed_texts(self, params, tokens) -> jax.Array:
        """Unit vectors [P, n, projection_dim] of tokens [P, n, S]."""
        net = self.network.bind(params)
        flat = rules.by_parts(net.embed_text, rules.flatten(tokens), self.chunk)
        return rules.unflatten(flat, tokens.shape[0])[:, : tokens.shape[1]]

    def score(self, params, images, tokens) -> Judgement:
        """Cosines x scale [V, P, n] of pictures [P, n, H, W, 3] under texts of tokens [V, P, S]."""
        pictures, texts = self.embed_images(params, images), self.embed_texts(params, jnp.moveaxis(tokens, 0, 1))
        return Judgement(self.scale * jnp.einsum("pnd,pvd->vpn", pictures, texts, precision="highest"))
