"""The three trainings behind the embedded pipeline: autoencoder, contrastive towers, rectified flow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.core import seeds
from mvgrpo_jax.core.schedules import shifted
from mvgrpo_jax.models import clip, flux, t5, vae
from mvgrpo_jax.models.module import Network, Params
from mvgrpo_jax.nano.pretrain.corpus import Corpus
from mvgrpo_jax.nano.pretrain.loop import train
from mvgrpo_jax.nano.pretrain.tokenizers import CLIP_LENGTH, T5_LENGTH
from mvgrpo_jax.nano.world import captions, truth
from mvgrpo_jax.nano.world.render import SIDE

KL_WEIGHT = 2e-3  # of the latents' divergence from a unit Gaussian, per number, against the squared error of a pixel
CLIP_MEAN, CLIP_STD = 0.5, 0.5  # the nano tower's image normalisation
DROPPED = 0.05  # share of captions replaced by the empty one
GUIDANCE = (1.0, 5.0)  # range of the scales shown to the guidance embedding, which learns to ignore them


@dataclasses.dataclass(frozen=True)
class Stage:
    """What every stage needs. scale shortens a training (tests); corpus is shared."""

    corpus: Corpus
    folder: Path
    seed: int
    scale: float = 1.0

    def steps(self, full: int) -> int:
        return max(2, round(full * self.scale))

    def seeded(self, place: int) -> int:
        """The seed of the stage at this place; after the largest comes 0."""
        return (self.seed + place) % seeds.SEEDS


def rows(stage: Stage, rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(len(stage.corpus.scenes), size=count)


def autoencoder(stage: Stage, net: Network) -> Params:
    """L1 and squared error of the picture plus the latents' KL divergence; posterior sampled."""

    def loss_fn(params, average, step, key, image):
        module = net.bind(params)
        mean, log_var = module.moments(image)
        latent = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
        error = module(latent) - image
        kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1.0 - log_var).mean()
        square = (error**2).mean()
        return square + 0.3 * jnp.abs(error).mean() + KL_WEIGHT * kl, {"square": square, "kl": kl}

    return train(
        "vae",
        jax.jit(net.init)(seeds.key(stage.seed)),
        loss_fn,
        lambda step, rng: (stage.corpus.pixels(rows(stage, rng, 32)),),
        steps=stage.steps(2500),
        learning_rate=2e-3,
        seed=stage.seed,
        folder=stage.folder,
        decay=0.995,
    )


def latent_statistics(stage: Stage, net: Network, params: Params) -> tuple[np.ndarray, float, float]:
    """The corpus's packed latents [N, tokens, 64], centred and scaled, with their shift and scaling factor."""
    moments = jax.jit(lambda x: net.bind(params).moments(x)[0])
    count = len(stage.corpus.scenes)
    latents = np.concatenate(
        [np.asarray(moments(stage.corpus.pixels(np.arange(i, min(i + 500, count))))) for i in range(0, count, 500)]
    )
    shift, scale = float(latents.mean()), float(1.0 / latents.std())
    return np.asarray(vae.pack((latents - shift) * scale)), shift, scale


def contrastive(stage: Stage, net: Network, tokenizer) -> Params:
    """Symmetric contrastive loss. Every caption has a wrong twin with one attribute altered, a negative for the pictures;
    pairs that happen to be true are left out of the denominator."""
    batch = 96

    def ids(texts: list[str]) -> np.ndarray:
        encoded = tokenizer(texts, padding="max_length", max_length=CLIP_LENGTH, truncation=True)["input_ids"]
        return np.asarray(encoded, np.int32)

    def batch_fn(step, rng):
        index = rows(stage, rng, batch)
        scenes = [stage.corpus.scenes[i] for i in index]
        right = [captions.training_description(s, rng) for s in scenes]
        wrong = [truth.alter(d, rng) for d in right]
        texts = [captions.write(d) for d in right + wrong]
        texts = [captions.reword(t, rng) if rng.random() < 0.3 else t for t in texts]
        also_true = truth.holds(scenes, right + wrong)
        also_true[np.arange(batch), np.arange(batch)] = False
        return stage.corpus.pixels(index) * 0.5 / CLIP_STD, ids(texts), also_true

    def loss_fn(params, average, step, key, image, ids, also_true):
        logits = jnp.where(also_true, -1e9, net(params, ids, image))
        own = jnp.arange(batch)
        by_image = -jax.nn.log_softmax(logits, 1)[own, own].mean()
        by_text = -jax.nn.log_softmax(logits[:, :batch], 0)[own, own].mean()
        right = (logits.argmax(1) == own).mean()
        twins = (logits[own, own] > logits[own, own + batch]).mean()
        return 0.5 * (by_image + by_text), {"image_to_text": right, "twins": twins}

    return train(
        "clip",
        jax.jit(net.init)(seeds.key(stage.seeded(1))),
        loss_fn,
        batch_fn,
        steps=stage.steps(1500),
        learning_rate=3e-3,
        orthogonal=True,
        seed=stage.seeded(1),
        folder=stage.folder,
        decay=0.995,
    )


def rectified_flow(
    stage: Stage,
    net: Network,
    text_net: Network,
    clip_net: Network,
    clip_params: Params,
    latents,
    tokenizers,
    *,
    steps,
    on_save,
) -> Params:
    """Velocity regression; the T5 encoder is trained with the transformer. Returns both, as {'flow', 't5'}.

    Guidance is not distilled: that was tried, and cost two more evaluations a step for no gain in the exact score. The
    embedding is there, as in Flux.1-dev, and is shown random scales, so that no scale takes the network out of its range.
    """
    batch, grid = 64, int(latents.shape[1] ** 0.5)
    ids = flux.latent_ids(grid, grid)
    tokenizer, tokenizer_2 = tokenizers
    steps = stage.steps(steps)

    def batch_fn(step, rng):
        index = rows(stage, rng, batch)
        texts = [t if rng.random() >= DROPPED else "" for t in stage.corpus.captions(index, rng)]
        short = tokenizer(texts, padding="max_length", max_length=CLIP_LENGTH, truncation=True)["input_ids"]
        long = tokenizer_2(texts, padding="max_length", max_length=T5_LENGTH, truncation=True)["input_ids"]
        return latents[index], np.asarray(short, np.int32), np.asarray(long, np.int32)

    def loss_fn(params, average, step, key, x0, ids_clip, ids_t5):
        pooled = clip_net.bind(clip_params)(ids_clip)[1]
        k_time, k_noise, k_scale = jax.random.split(key, 3)
        sigma = shifted(jax.nn.sigmoid(jax.random.normal(k_time, (batch,))), 2.0)
        noise = jax.random.normal(k_noise, x0.shape)
        x = (1 - sigma[:, None, None]) * x0 + sigma[:, None, None] * noise
        scale = jax.random.uniform(k_scale, (batch,), minval=GUIDANCE[0], maxval=GUIDANCE[1])
        velocity = net(params["flow"], x, sigma, text_net(params["t5"], ids_t5), pooled, ids, scale)
        return ((velocity - (noise - x0)) ** 2).mean(), {}

    key = seeds.key(stage.seeded(2))
    init = jax.jit(lambda: {"flow": net.init(key), "t5": text_net.init(jax.random.fold_in(key, 1))})
    return train(
        "flow",
        init(),
        loss_fn,
        batch_fn,
        steps=steps,
        learning_rate=5e-3,
        orthogonal=True,
        seed=stage.seeded(2),
        folder=stage.folder,
        on_save=on_save,
        save_every=1000,
    )


def sizes() -> dict:
    """The nano networks' configs, in the files' own terms."""
    tower = dict(hidden_size=96, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4, hidden_act="quick_gelu")
    return {
        "transformer": dict(
            in_channels=64,
            num_layers=2,
            num_single_layers=6,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=96,
            pooled_projection_dim=96,
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        ),
        "vae": dict(
            block_out_channels=(16, 32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=SIDE,
        ),
        "text_encoder": dict(**tower, max_position_embeddings=CLIP_LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1),
        "text_encoder_2": dict(d_model=96, d_kv=24, d_ff=256, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"),
        "vision": dict(**tower, image_size=SIDE, patch_size=4),
    }


def networks(vocab_clip: int, vocab_t5: int) -> dict[str, Network]:
    from mvgrpo_jax.pipelines import config_of

    size = sizes()
    text = config_of(clip.TowerConfig, size["text_encoder"] | {"vocab_size": vocab_clip})
    vision = config_of(clip.TowerConfig, size["vision"])
    return {
        "transformer": flux.flux(config_of(flux.FluxConfig, size["transformer"])),
        "vae": vae.vae(config_of(vae.VaeConfig, size["vae"])),
        "text_encoder": clip.clip_text(text),
        "text_encoder_2": t5.t5(config_of(t5.T5Config, size["text_encoder_2"] | {"vocab_size": vocab_t5})),
        "clip": clip.clip(clip.ClipConfig(text, vision, projection_dim=64)),
    }
