"""What a folder of a CLIP model holds, as transformers or as open_clip writes it: sizes, preparation, tokenizer, weights."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.convert import open_clip
from mvgrpo_jax.convert.checkpoints import open_weights
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.models import clip
from mvgrpo_jax.rewards.clip_family import Parts
from mvgrpo_jax.rewards.clip_text import Captions, tokenizer_of
from mvgrpo_jax.rewards.preprocess import Preprocess


def config_of(folder: Path) -> clip.ClipConfig:
    """The sizes that a folder says. A folder of both kinds is read as open_clip's."""
    if not (folder / open_clip.CONFIG).exists():
        return clip.config_from(read_json(folder / "config.json"))
    content = read_json(folder / open_clip.CONFIG)
    return open_clip.config_from(content.get("model_cfg", content), str(folder / open_clip.CONFIG))


def preparation_of(folder: Path, side: int) -> Preprocess:
    """How a folder says that pictures are prepared for a tower of this size."""
    if (path := folder / open_clip.CONFIG).exists():
        return Preprocess.open_clip(read_json(path).get("preprocess_cfg", {}), side, str(path))
    path = folder / "preprocessor_config.json"
    return Preprocess.read(read_json(path), side, str(path))


def captions_of(folder: Path, config: clip.ClipConfig, label: str) -> Captions:
    """Captions by a folder's tokenizer; cleaned first where the folder is open_clip's."""
    tokenizer = tokenizer_of(folder, "Copy the model's whole folder")
    return Captions(tokenizer, config.text.max_position_embeddings, label, clean=(folder / open_clip.CONFIG).exists())


def weights_of(place: str | Path, config: clip.ClipConfig) -> Source:
    """The tensors of a file or folder of either kind, under CLIPModel's names."""
    return open_clip.named(open_weights(place, (*open_clip.WEIGHTS, "model.safetensors", "pytorch_model.bin")), config)


def read(folder: Path, label: str, base: Path | None = None) -> Parts:
    """A judge's parts by a folder; tokenizer and preparation by `base` where it is given. UserError where a file is missing or
    describes another model."""
    config = config_of(folder)
    around = base or folder
    prepare = preparation_of(around, config.vision.image_size)
    return Parts(config, prepare, lambda: weights_of(folder, config), captions_of(around, config, label))
