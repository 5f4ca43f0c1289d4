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
from mvgrpo_jax.parallel import spread
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.preprocess import Preprocess, as_float

EMBEDDED = Path(__file__).parents[2] / "nano" / "assets" / "clip-nano"


# Published towers by the name of their folder, for planning without it: the CLIP of the same size.
PUBLISHED = {
    "clip-vit-large-patch14": {
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
        "projection_dim": 768,
    },
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's channels


class ClipReward:
    """folder: a CLIPModel folder, or 'clip-nano' (embedded). scale multiplies the cosine. chunk: items that a device puts
    through a tower at a time.

    A judge on the devices (base.DeviceJudge). Captions longer than the text tower are cut; `take_cut` counts them, and the
    first is warned of.
    """

    def __init__(self, folder: str = "clip-nano", scale: float = 1.0, chunk: int = 64):
        from transformers import CLIPTokenizer

        path = EMBEDDED if folder == "clip-nano" else Path(folder)
        prepare = path / "preprocessor_config.json"
        self._describe(read_json(path / "config.json"), read_json(prepare), str(prepare), scale, chunk)
        self.folder, self.tokenizer = path, CLIPTokenizer.from_pretrained(path)

    @classmethod
    def published(cls, folder: str, scale: float = 1.0, chunk: int = 64) -> ClipReward | None:
        """The judge by its shapes alone, with neither weights nor a tokenizer; None where the folder's name is not known."""
        if (known := PUBLISHED.get(Path(folder).name)) is None:
            return None
        judge = cls.__new__(cls)
        judge._describe(known, {"image_mean": MEAN, "image_std": STD}, folder, scale, chunk)
        return judge

    def _describe(self, config: dict, prepare: dict, source: str, scale: float, chunk: int) -> None:
        self.config = clip.config_from(config)
        self.network = clip.clip(self.config)
        self.prepare = Preprocess.read(prepare, self.config.vision.image_size, source)
        self.scale, self.chunk = scale, chunk
        self.folder = self.tokenizer = None
        self._cut: set[str] = set()
        self._warned = False

    @property
    def token_shapes(self) -> jax.ShapeDtypeStruct:
        """Of one text."""
        return jax.ShapeDtypeStruct((self.length,), jnp.int32)

    @property
    def length(self) -> int:
        """Tokens of a text that the text tower has places for."""
        places = self.config.text.max_position_embeddings
        return min(places, self.tokenizer.model_max_length) if self.tokenizer else places

    def load(self, sharding: Callable | None = None) -> Params:
        return import_params(self.network, self.folder, dtype=jnp.float32, sharding=sharding)

    def take_cut(self) -> int:
        count, self._cut = len(self._cut), set()
        return count

    def tokens(self, texts: list[str]) -> np.ndarray:
        """int32 [N, S]: the first tokens that the text tower has places for."""
        length = self.length
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
        flat = spread.by_parts(embed, spread.flatten(images), self.chunk)
        return spread.unflatten(flat, images.shape[0])[:, : images.shape[1]]

    def embed_texts(self, params, tokens) -> jax.Array:
        """Unit vectors [P, n, projection_dim] of tokens [P, n, S]."""
        net = self.network.bind(params)
        flat = spread.by_parts(net.embed_text, spread.flatten(tokens), self.chunk)
        return spread.unflatten(flat, tokens.shape[0])[:, : tokens.shape[1]]

    def score(self, params, images, tokens) -> Judgement:
        """Cosines x scale [V, P, n] of pictures [P, n, H, W, 3] under texts of tokens [V, P, S]."""
        pictures, texts = self.embed_images(params, images), self.embed_texts(params, jnp.moveaxis(tokens, 0, 1))
        return Judgement(self.scale * jnp.einsum("pnd,pvd->vpn", pictures, texts, precision="highest"))


JUDGE = ClipReward
