"""The judges on one GPU, by their published shapes, and HPSv3's network in torch as the peer of ours.

Weights and tokens are random and made on the device; a judge's speed does not depend on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bench.gpu_timing import peak, random, timed
from mvgrpo_jax.models.qwen2_vl import Qwen2VLConfig, VisionConfig
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.planning import flops
from mvgrpo_jax.planning.abstract import placed
from mvgrpo_jax.rewards import described
from mvgrpo_jax.rewards.kinds.hpsv3 import AFTER, BEFORE, HPSv3Reward

VIEWS = (1, 13)
LENGTH = 64  # tokens of a caption and of what HPSv3 reads after it: a caption of 40 tokens, padded
NOWHERE = "/nowhere"
JUDGES = {  # row -> (kind, settings)
    "CLIP ViT-L/14, float32": ("clip", {"folder": "clip-vit-large-patch14"}),
    "HPSv2 ViT-H/14, float32": ("hpsv2", {"weights": f"{NOWHERE}.pt", "base": NOWHERE}),
    "ImageReward, float32": ("imagereward", {"weights": f"{NOWHERE}.pt", "base": NOWHERE}),
    "HPSv3, bfloat16": ("hpsv3", {"folder": NOWHERE}),
    "HPSv3, bfloat16, chunk 12": ("hpsv3", {"folder": NOWHERE, "chunk": 12}),
}
SMALL = Qwen2VLConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    mrope_section=(1, 1, 2),
    image_token_id=5,
    vision=VisionConfig(depth=2, embed_dim=32, num_heads=2, mlp_ratio=2, hidden_size=32),
)


def small() -> HPSv3Reward:
    """HPSv3 of toy size."""
    judge = HPSv3Reward.__new__(HPSv3Reward)
    judge._describe(SMALL, np.zeros(2, np.int32), np.zeros(3, np.int32), "sequential", 1.0, 4, jnp.dtype(jnp.float32))
    return judge


def tokens_of(judge, views: int) -> jax.Array:
    """Random tokens [V, 1, ...] of a judge's texts."""
    if isinstance(judge, HPSv3Reward):
        ids = jax.random.randint(jax.random.key(1), (views, 1, LENGTH), 6, 60)
        return {"ids": ids, "last": jnp.full((views, 1), LENGTH - 1)}
    shape = judge.token_shapes.shape
    return jax.random.randint(jax.random.key(1), (views, 1, *shape), 1, 900)


def ours(tiny: bool) -> Iterator[tuple[str, Callable]]:
    """Every judge, preprocessing included, of 24 pictures of a prompt under 1 and under 13 texts."""
    made = (
        {"HPSv3 tiny": small}
        if tiny
        else {name: lambda kind=k, settings=s: described(kind, settings) for name, (k, s) in JUDGES.items()}
    )
    pictures = (1, 3, 40, 40, 3) if tiny else (1, 24, 512, 512, 3)
    one = make_mesh()
    held = {}

    def row(name: str, views: int):
        with jax.set_mesh(one):
            if name not in held:
                held.clear()  # one judge's weights at a time
                judge = made[name]()
                whole = jax.sharding.NamedSharding(one, jax.sharding.PartitionSpec())
                held[name] = judge, random(placed(judge.network.shapes, whole))
            judge, params = held[name]
            images = jax.random.randint(jax.random.key(0), pictures, 0, 256).astype(jnp.uint8)
            tokens, score, before = tokens_of(judge, views), jax.jit(judge.score), peak()
            seconds, out = timed(lambda: score(params, images, tokens))
            operations = flops.count(judge.score, params, images, tokens)
        finite = bool(jnp.isfinite(out.scores).all())
        speed = {"rate": pictures[1] / seconds, "unit": "pictures/s", "note": "" if finite else "not finite"}
        return {"seconds": seconds, "operations": operations, "peak": peak(), "before": before} | speed

    for name in made:
        for views in VIEWS:
            yield f"{name}, {views} text{'s' * (views > 1)}", lambda name=name, views=views: row(name, views)


def peer(config: Qwen2VLConfig, device: str):
    """transformers' Qwen2-VL of a config, random."""
    import torch
    from transformers import Qwen2VLConfig as Theirs
    from transformers import Qwen2VLModel

    rope = {"rope_type": "default", "rope_theta": config.rope_theta, "mrope_section": list(config.mrope_section)}
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    text = {name: getattr(config, name) for name in names} | {"rope_parameters": rope, "use_sliding_window": False}
    text |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "rms_norm_eps": config.rms_norm_eps}
    vision = dataclasses.asdict(config.vision)
    last = config.vocab_size - 1
    ids = {
        "image_token_id": config.image_token_id,
        "vision_start_token_id": last,
        "vision_end_token_id": last,
        "video_token_id": last,
    }
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2VLModel(Theirs(text_config=text, vision_config=vision, **ids)).eval()
        torch.set_default_dtype(torch.float32)
    return model


def theirs(tiny: bool) -> Iterator[tuple[str, Callable]]:
    """transformers' Qwen2-VL (scaled_dot_product_attention, eager) on whole sequences as HPSv3's own code runs it: each picture
    with each of its texts anew. Only the network is timed: pixels are ready."""
    held = {}

    def row(views: int):
        import torch
        import transformers

        device = "cpu" if tiny else "cuda"
        config = SMALL if tiny else Qwen2VLConfig(vocab_size=151658)
        model = held.setdefault("model", None) or peer(config, device)
        held["model"] = model
        side, count, before, after = (4, 3, 2, 3) if tiny else (32, 24, BEFORE, AFTER)
        vision = config.vision
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        seen = side * side // vision.spatial_merge_size**2
        ids = [7] * before + [config.image_token_id] * seen + [8] * (after + LENGTH)
        ids = torch.tensor([ids], device=device)
        each = 2 if tiny else 12  # pictures at a time

        def call():
            out = None
            with torch.inference_mode():
                for _ in range(views):
                    for _ in range(0, count, each):
                        out = model(
                            input_ids=ids.expand(each, -1),
                            mm_token_type_ids=(ids == config.image_token_id).int().expand(each, -1),
                            position_ids=torch.arange(ids.shape[1], device=device).expand(3, each, -1),
                            pixel_values=torch.zeros(each * side * side, patch, device=device, dtype=torch.bfloat16),
                            image_grid_thw=torch.tensor([[1, side, side]] * each, device=device),
                            use_cache=False,
                        ).last_hidden_state[:, -1]
            return float(out.float().sum())  # waits for the device

        seconds, _ = timed(call)
        note = f"torch {torch.__version__}, transformers {transformers.__version__}, {each} pictures at a time"
        return {"seconds": seconds, "rate": count / seconds, "unit": "pictures/s", "note": note}

    for views in VIEWS:
        yield f"HPSv3 in torch, bfloat16, {views} text{'s' * (views > 1)}", lambda views=views: row(views)
