"""Single files: which models are in one, in whose layout, and their config.

Transformer and autoencoder come in the original layout (flux1-dev.safetensors, ae.safetensors) or under diffusers' names; the
text encoders under transformers' (clip_l.safetensors, t5xxl_fp16.safetensors). ComfyUI's checkpoints hold several models in
one file, each behind a prefix.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvgrpo_jax.convert import configs
from mvgrpo_jax.convert.original import FromOriginal, Layout, flux_layout, vae_layout
from mvgrpo_jax.convert.sources import Renamed, Source, TensorFiles
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import clip, flux, t5, vae
from mvgrpo_jax.models.module import Network

# What other programs put before the names in files that hold more than one model.
PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "first_stage_model.",
    "vae.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.t5xxl.transformer.",
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One model in one layout. component: of a pipeline. sign: a tensor that only such files have. imply(source): the config.
    layout: the original's table, None where names are already those of diffusers or transformers."""

    component: str
    sign: str
    config: type
    network: Callable[[Any], Network]
    imply: Callable[[Source], configs.Config]
    layout: Callable[[Any], Layout] | None = None


def _flux(sign: str, layout: str, rows=None) -> Kind:
    return Kind("transformer", sign, flux.FluxConfig, flux.flux, lambda s: configs.flux_config(s, layout), rows)


def _vae(sign: str, layout: str, rows=None) -> Kind:
    return Kind("vae", sign, vae.VaeConfig, vae.vae, lambda s: configs.vae_config(s, layout), rows)


def _clip(prefix: str) -> Kind:
    sign = f"{prefix}embeddings.token_embedding.weight"
    return Kind("text_encoder", sign, clip.TowerConfig, clip.clip_text, lambda s: configs.clip_config(s, prefix))


_T5 = "encoder.block.0.layer.0.SelfAttention.q.weight"
KINDS = (
    _flux("img_in.weight", "original", flux_layout),
    _flux("x_embedder.weight", "diffusers"),
    _vae("encoder.down.0.block.0.conv1.weight", "original", vae_layout),
    _vae("encoder.down_blocks.0.resnets.0.conv1.weight", "diffusers"),
    _clip("text_model."),
    _clip(""),  # as transformers 5 writes it
    Kind("text_encoder_2", _T5, t5.T5Config, t5.t5, configs.t5_config),
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One model of a file: its pipeline component, its tensors under the names of diffusers or transformers, its network, its
    config, and the config.json to write beside it."""

    component: str
    source: Source
    network: Network
    config: configs.Config
    written: dict[str, Any]


def kind_of(source: Source) -> Kind | None:
    """What a file holds, or None for a model that is no part of a Flux pipeline."""
    names = set(source.names())
    return next((kind for kind in KINDS if kind.sign in names), None)


def models(source: Source) -> list[Source]:
    """The models of a file, each without the prefix that its names have there; the file itself where none has a prefix."""
    found = []
    for prefix in PREFIXES:
        if inside := {n.removeprefix(prefix): n for n in source.names() if n.startswith(prefix)}:
            found.append(Renamed(source, inside))
    return found or [source]


def open_file(path: Path, config_of: Callable[[Kind], tuple[Any, dict] | None] = lambda kind: None) -> list[Part]:
    """The models of a single file that a Flux pipeline is made of; a warning counts the tensors of others.

    config_of(kind): (config, its config.json), or None for what the shapes imply. Raises UserError for a file without any.
    """
    whole = TensorFiles(path)
    known = [(kind, source) for source in models(whole) if (kind := kind_of(source))]
    if not known:
        shown = ", ".join(sorted(whole.names())[:4])
        raise UserError(
            f"{path}: not a Flux transformer (img_in.weight or x_embedder.weight), an autoencoder (encoder.down...), CLIP's "
            f"text tower (text_model...) or a T5 encoder (encoder.block...); it has {shown}, ..."
        )
    components = [kind.component for kind, _ in known]
    if len(set(components)) < len(components):
        raise UserError(f"{path}: holds more than one {max(components, key=components.count)}; expected one model of each kind")
    if others := len(whole.names()) - sum(len(source.names()) for _, source in known):
        warnings.warn(f"{path}: {others} tensors beside {', '.join(components)} are not used", stacklevel=2)
    return [_part(kind, source, config_of(kind)) for kind, source in known]


def _part(kind: Kind, source: Source, given: tuple[Any, dict] | None) -> Part:
    if given:
        config, written = given
    else:
        try:
            config = kind.imply(source)
        except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
            raise configs.needs(source.where, error) from None
        written = configs.component_config(config)
    named = FromOriginal(source, kind.layout(config)) if kind.layout else source
    return Part(kind.component, named, kind.network(config), config, written)
