"""ImageReward: how much people prefer a picture for a caption, a BLIP whose text looks at the picture (arXiv 2304.05977)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.convert import blip, import_params
from mvgrpo_jax.convert.checkpoints import open_weights
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.blip import BertConfig, BlipConfig, image_reward
from mvgrpo_jax.models.clip import TowerConfig
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import spread
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.clip_family import DTYPE, in_dtype, judged
from mvgrpo_jax.rewards.clip_text import Captions
from mvgrpo_jax.rewards.preprocess import Preprocess

LENGTH = 35  # tokens of a caption


class ImageReward:
    """weights: ImageReward.pt as published, or a folder that `convert judge` made of it. base: a folder with the tokenizer of
    bert-base-uncased (vocab.txt or tokenizer.json) and, for sizes other than the published, med_config.json. scale multiplies
    the score, about -2.3 to 2. dtype: of weights and arithmetic. chunk: pictures that a device looks at at a time.

    A judge on the devices (base.DeviceJudge). A picture goes through the image tower once, and its projections for the text
    encoder are made once, however many captions look at it.
    """

    def __init__(self, weights: str, base: str, scale: float = 1.0, dtype: str = "float32", chunk: int = 16):
        from transformers import BertTokenizer

        folder = Path(base)
        if not any((folder / name).exists() for name in ("vocab.txt", "tokenizer.json")):
            raise UserError(
                f"{base}: expected the tokenizer of bert-base-uncased, as vocab.txt or tokenizer.json; set base to a folder "
                "that has it"
            )
        self._settle(weights, text_config(base), blip.vision_config(open_weights(weights)), scale, dtype, chunk)
        self.captions = Captions(BertTokenizer.from_pretrained(folder), LENGTH, "ImageReward")

    @classmethod
    def published(
        cls, weights: str, base: str = "", scale: float = 1.0, dtype: str = "float32", chunk: int = 16
    ) -> ImageReward:
        """The judge by its shapes alone, with neither weights nor a tokenizer."""
        judge = cls.__new__(cls)
        vision = blip.vision_config(open_weights(weights)) if Path(weights).exists() else blip.VIT_L_16
        judge._settle(weights, text_config(base), vision, scale, dtype, chunk)
        return judge

    def _settle(self, weights: str, text: BertConfig, vision: TowerConfig, scale: float, dtype: str, chunk: int) -> None:
        self.dtype, self.scale, self.chunk = dtype_of(dtype), scale, chunk
        self.network = in_dtype(image_reward(BlipConfig(text, vision)), self.dtype)
        self.prepare = Preprocess(vision.image_size, rounded=True)
        self.opened = lambda: blip.named(open_weights(weights), vision)
        self.token_shapes = jax.ShapeDtypeStruct((2, LENGTH), jnp.int32)

    def load(self, sharding=None) -> Params:
        return import_params(self.network, self.opened(), dtype=self.dtype, sharding=sharding)

    def take_cut(self) -> int:
        return self.captions.take_cut()

    def tokens(self, texts: list[str]) -> np.ndarray:
        """int32 [N, 2, 35]: tokens, and 1 where there is one."""
        ids = self.captions(texts)
        return np.stack([ids, ids != self.captions.tokenizer.pad_token_id], axis=1).astype(np.int32)

    def score(self, params, images, tokens) -> Judgement:
        """Scores [V, P, n] of pictures [P, n, H, W, 3] under texts of tokens [V, P, 2, S]."""
        net, (prompts, lanes) = self.network.bind(params), images.shape[:2]
        texts = jnp.moveaxis(tokens, 0, 1)[:, None]
        texts = jnp.broadcast_to(texts, (prompts, lanes, *texts.shape[2:]))

        def judge(items):
            pictures, texts = items
            return net(self.prepare(pictures).astype(self.dtype), texts[:, :, 0], texts[:, :, 1] > 0)

        flat = spread.by_parts(judge, (spread.flatten(images), spread.flatten(texts)), self.chunk)
        scores = spread.unflatten(flat, prompts)[:, :lanes]
        return judged(self.scale * jnp.moveaxis(scores, -1, 0))


def text_config(base: str) -> BertConfig:
    """The text encoder's sizes that the folder says, and else the published ones. UserError for another encoder."""
    path = Path(base) / "med_config.json"
    if not base or not path.exists():
        return BertConfig()
    given, known = read_json(path), {f.name for f in dataclasses.fields(BertConfig)}
    if given.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{path}: position_embedding_type must be absolute, found {given['position_embedding_type']!r}")
    return BertConfig(**{k: v for k, v in given.items() if k in known})


JUDGE = ImageReward
RULES = {"dtype": DTYPE}
PLACE = "weights"
