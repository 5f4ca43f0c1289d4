"""A scheduler_config.json, and the sigmas that diffusers' FluxPipeline takes from it."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings

import numpy as np
from scipy.stats import beta

from mvgrpo_jax.core import schedules
from mvgrpo_jax.errors import UserError, did_you_mean

CLASS = "FlowMatchEulerDiscreteScheduler"
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
TIME_SHIFTS = ("exponential", "linear")
# Keys of other schedulers and of later versions that would ask for other sigmas. diffusers takes some of them from this
# scheduler's config too: sigma_min, sigma_max, use_flow_sigmas.
SHAPING = re.compile(r"sigma|shift|beta|spacing|karras|lambda|timestep|seq_len")


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """The options of FlowMatchEulerDiscreteScheduler (diffusers 0.42.1) with its defaults."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: bool = False
    shift_terminal: float | None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    time_shift_type: str = "exponential"
    stochastic_sampling: bool = False

    @classmethod
    def read(cls, config: dict, source: str = "scheduler_config.json") -> Scheduler:
        """From the content of a scheduler_config.json. UserError: another class, or a key or value that is not supported."""
        check_class(config.get("_class_name", CLASS), source)
        known = {f.name: f for f in dataclasses.fields(cls)}
        ignored = []
        for key, value in config.items():
            if key in known or key.startswith("_") or value is None or value is False:
                continue
            if SHAPING.search(key):
                raise UserError(
                    f"{source}: {key} = {value!r} is not an option of {CLASS};{did_you_mean(key, known)} it may ask for other "
                    "sigmas: remove it if it is not meant"
                )
            ignored.append(key)
        if ignored:
            warnings.warn(f"{source}: {', '.join(sorted(ignored))} ignored, as diffusers does", stacklevel=2)
        given = {key: config[key] for key in known if key in config}
        for key, value in given.items():
            _check(key, value, known[key].default, source)
        made = cls(**given)
        made.check(source)
        return made

    def check(self, source: str) -> None:
        """UserError where options do not go together."""
        if self.stochastic_sampling:
            raise UserError(
                f"{source}: stochastic_sampling is not supported, which draws new noise at every step; expected false (the SDE "
                "solvers here have noise levels of their own)"
            )
        if len(chosen := [key for key in SPACINGS if getattr(self, key)]) > 1:
            raise UserError(f"{source}: only one of {', '.join(SPACINGS)} may be true, found {', '.join(chosen)}")
        if self.time_shift_type not in TIME_SHIFTS:
            raise UserError(
                f"{source}: time_shift_type must be one of {', '.join(TIME_SHIFTS)}, found {self.time_shift_type!r}"
            )
        for key, value in (("shift", self.shift), ("num_train_timesteps", self.num_train_timesteps)):
            if value <= 0:
                raise UserError(f"{source}: {key} must be positive, found {value}")
        if self.shift_terminal is not None and not 0 <= self.shift_terminal < 1:
            raise UserError(f"{source}: shift_terminal must be at least 0 (none) and below 1, found {self.shift_terminal}")
        if self.base_image_seq_len == self.max_image_seq_len:
            raise UserError(
                f"{source}: base_image_seq_len and max_image_seq_len must differ, both are {self.max_image_seq_len}"
            )

    @property
    def time_scale(self) -> float:
        """What the network is given for sigma = 1: FluxPipeline hands over sigma * num_train_timesteps / 1000."""
        return self.num_train_timesteps / 1000

    def sigmas(self, steps: int, tokens: int) -> np.ndarray:
        """The grid [steps + 1] that FluxPipeline takes for so many steps and image tokens: from 1 down to 0, or with
        invert_sigmas from 0 up to 1. UserError: no grid for these."""
        sigmas = np.linspace(1.0, 1.0 / steps, steps).astype(np.float32)  # as diffusers; a strong shift magnifies the rounding
        if self.use_dynamic_shifting:
            sigmas = schedules.shifted_odds(sigmas, self._dynamic_shift(tokens))
        else:
            sigmas = schedules.shifted(sigmas, self.shift)
        if self.shift_terminal:
            if steps == 1:
                raise UserError(f"one step cannot end at the scheduler's shift_terminal {self.shift_terminal}; take 2 or more")
            sigmas = schedules.stretched(sigmas, self.shift_terminal)
        first, last = float(sigmas[0]), float(sigmas[-1])
        if self.use_karras_sigmas:
            sigmas = schedules.karras(first, last, steps)
        elif self.use_exponential_sigmas:
            sigmas = schedules.exponential(first, last, steps)
        elif self.use_beta_sigmas:  # quantiles of Beta(0.6, 0.6), "Beta Sampling is All You Need", arXiv 2407.12173
            sigmas = last + (first - last) * beta.ppf(1.0 - np.linspace(0.0, 1.0, steps), 0.6, 0.6)
        sigmas = np.append(sigmas.astype(np.float64), 0.0)
        sigmas[0] = 1.0  # to the last bit: noise levels divide by 1 - sigma elsewhere
        return 1.0 - sigmas if self.invert_sigmas else sigmas

    def _dynamic_shift(self, tokens: int) -> float:
        mu = schedules.level(tokens, self.base_shift, self.max_shift, self.base_image_seq_len, self.max_image_seq_len)
        if self.time_shift_type == "exponential":
            return math.exp(mu)
        if mu <= 0:
            raise UserError(
                f"the scheduler's linear time shift is {mu:.3g} for {tokens} image tokens and must be positive; raise "
                "base_shift or max_shift, or take another picture size"
            )
        return mu


def check_class(name: str, source: str) -> None:
    """UserError for another scheduler than the one that is supported."""
    if name != CLASS:
        raise UserError(f"{source}: the scheduler {name} is not supported; expected {CLASS}, FLUX's own")


def _check(key: str, value: object, default: object, source: str) -> None:
    """UserError unless a value has its option's type."""
    if key == "shift_terminal" and value is None:
        return
    if isinstance(default, (bool, str)):
        good, expected = isinstance(value, type(default)), "true or false" if isinstance(default, bool) else "a string"
    else:
        is_integer = isinstance(default, int)
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        good = good and (not is_integer or value == int(value))
        expected = "a whole number" if is_integer else "a number"
    if not good:
        raise UserError(f"{source}: {key} must be {expected}, found {value!r}")
