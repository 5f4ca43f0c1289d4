"""Condition enhancers: where further views of a prompt come from."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from mvgrpo_jax import algorithms
from mvgrpo_jax.enhancers import perspectives
from mvgrpo_jax.enhancers.base import Enhancer, Session, collect, enhance
from mvgrpo_jax.enhancers.offline import FileEnhancer, join, read_captions
from mvgrpo_jax.enhancers.online import OnlineEnhancer
from mvgrpo_jax.enhancers.vlm import VlmCaptioner
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.nano import captioner as embedded
from mvgrpo_jax.services import Service, Settings, keys
from mvgrpo_jax.services.pictures import Encoding

__all__ = ["Enhancer", "FileEnhancer", "OnlineEnhancer", "Session", "collect", "enhance", "make"]

KINDS = ("none", "embedded", "vlm", "offline")


def make(config, prompts: list[str], fit: Callable[[str], str] = lambda text: text) -> Enhancer | None:
    """The enhancer of config.views; None for a single view.

    prompts: those of training, all of which an offline file must hold. fit: cuts a caption to what the encoders read.
    UserError lists what exists.
    """
    views = config.views
    if views.enhancer not in KINDS:
        near = did_you_mean(views.enhancer, KINDS)
        raise UserError(f"unknown enhancer {views.enhancer!r};{near} there are: {', '.join(KINDS)}")
    count = algorithms.captions(config)
    if not count:
        return None
    if views.enhancer == "offline":
        return FileEnhancer.load(views.file, count, config.seed, prompts)
    spare = None
    if views.missing == "offline" and views.file:
        table = join(read_captions(views.file), prompts)
        spare = functools.partial(_captions_of, table)
    if views.enhancer == "embedded":
        captioner, known, limit = embedded.EmbeddedCaptioner(), embedded.PERSPECTIVES, 180.0
    else:
        settings = Settings.of(views.service.to_dict(), jax.process_count())
        service = Service(settings, keys.read(settings.key_env, settings.key_file))
        captioner = VlmCaptioner(service, Encoding(**views.image), views.language)
        known, limit = perspectives.DEFAULT, settings.batch_s
    return OnlineEnhancer(
        captioner,
        count,
        config.seed,
        perspectives.load(views.instructions, tuple(views.perspectives), known),
        batch_s=limit,
        missing=views.missing,
        spare=spare,
        patience=views.patience,
        fit=fit,
    )


def _captions_of(table: dict[str, list[str]], prompt: str) -> list[str]:
    return table.get(prompt, [])
