"""A diffusers FluxPipeline folder as networks, parameter trees and tokenizers, and the pure functions over them."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.convert.companions import around, contents
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.convert.sources import TensorFiles
from mvgrpo_jax.convert.weights import export_params, import_params
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.models import clip, flux, t5, vae
from mvgrpo_jax.models.module import Network, Params
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.pipelines.scheduler import Scheduler, check_class
from mvgrpo_jax.storage import place

EMBEDDED = Path(__file__).parents[1] / "nano" / "assets" / "flux-nano"
# Component -> what its weight files' names begin with.
WEIGHTS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


def _fields(kind: type, config: dict) -> dict:
    return {f.name: config[f.name] for f in dataclasses.fields(kind) if config.get(f.name) is not None}


def config_of(kind: type, config: dict, source: str = "config.json"):
    """A config dataclass from a config.json, which may hold other fields too. source: what messages call the file. UserError
    for values that the dataclass refuses."""
    try:
        return kind(**_fields(kind, config))
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


@dataclasses.dataclass
class Pipeline:
    """Everything in a pipeline folder. `folder` is where it came from: configs and tokenizers are copied on export."""

    folder: Path
    transformer: Network
    vae: Network
    text_encoder: Network
    text_encoder_2: Network
    params: dict[str, Params]
    flux_config: flux.FluxConfig
    vae_config: vae.VaeConfig
    tokenizer: Any
    tokenizer_2: Any
    scheduler: Scheduler

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels that one image token covers."""
        return 2 * self.vae_config.downscale

    @property
    def default_size(self) -> int:
        """Pixels a side when none is asked for: the VAE's sample_size, or Flux's 1024."""
        return int(read_json(self.folder / "vae" / "config.json").get("sample_size") or 1024)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Packed tokens along each side; UserError when the size does not divide."""
        side = self.pixels_per_token
        if height % side or width % side or height < side or width < side:
            raise UserError(f"height and width must be multiples of {side}, got {height} x {width}")
        return height // side, width // side

    def sigmas(self, steps: int, tokens: int) -> np.ndarray:
        """The sigma grid [steps + 1] that diffusers would use with this folder's scheduler config. UserError: it has none."""
        return self.scheduler.sigmas(steps, tokens)


def decode(pipeline: Pipeline, params: Params, tokens: jax.Array, grid: tuple[int, int], dtype=jnp.float32) -> jax.Array:
    """Packed latents [..., L, C] -> pictures float32 [..., H, W, 3] in [0, 1]. Pure: to be jitted by the caller."""
    config = pipeline.vae_config
    lead = tokens.shape[:-2]
    latent = vae.unpack(tokens.reshape(-1, *tokens.shape[-2:]), *grid)
    latent = latent / config.scaling_factor + config.shift_factor
    image = pipeline.vae(params, latent.astype(dtype)).astype(jnp.float32)
    return jnp.clip(image / 2 + 0.5, 0.0, 1.0).reshape(*lead, *image.shape[1:])


def check_channels(flux_config: flux.FluxConfig, vae_config: vae.VaeConfig, source: str | Path) -> None:
    """UserError unless the transformer reads and writes just the VAE's packed latents, 2 x 2 positions a token."""
    packed = 4 * vae_config.latent_channels
    read, written = flux_config.in_channels, flux_config.out_channels or flux_config.in_channels
    if (read, written) == (packed, packed):
        return
    raise UserError(
        f"{source}: the transformer has {read} input and {written} output channels, but its VAE gives {packed} (4 x its "
        f"{vae_config.latent_channels} latent channels). Flux Fill (384 input channels) and Flux Control, such as Depth and "
        "Canny (128), read a picture beside the text and are not supported; use a text-to-image pipeline such as FLUX.1-dev"
    )


def describe(folder: str | Path, **options) -> Pipeline:
    """A pipeline folder without its weights (params is empty). options: of models.flux.flux."""
    from transformers import CLIPTokenizer, T5TokenizerFast

    folder = EMBEDDED if str(folder) == "flux-nano" else Path(folder)
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != "FluxPipeline":
        raise UserError(
            f"{folder}: expected a FluxPipeline, model_index.json says {index.get('_class_name')!r}; pipelines that paint from "
            "other inputs than text (Fill, Control, Kontext, img2img) are not supported"
        )
    if named := index.get("scheduler"):
        check_class(named[-1], f"{folder}/model_index.json")
    schedule = folder / "scheduler" / "scheduler_config.json"
    raw = {name: read_json(folder / name / "config.json") for name in WEIGHTS}
    flux_config = config_of(flux.FluxConfig, raw["transformer"], f"{folder}/transformer/config.json")
    vae_config = config_of(vae.VaeConfig, raw["vae"])
    check_channels(flux_config, vae_config, folder)
    if raw["vae"].get("use_quant_conv") or raw["vae"].get("use_post_quant_conv"):
        raise UserError(f"{folder}/vae: quant convolutions are not part of Flux's VAE; expected use_quant_conv false")
    networks = {
        "transformer": flux.flux(flux_config, **options),
        "vae": vae.vae(vae_config),
        "text_encoder": clip.clip_text(config_of(clip.TowerConfig, raw["text_encoder"])),
        "text_encoder_2": t5.t5(config_of(t5.T5Config, raw["text_encoder_2"], f"{folder}/text_encoder_2/config.json")),
    }
    return Pipeline(
        folder=folder,
        **networks,
        params={},
        flux_config=flux_config,
        vae_config=vae_config,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
        scheduler=Scheduler.read(read_json(schedule), str(schedule)),
    )


PUBLISHED = {"FLUX.1-dev": True, "FLUX.1-schnell": False}  # name -> whether it has a guidance embedding


def published(name: str, **options) -> Pipeline:
    """A published pipeline by its shapes alone, with no folder: what planning needs. NAME:4+8 has so many double and single
    blocks. UserError for an unknown name."""
    known, colon, blocks = name.partition(":")
    if known not in PUBLISHED:
        raise UserError(
            f"{name}: no such folder, and not a known model;{did_you_mean(known, PUBLISHED)} {', '.join(PUBLISHED)}"
        )
    flux_config = flux.FluxConfig(guidance_embeds=PUBLISHED[known])
    if colon:
        if not (counts := re.fullmatch(r"([1-9]\d*)\+([1-9]\d*)", blocks)):
            raise UserError(f"{name}: expected {known}:DOUBLE+SINGLE, two numbers of blocks, as {known}:4+8")
        double, single = map(int, counts.groups())
        flux_config = dataclasses.replace(flux_config, num_layers=double, num_single_layers=single)
    return Pipeline(
        folder=Path(name),
        transformer=flux.flux(flux_config, **options),
        vae=vae.vae(vae.VaeConfig()),
        text_encoder=clip.clip_text(clip.TowerConfig()),
        text_encoder_2=t5.t5(t5.T5Config()),
        params={},
        flux_config=flux_config,
        vae_config=vae.VaeConfig(),
        tokenizer=None,
        tokenizer_2=None,
        scheduler=Scheduler(),
    )


def load(folder: str | Path, *, dtype=None, mesh=None, **options) -> Pipeline:
    """Reads a diffusers FluxPipeline folder, or the embedded one under the name 'flux-nano'.

    dtype: of the parameters, one for all or a dict by component; None keeps the files'. mesh: leaves are placed on it by
    rules.PARAMETERS as they are read. options: of models.flux.flux. Raises UserError.
    """
    pipeline = describe(folder, **options)
    read(pipeline, dtype=dtype, mesh=mesh)
    return pipeline


def read(pipeline: Pipeline, *, dtype=None, mesh=None) -> None:
    """Fills a described pipeline with its folder's weights; dtype and mesh as in `load`. Raises UserError."""
    for name in WEIGHTS:
        net = getattr(pipeline, name)
        kind = dtype.get(name) if isinstance(dtype, dict) else dtype
        placement = rules.placements(net, mesh) if mesh else None
        pipeline.params[name] = import_params(net, pipeline.folder / name, dtype=kind, sharding=placement)


def save(pipeline: Pipeline, folder: str | Path, params: dict[str, Any] | None = None, *, dtype=None) -> None:
    """Writes a complete diffusers folder; `params` replaces components, each a parameter tree or a source of tensors.

    model_index.json comes last: without it the folder is not a pipeline, so an interrupted save never looks finished. Every
    process of a pod calls this; the first one writes. Raises UserError where the folder has files of the same names that this
    program did not write.
    """
    folder, source, writes = place(folder), pipeline.folder, jax.process_index() == 0
    # A component that was dropped from memory is copied from where it came.
    components = {n: TensorFiles(source / n) for n in WEIGHTS if n not in pipeline.params}
    components |= pipeline.params | (params or {})
    names = tuple(WEIGHTS)
    with around(contents(source, names), folder, names) if writes else contextlib.nullcontext():
        for name, stem in WEIGHTS.items():
            export_params(getattr(pipeline, name), components[name], folder / name, stem, dtype=dtype)
