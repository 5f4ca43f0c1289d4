"""Small random judges of the CLIP family in folders as they are published, each beside the score that torch gives.

A case is (kind, its settings, peer): peer(pictures, captions) -> numbers [N, V] of RGB pictures of Pillow.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from mvgrpo_jax.rewards import clip_text
from tests import peers
from tests.rewards import open_clip_peer as oc

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


class Case(NamedTuple):
    kind: str
    options: dict
    peer: Callable
    tower: Callable | None = None  # torch's image tower or whole model, where it is compared apart


# model_cfg of open_clip's models, unlike each other; the first's widths divide over the devices of a mesh.
OPEN = {
    "exact": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 24, "layers": 2, "width": 20, "head_width": 10, "patch_size": 6},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 3},
    },
    "quick": {
        "embed_dim": 9,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 30, "layers": 3, "width": 24, "head_width": 8, "patch_size": 5, "mlp_ratio": 3.0},
        "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
}
# CLIPConfig of transformers' models: sizes of the two towers, and of their shared space.
HUGGING = {
    "exact": (dict(text=(24, 40, 3, 3), vision=(20, 44, 2, 2), act="gelu", side=24, patch=6, eos=49407), 12),
    "quick": (dict(text=(16, 30, 2, 2), vision=(12, 50, 3, 1), act="quick_gelu", side=30, patch=5, eos=2), 9),
}


def put_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


def put_vocabulary(folder: Path) -> None:
    shutil.copy(oc.FOLDER / clip_text.VOCABULARY, folder)


def open_clip_scores(model, prepare) -> Callable:
    """Cosines by open_clip: its tokens, its towers."""

    def peer(pictures: list[Image.Image], captions: list[str]) -> np.ndarray:
        ids = oc.tokenizer(captions, model.positional_embedding.shape[0])
        with torch.no_grad():
            images = model.encode_image(torch.stack([prepare(p) for p in pictures]), normalize=True)
            return (images @ model.encode_text(ids, normalize=True).T).numpy()

    return peer


def clip_open(folder: Path, variant: str) -> Case:
    """DFN5B's layout: squashed pictures in one variant, the shorter side in the other; safetensors and a pickle."""
    from safetensors.torch import save_file

    model, side = oc.model(OPEN[variant], 1), OPEN[variant]["vision_cfg"]["image_size"]
    mode = {"exact": "shortest", "quick": "squash"}[variant]
    settings = {"size": side, "mode": "RGB", "mean": MEAN, "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
    put_json(folder / "open_clip_config.json", {"model_cfg": OPEN[variant], "preprocess_cfg": settings | {"resize_mode": mode}})
    put_vocabulary(folder)
    if variant == "exact":
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    prepare = oc.preparation(side, mean=MEAN, std=settings["std"], resize_mode=mode)
    peer = open_clip_scores(model, prepare)
    return Case("clip", {"folder": str(folder), "scale": 2.0}, lambda p, c: 2.0 * peer(p, c), model)


def letterboxed(picture: Image.Image, side: int) -> torch.Tensor:
    """As hpsv2 on a torchvision that smooths: numbers, not bytes, are resized."""
    x = oc.to_tensor(picture)
    height, width = x.shape[1:]
    scale = side / float(max(height, width))
    if scale != 1.0:
        size = [max(round(d * scale), 1) for d in (height, width)]
        x = torch.nn.functional.interpolate(x[None], size, mode="bicubic", antialias=True)[0]
        down, across = side - size[0], side - size[1]
        x = torch.nn.functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return oc.Normalize(MEAN, STD)(x)


def hpsv2(folder: Path, variant: str) -> Case:
    model = oc.model(OPEN[variant], 2)
    if variant == "quick":
        model = model.half().float()  # published files are of 16 bits
    side = OPEN[variant]["vision_cfg"]["image_size"]
    put_json(folder / "open_clip_config.json", {"model_cfg": OPEN[variant]})
    put_vocabulary(folder)
    state = {k: v.half() if variant == "quick" else v for k, v in model.state_dict().items()}
    path = folder / {"exact": "HPS_v2_compressed.pt", "quick": "HPS_v2.1_compressed.pt"}[variant]
    torch.save({"epoch": 3, "name": "x", "state_dict": state}, path)
    return Case("hpsv2", {"weights": str(path), "base": str(folder)}, open_clip_scores(model, lambda p: letterboxed(p, side)))


def hugging_model(variant: str, seed: int) -> CLIPModel:
    sizes, width = HUGGING[variant]
    tower = lambda name: dict(
        zip(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), sizes[name]),
        hidden_act=sizes["act"],
    )
    text = dict(tower("text"), vocab_size=49408, bos_token_id=49406, eos_token_id=sizes["eos"], pad_token_id=1)
    vision = dict(tower("vision"), image_size=sizes["side"], patch_size=sizes["patch"])
    return peers.randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)), seed)


def write_hugging(folder: Path, variant: str, seed: int) -> tuple[CLIPModel, Callable]:
    """The model, and how a picture becomes its input."""
    model = hugging_model(variant, seed)
    model.save_pretrained(folder)
    put_vocabulary(folder)
    clip_text.tokenizer_of(folder, "").save_pretrained(folder)
    (folder / clip_text.VOCABULARY).unlink()
    put_json(folder / "preprocessor_config.json", {"image_mean": MEAN, "image_std": STD})
    resize, side = oc.Resize(model.config.vision_config.image_size), model.config.vision_config.image_size

    def prepare(picture: Image.Image) -> torch.Tensor:
        picture = resize(picture)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        return oc.Normalize(MEAN, STD)(oc.to_tensor(picture.crop((left, top, left + side, top + side))))

    return model, prepare


def hugging_logits(folder: Path, model: CLIPModel, prepare: Callable) -> Callable:
    tokenizer = CLIPTokenizer.from_pretrained(folder)

    def peer(pictures: list[Image.Image], captions: list[str]) -> np.ndarray:
        ids = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            return model(input_ids=ids, pixel_values=torch.stack([prepare(p) for p in pictures])).logits_per_image.numpy()

    return peer


def clip_hugging(folder: Path, variant: str) -> Case:
    model, prepare = write_hugging(folder, variant, 3)
    peer, factor = hugging_logits(folder, model, prepare), model.logit_scale.exp().item()
    return Case("clip", {"folder": str(folder), "chunk": 3}, lambda p, c: peer(p, c) / factor)


def pickscore(folder: Path, variant: str) -> Case:
    model, prepare = write_hugging(folder, variant, 4)
    peer = hugging_logits(folder, model, prepare)
    if variant == "exact":
        return Case("pickscore", {"folder": str(folder)}, peer)
    return Case("pickscore", {"folder": str(folder), "scale": "mixgrpo"}, lambda p, c: (peer(p, c) - 18) / 8)


def aesthetic(folder: Path, variant: str) -> Case:
    model, prepare = write_hugging(folder, variant, 5)
    widths, nn = (HUGGING[variant][1], 12, 8, 6, 5, 1), torch.nn
    lines = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
    drop = nn.Dropout(0.2)
    head = nn.Sequential(lines[0], drop, lines[1], drop, lines[2], drop, lines[3], lines[4]).eval()
    path = folder / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save({f"layers.{name}": value for name, value in head.state_dict().items()}, path)

    def peer(pictures: list[Image.Image], captions: list[str]) -> np.ndarray:
        with torch.no_grad():
            features = model.get_image_features(torch.stack([prepare(p) for p in pictures])).pooler_output
            scores = head(features / features.norm(dim=-1, keepdim=True))
        return np.repeat(scores.numpy(), len(captions), axis=1)

    return Case("aesthetic", {"weights": str(path), "base": str(folder)}, peer)


MAKERS = {
    "clip of open_clip": clip_open,
    "clip of transformers": clip_hugging,
    "hpsv2": hpsv2,
    "pickscore": pickscore,
    "aesthetic": aesthetic,
}


# Of BLIP's image tower, whose heads are of 64: width, blocks, picture and patches; of BERT: hidden, MLP, layers, heads.
BLIP = {
    "exact": ((64, 2, 32, 8), (24, 40, 2, 3)),
    "quick": ((128, 1, 48, 16), (16, 52, 3, 2)),
}


def word_pieces() -> list[str]:
    """A small vocabulary of WordPiece: BERT's first words, letters, and a few words and endings."""
    special = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.&;<>\"'’“”"
    return [
        *special,
        *letters,
        *(f"##{c}" for c in letters),
        "red",
        "circle",
        "on",
        "white",
        "back",
        "##ground",
        "word",
        "##ted",
    ]


def blip_state(vision, text, head) -> dict[str, torch.Tensor]:
    """ImageReward's checkpoint of transformers' modules: BLIP's own names (timm's for the tower) and what is there beside."""
    names = {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "encoder.layers": "blocks",
        "post_layernorm": "norm",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.qkv": "attn.qkv",
        "self_attn.projection": "attn.proj",
    }
    state = {}
    for name, value in vision.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[f"blip.visual_encoder.{name}"] = value
    state |= {f"blip.text_encoder.{name}": value for name, value in text.state_dict().items()}
    state |= {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None], "blip.vision_proj.weight": torch.ones(2, 2)}
    return state | {f"mlp.layers.{name}": value for name, value in head.state_dict().items()}


def imagereward(folder: Path, variant: str) -> Case:
    from transformers import BertTokenizer, BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextConfig, BlipTextModel

    (width, blocks, side, patch), sizes = BLIP[variant]
    shape = dict(hidden_size=width, intermediate_size=3 * width, num_hidden_layers=blocks, num_attention_heads=width // 64)
    config = BlipVisionConfig(**shape, image_size=side, patch_size=patch, layer_norm_eps=1e-6, hidden_act="gelu")
    vision = peers.randomise(BlipVisionModel(config), 6)
    med = dict(zip(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), sizes), vocab_size=210)
    med |= {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "max_position_embeddings": 40}
    text_config = BlipTextConfig(**med, encoder_hidden_size=width, is_decoder=True)
    text = peers.randomise(BlipTextModel(text_config, add_pooling_layer=False), 7)
    widths, nn = (sizes[0], 12, 8, 6, 5, 1), torch.nn
    lines = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
    drop = nn.Dropout(0.2)
    head = peers.randomise(nn.Sequential(lines[0], drop, lines[1], drop, lines[2], drop, lines[3], lines[4]), 8)
    torch.save(blip_state(vision, text, head), folder / "ImageReward.pt")
    put_json(folder / "med_config.json", med | {"architectures": ["BertModel"], "type_vocab_size": 2})
    (folder / "vocab.txt").write_text("\n".join(word_pieces()))
    tokenizer, resize, crop = BertTokenizer.from_pretrained(folder), oc.Resize(side), oc.CenterCrop(side)
    normalise = oc.Normalize(MEAN, STD)

    def one(picture: Image.Image, caption: str) -> float:
        tokens = tokenizer(caption, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
        image = vision(normalise(oc.to_tensor(crop(resize(picture))))[None]).last_hidden_state
        hidden = text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2], dtype=torch.long),
            is_decoder=False,
        ).last_hidden_state
        return float((head(hidden[:, 0]) - 0.16717362830052426) / 1.0333394966054072)

    def peer(pictures: list[Image.Image], captions: list[str]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray([[one(picture, caption) for caption in captions] for picture in pictures], np.float32)

    return Case("imagereward", {"weights": str(folder / "ImageReward.pt"), "base": str(folder)}, peer, vision)


MAKERS["imagereward"] = imagereward
# Every kind of tower and head daily, what is made of the same parts at night.
MANY = [
    pytest.param(n, marks=[] if n in ("hpsv2", "clip of transformers", "imagereward") else pytest.mark.nightly) for n in MAKERS
]
