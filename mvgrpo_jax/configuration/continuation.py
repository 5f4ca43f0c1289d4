"""Which keys may change between a run and its continuation: those that change no number of the training.

Every key of a config belongs to one of two classes. `DECIDES`: another value would train something else, and is refused.
`FREE`: how the work is cut and where it is done, what is kept, written and shown, how a service is reached, how the weights
are evaluated. Settings of algorithms that do not run are free. `pipeline` is compared by what the folder holds, not by its
place.
"""

from __future__ import annotations

from typing import Any

DECIDES = (
    *("seed", "prompts_per_iteration", "group_size", "pipeline", "image.height", "image.width"),
    *("prompts.train", "prompts.train_count", "prompts.kind", "prompts.dedup", "prompts.min_length", "prompts.max_length"),
    *("prompts.blocklist", "algorithm.name", "algorithm.", "views.count", "views.enhancer", "views.aggregate"),
    *("views.prompt_weight", "views.perspectives", "views.instructions", "views.file"),
    *("views.language", "views.image.format", "views.image.quality", "views.image.size", "views.service.model"),
    *("views.service.max_tokens", "views.service.temperature", "views.service.extra"),
    *("sampling.steps", "sampling.shift", "sampling.guidance", "sampling.max_sequence_length", "sampling.timestep"),
    *("rewards.", "judges."),
    *("optimizer.learning_rate", "optimizer.warmup", "optimizer.weight_decay", "optimizer.b1", "optimizer.b2"),
    *("optimizer.eps", "optimizer.max_grad_norm"),
    *("train.dtype", "train.param_dtype", "train.frozen_dtype", "train.passes", "train.minibatches", "train.update_per"),
    "train.async_steps",
    *("lora.rank", "lora.alpha", "lora.targets", "lora.start", "ema.decay", "ema.every", "ema.warmup"),
    "eval.judge",  # the scores of two judges cannot be compared, and best/ holds the highest
)
FREE = (
    "iterations",
    # How the work is cut, and where it is done: rounding alone.
    *("train.remat", "train.attention", "train.unroll", "train.view_chunk", "train.prompt_chunk", "train.state_chunk"),
    "train.by_branch",
    *("mesh.auto", "mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.devices", "watch.silence_s", "watch.standstill_s"),
    *("text.memory_mb", "text.folder", "text.disk_gb", "text.drop_encoders"),
    # What is kept, written and shown.
    *("checkpoint.every", "checkpoint.keep", "export.kind", "export.at_checkpoints", "export.dtype", "log.images_every"),
    *("log.trackers", "log.tracker.project", "log.tracker.name", "log.tracker.offline", "profile"),
    # How weights are evaluated; under other settings best/ begins anew.
    *("eval.every", "eval.steps", "eval.solver", "prompts.eval", "prompts.eval_count"),
    # Where and how captions are asked for, and what is done without one.
    *("views.missing", "views.patience", "views.overlap", "views.service.endpoints", "views.service.key_env"),
    *("views.service.key_file", "views.service.verify", "views.service.ca_file", "views.service.concurrency"),
    *("views.service.attempt_s", "views.service.request_s", "views.service.batch_s", "views.service.retries"),
    *("views.service.backoff_s", "views.service.hedge", "views.service.breaker", "views.service.cooldown_s"),
    "views.service.response_kb",
)

# Keys that configs of earlier versions lack, with the values that do what was done then. Which prompts a run draws from is
# checked by themselves.
LATER = {
    "train.async_steps": 0,
    "views.prompt_weight": 0.5,  # of an aggregate that there was not
    **{"prompts.kind": "", "prompts.dedup": True, "prompts.min_length": 0, "prompts.max_length": 0, "prompts.blocklist": ""},
}

# The last part of a judge's keys that may change: how its work is cut, how it is reached, and what is done without its score.
OF_JUDGES = {key.rpartition(".")[2] for key in FREE if key.startswith("views.service.")} | {
    *("chunk", "offload", "on_failure", "max_invalid")
}


def is_free(key: str, algorithm: str) -> bool:
    """Whether a key may change. algorithm: the one that runs. Keys that are in no class may not."""
    section, _, rest = key.partition(".")
    if section == "algorithm" and "." in rest:
        return rest.partition(".")[0] != algorithm
    return key in FREE or (section == "judges" and rest.partition(".")[2] in OF_JUDGES)


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    out = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        out |= flatten(value, name + ".") if isinstance(value, dict) else {name: value}
    return out


def evaluation(config: dict) -> dict[str, Any]:
    """What two evaluations must have in common for their scores to be compared."""
    values = flatten(config)
    return {key: values[key] for key in ("eval.steps", "eval.solver", "eval.judge", "prompts.eval", "prompts.eval_count")}


def changes(old: dict, new: dict) -> list[str]:
    """A line for each key that differs between two configs, as JSON has them, and may not."""
    new = flatten(new)
    old = {key: value for key, value in LATER.items() if key in new} | flatten(old)
    algorithm = new.get("algorithm.name", "")
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and not is_free(k, algorithm)]
    shown = lambda config, key: repr(config[key]) if key in config else "not set"
    return [f"{key}: {shown(old, key)} there, {shown(new, key)} now" for key in keys]
