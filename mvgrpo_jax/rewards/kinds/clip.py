"""CLIP score: the cosine of picture and caption in a CLIP model's shared space, from transformers' or open_clip's folder."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.convert import open_clip
from mvgrpo_jax.rewards import clip_folders
from mvgrpo_jax.rewards.clip_family import DTYPE, ClipJudge, Parts
from mvgrpo_jax.rewards.preprocess import Preprocess

ASSETS = Path(__file__).parents[2] / "nano" / "assets"
EMBEDDED = {name: ASSETS / name for name in ("clip-nano", "nano-hps")}

_H14 = open_clip.VIT_H_14
_DFN_378 = _H14 | {"quick_gelu": True, "vision_cfg": _H14["vision_cfg"] | {"image_size": 378}}
# Published models by the name of their folder, for planning without it: their sizes, and whether pictures are squashed.
PUBLISHED = {
    "clip-vit-large-patch14": (open_clip.VIT_L_14, False),
    "CLIP-ViT-H-14-laion2B-s32B-b79K": (_H14, False),
    "DFN5B-CLIP-ViT-H-14": (_H14 | {"quick_gelu": True}, True),
    "DFN5B-CLIP-ViT-H-14-378": (_DFN_378, True),
    "DFN5B-CLIP-ViT-H-14-384": (_DFN_378, True),
}


class ClipReward(ClipJudge):
    """folder: of a CLIPModel as transformers writes it, or of a model of open_clip (open_clip_config.json), as DFN5B; or
    'clip-nano' or 'nano-hps', which was trained on preferences (embedded). scale multiplies the cosine. dtype: of weights and
    arithmetic. chunk: items that a device puts through a tower at a time."""

    def __init__(self, folder: str = "clip-nano", scale: float = 1.0, dtype: str = "float32", chunk: int = 64):
        self.settle(clip_folders.read(EMBEDDED.get(folder, Path(folder)), "CLIP"), scale, dtype, chunk)

    @classmethod
    def published(cls, folder: str, scale: float = 1.0, dtype: str = "float32", chunk: int = 64) -> ClipReward | None:
        """The judge by its shapes alone, with neither weights nor a tokenizer; None where the folder's name is not known."""
        if Path(folder).name not in PUBLISHED:
            return None
        sizes, squash = PUBLISHED[Path(folder).name]
        config = open_clip.config_from(sizes)
        prepare = Preprocess(config.vision.image_size, squash=squash)
        return cls.of(Parts(config, prepare, lambda: clip_folders.weights_of(folder, config)), scale, dtype, chunk)


JUDGE = ClipReward
RULES = {"dtype": DTYPE}
