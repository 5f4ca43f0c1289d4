"""Checks of a config by its values alone: before files are read, devices are asked for or arrays are made."""

from __future__ import annotations

import functools
from typing import Any

from ml_collections import ConfigDict

from mvgrpo_jax import algorithms, prompts, rewards
from mvgrpo_jax.algorithms import base
from mvgrpo_jax.configuration import relations
from mvgrpo_jax.configuration.arguments import keys
from mvgrpo_jax.configuration.of_services import SERVICE
from mvgrpo_jax.configuration.rules import Choice, Flag, Int, Real, Rule, Span, Text, Tuple, of_default, shown
from mvgrpo_jax.core import advantages, objectives, sde, solvers
from mvgrpo_jax.core.policy import TIMESTEPS
from mvgrpo_jax.core.precision import DTYPES
from mvgrpo_jax.enhancers import KINDS as ENHANCERS
from mvgrpo_jax.enhancers.cleaning import LANGUAGES
from mvgrpo_jax.enhancers.online import MISSING
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.models import attention
from mvgrpo_jax.models.module import REMAT
from mvgrpo_jax.rewards import kinds
from mvgrpo_jax.run import trackers
from mvgrpo_jax.run.export import KINDS as EXPORTS
from mvgrpo_jax.services.pictures import FORMATS

MESH = Int(1, 10**6, also=(-1,))

RULES: dict[str, Rule] = {
    "seed": Int(0, 2**64 - 1),
    "iterations": Int(0, 2**63 - 1),
    "prompts_per_iteration": Int(1, 65536),
    "group_size": Int(2, 4096),
    "pipeline": Text(empty=False),
    "image.height": Int(0, 16384, zero="the pipeline's own"),
    "image.width": Int(0, 16384, zero="the pipeline's own"),
    "prompts.train": Text(empty=False),
    "prompts.train_count": Int(0, zero="all"),
    "prompts.kind": Choice.of(("", *prompts.kinds.names())),
    "prompts.dedup": Flag(),
    "prompts.min_length": Int(0, zero="no bound"),
    "prompts.max_length": Int(0, zero="no bound"),
    "prompts.blocklist": Text(),
    "prompts.eval": Text(empty=False),
    "prompts.eval_count": Int(0, zero="all"),
    "algorithm.name": Choice.of(algorithms.names()),
    "views.count": Int(0, 4096, also=(-1,)),
    "views.enhancer": Choice.of(ENHANCERS),
    "views.aggregate": Choice.of(objectives.AGGREGATES),
    "views.prompt_weight": Real(0.0, 1.0, above=True),
    "views.perspectives": Tuple(Text(empty=False)),
    "views.instructions": Text(),
    "views.file": Text(),
    "views.missing": Choice.of(MISSING),
    "views.overlap": Flag(),
    "views.patience": Int(0, zero="never"),
    "views.language": Choice.of(LANGUAGES),
    "views.image.format": Choice.of(FORMATS),
    "views.image.quality": Int(1, 100),
    "views.image.size": Int(0, 16384, zero="as they are"),
    **{f"views.service.{name}": rule for name, rule in SERVICE.items()},
    "sampling.steps": Int(1, 1000),
    "sampling.shift": Real(0.0, 1000.0, zero="diffusers' dynamic schedule"),
    "sampling.guidance": Real(0.0, 1000.0),
    "sampling.max_sequence_length": Int(0, 8192, zero="the tokenizer's"),
    "sampling.timestep": Choice.of(TIMESTEPS),
    "text.memory_mb": Real(0.0, 1e9, zero="none"),
    "text.folder": Text(),
    "text.disk_gb": Real(0.0, 1e9),
    "text.drop_encoders": Flag(),
    "optimizer.learning_rate": Real(0.0, 10.0),
    "optimizer.warmup": Int(0, zero="none"),
    "optimizer.weight_decay": Real(0.0, 1000.0),
    "optimizer.b1": Real(0.0, 1.0, below=True),
    "optimizer.b2": Real(0.0, 1.0, below=True),
    "optimizer.eps": Real(0.0, 1.0, above=True),
    "optimizer.max_grad_norm": Real(0.0, 1e9, zero="no bound"),
    "train.dtype": Choice.of(DTYPES),
    "train.param_dtype": Choice.of(DTYPES),
    "train.frozen_dtype": Choice.of(DTYPES),
    "train.remat": Choice.of(REMAT),
    "train.attention": Choice.of(attention.KINDS),
    "train.unroll": Int(1, 1000),
    "train.view_chunk": Int(0, 4097, zero="all"),
    "train.prompt_chunk": Int(0, 65536, zero="all"),
    "train.state_chunk": Int(0, 65536, zero="all"),
    "train.passes": Int(1, 1000),
    "train.minibatches": Int(1, 65536),
    "train.update_per": Choice.of(("iteration", "timestep")),
    "train.async_steps": Int(0, 1),
    "train.by_branch": Flag(),
    "lora.rank": Int(0, 65536, zero="the whole transformer is trained"),
    "lora.alpha": Real(0.0, 1e6, zero="a scale of 1"),
    "lora.targets": Tuple(Text(empty=False)),
    "lora.start": Text(),
    "export.kind": Choice.of(EXPORTS),
    "export.at_checkpoints": Flag(),
    "export.dtype": Choice.of(("", *DTYPES)),
    "ema.decay": Real(0.0, 1.0, below=True, zero="no average"),
    "ema.every": Int(1),
    "ema.warmup": Flag(),
    "mesh.auto": Flag(),
    "mesh.data": MESH,
    "mesh.fsdp": MESH,
    "mesh.tensor": MESH,
    "mesh.devices": Int(0, 10**6, zero="not checked"),
    "checkpoint.every": Int(0, zero="off"),
    "checkpoint.keep": Int(1, 10**6),
    "eval.every": Int(0, zero="off"),
    "eval.steps": Int(1, 1000),
    "eval.solver": Choice.of(solvers.SOLVERS),
    "eval.judge": Text(empty=False),
    "log.images_every": Int(0, zero="off"),
    "log.trackers": Tuple(Choice.of(trackers.NAMES)),
    "log.tracker.project": Text(empty=False),
    "log.tracker.name": Text(),
    "log.tracker.offline": Flag(),
    "profile": Span(),
    "watch.silence_s": Real(1.0, 40.0),
    "watch.standstill_s": Real(0.0, 1e6, zero="never"),
}

# Settings that most algorithms share (algorithms.base.options); the rest is known by its default, and by algorithms.make.
SHARED: dict[str, Rule] = {
    "kernel": Choice.of(sde.KERNELS),
    "eta": Real(0.0, 10.0, above=True),
    "clip": Real(0.0, 1000.0, above=True),
    "bound": Real(0.0, 1e6, above=True),
    "combine": Choice.of(advantages.COMBINE),
    "std_floor": Real(0.0, 1e6),
    "kl": Real(0.0, 1e6),
    "divergence": Choice.of(objectives.DIVERGENCES),
}


@functools.cache
def required() -> dict[str, Rule]:
    """The rule of every key that a config must have, by its dotted name."""
    out = dict(RULES)
    for name in algorithms.names():
        for option, default in algorithms.module(name).DEFAULTS.items():
            shared = SHARED.get(option) if option in base.options() else None
            out[f"algorithm.{name}.{option}"] = shared or of_default(default)
    return out


def optional(config) -> dict[str, Rule]:
    """The rule of every key that a config may have besides: weights and options of its judges."""
    out: dict[str, Rule] = {}
    for name in {*config.rewards, *config.judges, *kinds.names()}:
        options = config.judges.get(name, {})
        kind = rewards.kind_of(name, options if isinstance(options, ConfigDict) else {})
        if kind in kinds.names():
            settings = kinds.rules(kind) | rewards.POLICY
            out |= {f"judges.{name}.{option}": rule for option, rule in settings.items()}
        if name in config.judges or kind in kinds.names():
            out[f"rewards.{name}"] = Real(-1e6, 1e6)
            out[f"judges.{name}.kind"] = Choice.of(kinds.names())
    return out


def check(config) -> None:
    """Raises UserError unless every value of a config has its type and lies in its range, and values that belong together fit.

    Looks at values alone. All keys that are wrong by themselves are named at once, with what came and what is expected.
    """
    given, known = keys(config), required() | optional(config)
    wrong = []
    for key, value in given.items():
        if key not in known:
            near = did_you_mean(key, known.keys() - given.keys())
            wrong.append(f"config.{key}: there is no such setting.{near}")
        elif not known[key].accepts(value):
            wrong.append(refusal(key, known[key], value))
    wrong += [f"config.{key} is missing; start from configs/common.py" for key in required() if key not in given]
    if wrong:
        raise UserError("\n".join(wrong))
    relations.check(config)


def refusal(key: str, rule: Rule, value: Any) -> str:
    """What is said of a value that a rule does not accept."""
    names = getattr(rule, "names", ())
    near = did_you_mean(value, [n for n in names if isinstance(n, str)]) if isinstance(value, str) else ""
    hidden = not getattr(getattr(rule, "of", rule), "shown", True)  # it may hold a key
    received = f"a {type(value).__name__} that is not shown" if hidden else shown(value)
    return f"config.{key} must be {rule.expected}; got {received}.{near}"
