"""The judge protocols: on the devices, where the pictures are, or on the host of the process that owns them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mvgrpo_jax.models.module import Network, Params


class Judgement(NamedTuple):
    """scores: float32; valid: bool of the same shape, False where the judge could not tell, or None where it always can."""

    scores: Any
    valid: Any = None


class HostJudge(Protocol):
    """A judge that runs on the host, or behind a service that the host asks.

    `score` takes pictures uint8 [N, H, W, 3], or float32 in [0, 1], all of this process, and for each the texts under which it
    is judged, [N][V], the prompt first; it returns a Judgement [N, V]. A missing text (None) is not judged, its score is 0.
    take_cut(): how many different texts were cut since the last call because they were longer than the judge reads. One that
    has `records` is given there, by the prompts' texts, what their file says of them beside (rewards.tell).
    """

    def take_cut(self) -> int: ...

    def score(self, images: np.ndarray, captions: list[list[str | None]]) -> Judgement: ...


class Pending(Protocol):
    """Scores that are on their way. result() waits for them, and may be called again."""

    def result(self) -> Judgement: ...


class RemoteJudge(HostJudge, Protocol):
    """A judge that the host asks over a network, where waiting can be hidden.

    begin(images, captions) returns at once; the scores come in the background. `score` is begin(...).result(). A score that
    could not be had is not valid. take_log() -> figures of this process since the last call. close() ends its requests.
    """

    def begin(self, images: np.ndarray, captions: list[list[str | None]]) -> Pending: ...

    def take_log(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class DeviceJudge(Protocol):
    """A judge whose network runs on the mesh, its parameters placed by the rules that place all others.

    load(sharding) -> the network's parameters, each read to where sharding(path) says, or where None to the default device.
    tokens(texts [N]) -> a tree of arrays [N, ...]; token_shapes: of one text. score(params, images, tokens) -> Judgement [V, P,
    n] of pictures [P, n, H, W, 3] (uint8, or float32 in [0, 1]) and of the tokens of their texts [V, P, ...]. It is compiled
    together with preprocessing; what a picture or a text shares is computed once. spread.flatten spreads its items over the
    devices.
    """

    network: Network
    token_shapes: Any

    def load(self, sharding: Callable | None = None) -> Params: ...

    def take_cut(self) -> int: ...

    def tokens(self, texts: list[str]) -> Any: ...

    def score(self, params: Params, images: jax.Array, tokens: Any) -> Judgement: ...


Judge = HostJudge | DeviceJudge
