"""What the values of a config must be to each other. Each value is known to have its type and range by then (checks.py)."""

from __future__ import annotations

import warnings

from mvgrpo_jax import algorithms
from mvgrpo_jax.enhancers import perspectives
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.lora import LoraConfig
from mvgrpo_jax.nano import captioner as embedded
from mvgrpo_jax.run import export, tracing
from mvgrpo_jax.services import Settings, keys


def check(config) -> None:
    """Raises UserError where values do not fit each other."""
    for relation in (
        prompts,
        mesh,
        algorithm,
        ahead,
        by_branch,
        chunks,
        judges,
        views,
        service,
        texts,
        adapters,
        traced,
        export.check,
    ):
        relation(config)


def prompts(config) -> None:
    """Some length lies within the bounds."""
    shortest, longest = config.prompts.min_length, config.prompts.max_length
    if longest and shortest > longest:
        raise UserError(
            f"config.prompts.min_length must be at most config.prompts.max_length, characters of a prompt; got {shortest} and "
            f"{longest}"
        )


def mesh(config) -> None:
    free = [name for name, size in config.mesh.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"config.mesh: only one size may be -1, what is left of the devices; got {', '.join(free)}")


def algorithm(config) -> None:
    """Builds the algorithm: its own settings, the number of steps and the size of a group."""
    algorithms.make(config).schedule(0)
    settings = config.algorithm[config.algorithm.name]
    if settings.kernel == "cps" and settings.eta > 1:
        raise UserError(
            f"config.algorithm.{config.algorithm.name}.eta is a share, 0 to 1, with the kernel cps; got {settings.eta}"
        )


def ahead(config) -> None:
    """A rollout can be drawn ahead where nothing but the parameters decides about it."""
    if not config.train.async_steps:
        return
    made = algorithms.make(config)
    name = config.algorithm.name
    if made.follow or made.chooser:
        why = "keeps a sampling policy of its own" if made.follow else "chooses prompts by what was drawn before"
        raise UserError(f"config.train.async_steps=1 does not go with {name}, which {why}; set it to 0")


def by_branch(config) -> None:
    """The gradient of a branch can be computed by itself where nothing of other branches decides about it, and one optimiser
    step takes all of them."""
    t = config.train
    if not t.by_branch:
        return
    several = {"passes": 1, "minibatches": 1, "update_per": "iteration", "async_steps": 0}
    if wrong := [f"config.train.{key}={t[key]}" for key, value in several.items() if t[key] != value]:
        raise UserError(
            f"config.train.by_branch adds up the gradient of one optimiser step and does not go with {', '.join(wrong)}; "
            "set it to False"
        )
    if not algorithms.make(config).by_branch:
        raise UserError(
            f"config.train.by_branch does not go with {config.algorithm.name} as it is set: what a branch gets depends on "
            "others; set it to False"
        )


def chunks(config) -> None:
    t, drawn = config.train, config.prompts_per_iteration
    divides("prompts_per_iteration", drawn, "train.minibatches", t.minibatches, "the prompts of an iteration")
    each = drawn // t.minibatches
    divides("prompts_per_iteration / minibatches", each, "train.prompt_chunk", t.prompt_chunk, "the prompts of a minibatch")
    divides("views, the prompt included,", algorithms.captions(config) + 1, "train.view_chunk", t.view_chunk, "all views")


def divides(name: str, total: int, key: str, chunk: int, what: str) -> None:
    """UserError unless `chunk` divides `total`; 0 is all of it."""
    if chunk and total % chunk:
        near = max(n for n in range(1, min(chunk, total) + 1) if total % n == 0)
        raise UserError(
            f"config.{key} must divide {what} ({name} = {total}); got {chunk}, the nearest below that does is {near}"
        )


def judges(config) -> None:
    """Some judge trains, and the one that decides which checkpoint is best is asked."""
    names = ", ".join(config.rewards) or "none"
    if not any(config.rewards.values()):
        raise UserError(f"config.rewards gives every judge the weight 0 ({names}); raise one")
    if config.eval.every and config.eval.judge not in config.rewards:
        raise UserError(f"config.eval.judge {config.eval.judge!r} is not among config.rewards: {names}")


def views(config) -> None:
    """Captions have a source, and perspectives exist."""
    v = config.views
    online = v.enhancer not in ("none", "offline")
    if not algorithms.captions(config):
        return
    if v.enhancer == "offline" and not v.file:
        raise UserError("config.views.enhancer=offline needs config.views.file, captions written by mvgrpo_jax.enhance")
    if online and v.missing == "offline" and not v.file:
        raise UserError("config.views.missing=offline needs config.views.file, the captions to fall back on")
    if online and not v.instructions:  # those of a file are known when it is read
        known = embedded.PERSPECTIVES if v.enhancer == "embedded" else perspectives.DEFAULT
        perspectives.load("", tuple(v.perspectives), known)


def service(config) -> None:
    """The service's own checks, without its files."""
    values = config.views.service.to_dict() | {"ca_file": "", "key_file": ""}
    try:
        keys.check_name(values["key_env"])
        with warnings.catch_warnings(action="ignore"):  # they come when the service is used
            Settings.of(values)
    except UserError as error:
        raise UserError(f"config.views.service: {error}") from None


def texts(config) -> None:
    c = config.text
    if not c.drop_encoders:
        return
    if not c.memory_mb and not c.folder:
        raise UserError("config.text.drop_encoders needs a store: set config.text.memory_mb or config.text.folder")
    if algorithms.captions(config) and config.views.enhancer != "offline":
        raise UserError("config.text.drop_encoders cannot be used with an enhancer that looks at the pictures")


def adapters(config) -> None:
    """Targets are patterns, whether adapters are trained or not; with a rank, some layer can have one."""
    parsed = LoraConfig.parse(config.lora.rank, config.lora.alpha, tuple(config.lora.targets))
    if config.lora.rank and not any(rank for _, rank in parsed.targets):
        raise UserError("config.lora.rank is above 0, but config.lora.targets gives no layer a rank; name some layers")


def traced(config) -> None:
    """The traced iterations begin within the run."""
    span = tracing.span(config.profile)
    if span and span.start >= config.iterations:
        raise UserError(
            f"config.profile must begin below config.iterations ({config.iterations}; the first is 0); got {config.profile!r}"
        )
