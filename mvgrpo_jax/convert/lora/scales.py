"""The strength of a LoRA: what multiplies up @ down, from PEFT's config beside a file or in its header.

PEFT scales by alpha / r, and with use_rslora by alpha / sqrt(r) (arXiv 2312.03732); rank_pattern and alpha_pattern give single
layers their own values. Other options of PEFT change the function in ways that a pair of factors cannot hold: they are
refused by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvgrpo_jax.convert.lora.files import HEADER
from mvgrpo_jax.convert.sources import metadata
from mvgrpo_jax.errors import UserError

# PEFT's options that leave x W + scale (x A) B as it is: which layers have adapters (the file's keys say so), how training
# began, what it drew, where it came from.
_HARMLESS = set(
    """task_type auto_mapping parent_library peft_version base_model_name_or_path revision inference_mode target_modules
    exclude_modules layers_to_transform layers_pattern lora_dropout megatron_core qalora_group_size loftq_config eva_config
    corda_config lora_ga_config runtime_config ensure_weight_tying""".split()
)
_READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "peft_type", "bias", "init_lora_weights"}
# Other ways to begin take a part out of the base's own weights, so that the factors do not fit the base as it is.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_DEFAULT_ALPHA = 8  # PEFT's


@dataclasses.dataclass(frozen=True)
class PeftScale:
    """where: the place, as errors name it. rank: the common r, or None where it is not said."""

    where: str
    alpha: float
    rank: int | None = None
    ranks: Mapping[str, float] = dataclasses.field(default_factory=dict)
    alphas: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rslora: bool = False

    def scale(self, name: str, rank: int) -> float:
        """What multiplies up @ down of a layer. rank: that of the file's matrices. ValueError when the config has another."""
        own = _matching(self.ranks, name, self.rank)
        if own is not None and own != rank:
            raise ValueError(f"{self.where} says rank {own}, the file has rank {rank}")
        alpha = _matching(self.alphas, name, self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def matches(pattern: str, name: str) -> bool:
    """Whether a key of PEFT's patterns means a layer: a regular expression for its whole name, or for what follows a dot."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _matching(patterns: Mapping[str, float], name: str, common: Any) -> Any:
    key = next((p for p in patterns if matches(p, name)), name)
    return patterns.get(key, common)


def from_config(path: Path) -> PeftScale:
    """What an adapter_config.json says. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: could not be read ({error}); copy it again") from None
    return _parse(text, str(path), path.name)


def from_header(path: Path) -> PeftScale | None:
    """What the header of a safetensors file says in diffusers' field; None where it has none. Raises UserError.

    The pipeline's own saving puts `transformer.` before the options of the transformer, the model's does not.
    """
    text = metadata(path).get(HEADER)
    if text is None:
        return None
    return _parse(text, f"{path}: {HEADER} in the header", f"{HEADER} in the header", prefixed=True)


def _parse(text: str, where: str, short: str, prefixed: bool = False) -> PeftScale | None:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error}); copy it again") from None
    if not isinstance(options, dict):
        raise UserError(f"{where}: expected a JSON object with PEFT's options, found {type(options).__name__}")
    if prefixed and any("." in key for key in options):
        options = {k.removeprefix("transformer."): v for k, v in options.items() if k.startswith("transformer.")}
        if not options:
            return None  # it speaks of text encoders alone
    _refuse(options, where)
    r = options.get("r")
    return PeftScale(
        short,
        alpha=_number(options.get("lora_alpha", _DEFAULT_ALPHA), f"{where}: lora_alpha"),
        rank=None if r is None else int(_number(r, f"{where}: r")),
        ranks=_patterns(options.get("rank_pattern"), f"{where}: rank_pattern"),
        alphas=_patterns(options.get("alpha_pattern"), f"{where}: alpha_pattern"),
        rslora=_flag(options.get("use_rslora"), f"{where}: use_rslora"),
    )


def _refuse(options: dict[str, Any], where: str) -> None:
    wrong = [k for k, v in options.items() if v and k not in _HARMLESS | _READ]
    wrong += ["bias"] if options.get("bias") not in (None, "none") else []
    start = options.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in _STARTS:
        wrong.append("init_lora_weights")
    if str(options.get("peft_type") or "LORA").upper() != "LORA":
        wrong.append("peft_type")
    if wrong:
        said = ", ".join(f"{k} ({json.dumps(options[k])})" for k in dict.fromkeys(wrong))
        raise UserError(
            f"{where}: {said} would change what the LoRA does and is not supported; expected plain LoRA; merge it into the "
            "weights with PEFT (merge_and_unload) and use those"
        )


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} must be a number, found {value!r}")
    return value


def _flag(value: Any, where: str) -> bool:
    if value not in (None, True, False):
        raise UserError(f"{where} must be true or false, found {value!r}")
    return bool(value)


def _patterns(table: Any, where: str) -> dict[str, float]:
    if not isinstance(table or {}, dict):
        raise UserError(f"{where} must be names with numbers, found {table!r}")
    for pattern, value in (table or {}).items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{where}: {pattern!r} is not a regular expression ({error})") from None
        _number(value, f"{where}: {pattern!r}")
    return table or {}
