"""HPSv3 (arXiv 2508.03789): how well people like a picture for a caption, from Qwen2-VL-7B and a small head.

The picture, brought to about 256 x 28 x 28 pixels, and a fixed instruction with the caption make one user turn; the head reads
the hidden state of the token <|Reward|> as a mean and an uncertainty of the score, and the mean counts. It has no bound; what
good models draw has 5 to 12.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.configuration.rules import Choice
from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.convert.qwen2_vl import HEAD, opened
from mvgrpo_jax.core.precision import DTYPES, dtype_of
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import qwen2_vl
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel import spread
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.cut import Cut
from mvgrpo_jax.rewards.dialogue import Dialogue
from mvgrpo_jax.rewards.patches import patches

TEXT = Path(__file__).parents[1] / "texts" / "hpsv3.txt"
PIXELS = 256 * 28 * 28  # to which a picture is brought, in training as here
IMAGE, READ = "<|image_pad|>", "<|Reward|>"
# Lengths to which the tokens of captions are padded, a program each; beyond the last one a caption's end is cut.
LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
USUAL = 128  # what is planned for
TOGETHER = 1024  # tokens of captions that a picture's part is continued by at a time
# Of Qwen2-VL-7B-Instruct's tokenizer and chat template with the text above, for planning without them.
VOCABULARY, BEFORE, AFTER = 151658, 15, 495


class HPSv3Reward:
    """folder: HPSv3.safetensors or a folder with it. base: a Qwen2-VL-7B-Instruct folder, of which config.json and the
    tokenizer with its chat template are read. instruction: a text file with {text_prompt} and <|Reward|> in it instead of the
    one of training. positions: 'sequential', as in training, or 'mrope', Qwen2-VL's own, which other ports use and which gives
    other scores. scale multiplies the score. chunk: pictures that a device judges at a time. dtype: of weights and arithmetic,
    empty: that of the file, bfloat16 as published;
    the head is float32.

    A judge on the devices (base.DeviceJudge). The vision tower and the tokens before the caption run once a picture, and each
    caption goes on from their keys and values. Captions of over 1000 tokens or so are cut; `take_cut` counts them, and the
    first is warned of. A score that is not finite is invalid.
    """

    def __init__(
        self,
        folder: str,
        base: str,
        instruction: str = "",
        positions: str = "sequential",
        scale: float = 1.0,
        chunk: int = 4,
        dtype: str = "",
    ):
        config = qwen2_vl.config_from(read_json(Path(base) / "config.json"), str(Path(base) / "config.json"))
        text = Path(instruction) if instruction else TEXT
        if not text.is_file():
            raise UserError(f"instruction: {text} does not exist; give a text file with {{text_prompt}} and {READ} in it")
        dialogue = Dialogue(base, text.read_bytes().decode(), IMAGE, READ)
        if dialogue.image_id != config.image_token_id:
            raise UserError(
                f"{base}: {IMAGE} is token {config.image_token_id} in config.json and {dialogue.image_id} in the tokenizer; "
                "copy both from one model"
            )
        config = dataclasses.replace(config, vocab_size=len(dialogue))
        self._describe(
            config, dialogue.before, dialogue.after, positions, scale, chunk, dtype_of(dtype) if dtype else opened(folder).kind
        )
        self.folder, self.dialogue = folder, dialogue

    @classmethod
    def published(
        cls,
        folder: str,
        base: str = "",
        instruction: str = "",
        positions: str = "sequential",
        scale: float = 1.0,
        chunk: int = 4,
        dtype: str = "",
    ) -> HPSv3Reward:
        """The judge by its shapes alone, with neither weights nor a tokenizer."""
        judge = cls.__new__(cls)
        config = qwen2_vl.Qwen2VLConfig(vocab_size=VOCABULARY)
        judge._describe(
            config,
            np.zeros(BEFORE, np.int32),
            np.zeros(AFTER, np.int32),
            positions,
            scale,
            chunk,
            dtype_of(dtype or "bfloat16"),
        )
        return judge

    def _describe(self, config, before, after, positions: str, scale: float, chunk: int, dtype) -> None:
        self.config, self.before, self.after = config, before, after
        self.positions, self.scale, self.chunk, self.dtype = positions, scale, chunk, dtype
        network = qwen2_vl.reward_model(config)
        shapes = {
            name: jax.tree.map(lambda x, kind=kind: jax.ShapeDtypeStruct(x.shape, kind), part)
            for name, part in network.shapes.items()
            for kind in [jnp.float32 if f"{name}." == HEAD else self.dtype]
        }
        self.network = dataclasses.replace(network, shapes=shapes)
        self.dialogue = self.folder = None
        self._cut = Cut("HPSv3", LENGTHS[-1])

    @property
    def token_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of one text of a usual length."""
        return {"ids": jax.ShapeDtypeStruct((USUAL,), jnp.int32), "last": jax.ShapeDtypeStruct((), jnp.int32)}

    def load(self, sharding: Callable | None = None) -> Params:
        return import_params(self.network, opened(self.folder, self.dtype), sharding=sharding)

    def take_cut(self) -> int:
        return self._cut.take()

    def tokens(self, texts: list[str]) -> dict[str, np.ndarray]:
        """ids: int32 [N, S], from the caption to the token that is read; last: int32 [N], where that is."""
        made = {text: self.dialogue.own(text, LENGTHS[-1]) for text in set(texts)}
        self._cut.note({text for text, (_, was_cut) in made.items() if was_cut}, len(texts))
        longest = max(len(ids) for ids, _ in made.values())
        rows = np.zeros((len(texts), next(n for n in LENGTHS if n >= longest)), np.int32)
        last = np.zeros(len(texts), np.int32)
        for i, text in enumerate(texts):
            ids = made[text][0]
            rows[i, : len(ids)], last[i] = ids, len(ids) - 1
        return {"ids": rows, "last": last}

    def score(self, params, images, tokens) -> Judgement:
        """Scores x scale [V, P, n] of pictures [P, n, H, W, 3] under texts of tokens [V, P, ...]."""
        prompts, lanes = images.shape[:2]
        each = jax.tree.map(lambda a: jnp.repeat(jnp.moveaxis(a, 0, 1)[:, None], lanes, axis=1), tokens)
        items = jax.tree.map(spread.flatten, (images, each))
        flat = spread.by_parts(lambda x: self._judge(self.network.bind(params), *x), items, self.chunk)
        scores = self.scale * jnp.moveaxis(spread.unflatten(flat, prompts)[:, :lanes], -1, 0)
        return Judgement(scores, jnp.isfinite(scores))

    def _judge(self, net, images, tokens) -> jax.Array:
        """[N, V] of pictures [N, H, W, 3] under V texts each."""
        seen, grid = patches(images, self.config.vision, PIXELS)
        merge = self.config.vision.spatial_merge_size
        views, length = tokens["ids"].shape[1:]
        own = length + len(self.before) + len(self.after)
        grid_merged = (grid[0] // merge, grid[1] // merge)
        at = qwen2_vl.image_positions(len(self.before), grid_merged, own - len(self.before))
        if self.positions == "sequential":
            at = qwen2_vl.sequential(at.shape[1])
        past = net.begin(self.before, self.after, seen.astype(self.dtype), grid, at[:, :-length])
        read = lambda x: net.read(past, x["ids"], x["last"], at[:, -length:])[..., 0]
        return in_groups(read, tokens, -(-views * length // TOGETHER))


def in_groups(function: Callable, items, count: int) -> jax.Array:
    """function of a tree [N, V, ...] -> [N, V], for V in `count` groups one after the other, so that memory holds one."""
    n, views = jax.tree.leaves(items)[0].shape[:2]
    each = -(-views // min(count, views))
    groups = -(-views // each)
    if groups == 1:
        return function(items)
    whole = jax.tree.map(lambda a: jnp.pad(a, ((0, 0), (0, groups * each - views), *[(0, 0)] * (a.ndim - 2))), items)
    parts = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(n, groups, each, *a.shape[2:]), 1, 0), whole)
    return jnp.moveaxis(jax.lax.map(function, parts), 0, 1).reshape(n, -1)[:, :views]


JUDGE = HPSv3Reward
RULES = {"positions": Choice(("sequential", "mrope")), "dtype": Choice.of(("", *DTYPES))}
