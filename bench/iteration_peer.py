"""One MV-GRPO iteration in torch on diffusers' FluxTransformer2DModel: what bench/iteration.py measures ours beside.

The formulas are those of the paper (arXiv 2603.12648) with the kernel of Flow-GRPO; three ways of going through them:

  one      one sample, one view, one trained step at a time
  authors  the draws of a trained step are finished together, as the same authors' code does it (Bujiazi/GRPO-Series); one view
           and one trained step at a time in the update
  batched  all that can be batched: the draws of all trained steps, each joining when its turn comes, and the views
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

WAYS = ("one", "authors", "batched")


class Texts(NamedTuple):
    """Encoded texts: txt [..., S, D], pooled [..., E]."""

    txt: torch.Tensor
    pooled: torch.Tensor

    def at(self, index) -> Texts:
        return Texts(self.txt[index], self.pooled[index])


@dataclasses.dataclass
class Task:
    """What an iteration is given. sigmas: N + 1 numbers; trained: S; start [L, C] and noise [B, G, L, C]: standard normal;
    prompt: Texts; views: Texts [V, B]; rewards [V, B, G]; grid: packed tokens along each side; clip: range of the ratio."""

    sigmas: list[float]
    trained: tuple[int, ...]
    start: torch.Tensor
    noise: torch.Tensor
    prompt: Texts
    views: Texts
    rewards: torch.Tensor
    grid: tuple[int, int]
    eta: float = 0.7
    guidance: float = 3.5
    clip: float = 1e-4

    @property
    def group(self) -> int:
        return self.noise.shape[1]

    @property
    def ids(self) -> torch.Tensor:
        """Rotary ids of the image tokens [L, 3]."""
        rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in self.grid), indexing="ij")
        return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)


class Samples(NamedTuple):
    """states [B, L, C]; draws [B, G, L, C]; pictures: final latents [B, G, L, C]."""

    states: torch.Tensor
    draws: torch.Tensor
    pictures: torch.Tensor


class Peer:
    """network: FluxTransformer2DModel, its blocks compiled or not. together: trained steps that one backward pass of
    the batched way takes."""

    def __init__(self, network, optimizer: torch.optim.Optimizer, task: Task, way: str, together: int = 1):
        if way not in WAYS:
            raise ValueError(f"unknown way {way!r}; there are: {', '.join(WAYS)}")
        self.network, self.optimizer, self.task, self.way, self.together = network, optimizer, task, way, together
        self.parameters = [p for part in optimizer.param_groups for p in part["params"]]
        self.ids, self.text_ids = task.ids, torch.zeros(task.prompt.txt.shape[-2], 3)
        self.samples: Samples | None = None

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, texts: Texts) -> torch.Tensor:
        """x [n, L, C], sigma [n], texts of n or of 1 -> [n, L, C]."""
        n = len(x)
        return self.network(
            hidden_states=x,
            timestep=sigma,
            guidance=torch.full((n,), self.task.guidance),
            encoder_hidden_states=texts.txt.expand(n, -1, -1),
            pooled_projections=texts.pooled.expand(n, -1),
            txt_ids=self.text_ids,
            img_ids=self.ids,
            return_dict=False,
        )[0]

    def euler(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """Step i of the ODE under the prompt."""
        s, s_next = self.task.sigmas[i : i + 2]
        return x + self.velocity(x, torch.full((len(x),), s), self.task.prompt.at(None)) * (s_next - s)

    def moments(self, x: torch.Tensor, v: torch.Tensor, k: int) -> tuple[torch.Tensor, float]:
        """(mean, deviation) of step k: g = eta sqrt(s / (1 - s)), with s' for s below the root's line at s = 1."""
        s, s_next = self.task.sigmas[k : k + 2]
        g, dt = self.task.eta * math.sqrt(s / (1.0 - (s_next if s == 1.0 else s))), s_next - s
        return x * (1.0 + g**2 / (2.0 * s) * dt) + v * (1.0 + g**2 * (1.0 - s) / (2.0 * s)) * dt, g * math.sqrt(-dt)

    @torch.no_grad()
    def rollout(self) -> Samples:
        """The anchor, its draws, and their ends; kept for the update."""
        task, steps = self.task, len(self.task.sigmas) - 1
        x, states, draws = task.start[None], [], []
        for i in range(steps):
            s, s_next = task.sigmas[i : i + 2]
            v = self.velocity(x, torch.full((1,), s), task.prompt.at(None))
            if i in task.trained:
                mean, std = self.moments(x, v, i)
                states.append(x[0])
                draws.append(mean + std * task.noise[len(draws)])
            x = x + v * (s_next - s)
        finish = self._finish_together if self.way == "batched" else self._finish_apart
        self.samples = Samples(torch.stack(states), torch.stack(draws), finish(draws))
        return self.samples

    def _finish_apart(self, draws: list[torch.Tensor]) -> torch.Tensor:
        steps, done = len(self.task.sigmas) - 1, []
        for k, of_step in zip(self.task.trained, draws):
            ended = []
            for x in of_step.split(1 if self.way == "one" else self.task.group):
                for i in range(k + 1, steps):
                    x = self.euler(x, i)
                ended.append(x)
            done.append(torch.cat(ended))
        return torch.stack(done)

    def _finish_together(self, draws: list[torch.Tensor]) -> torch.Tensor:
        """trained ascends, so that whoever joins at step i stands behind those that are on their way."""
        lanes, waiting = draws[0][:0], dict(zip(self.task.trained, draws))
        for i in range(self.task.trained[0] + 1, len(self.task.sigmas) - 1):
            if i - 1 in waiting:
                lanes = torch.cat([lanes, waiting.pop(i - 1)])
            lanes = self.euler(lanes, i)
        lanes = torch.cat([lanes, *waiting.values()])
        return lanes.reshape(len(draws), self.task.group, *lanes.shape[1:])

    def advantages(self) -> torch.Tensor:
        """[V, B, G]: rewards less their group's mean, over its unbiased deviation, within 5."""
        r = self.task.rewards
        return ((r - r.mean(-1, keepdim=True)) / (r.std(-1, keepdim=True) + 1e-8)).clamp(-5.0, 5.0)

    def backward(self) -> float:
        """Adds the gradient of the loss to the parameters'; returns the loss, the average over views, steps and draws."""
        advantages, loss = self.advantages(), 0.0
        for part in self._batched_losses(advantages) if self.way == "batched" else self._losses(advantages):
            part.backward()
            loss += part.item()
        return loss

    def _losses(self, advantages: torch.Tensor) -> Iterator[torch.Tensor]:
        """Of each trained step under each view."""
        views, blocks, _ = advantages.shape
        for b, k in enumerate(self.task.trained):
            x, draws = self.samples.states[b], self.samples.draws[b]
            for v in range(views):
                velocity = self.velocity(x[None], torch.full((1,), self.task.sigmas[k]), self.task.views.at((v, b)).at(None))
                mean, std = self.moments(x, velocity, k)
                yield self._loss(mean, std, draws, advantages[v, b]) / (views * blocks)

    def _batched_losses(self, advantages: torch.Tensor) -> Iterator[torch.Tensor]:
        """Of `together` trained steps at a time under all views."""
        views, blocks, _ = advantages.shape
        for first in range(0, blocks, self.together):
            part = range(first, min(first + self.together, blocks))
            sigmas = torch.tensor([self.task.sigmas[self.task.trained[b]] for b in part]).repeat_interleave(views)
            x = self.samples.states[first : part.stop].repeat_interleave(views, 0)
            texts = Texts(*(a[:, first : part.stop].transpose(0, 1).flatten(0, 1) for a in self.task.views))
            velocity = self.velocity(x, sigmas, texts).unflatten(0, (len(part), views))
            losses = 0.0
            for j, b in enumerate(part):
                mean, std = self.moments(self.samples.states[b], velocity[j], self.task.trained[b])
                losses = losses + self._loss(mean[:, None], std, self.samples.draws[b], advantages[:, b])
            yield losses / (views * blocks)

    def _loss(self, mean, std: float, draws, advantage) -> torch.Tensor:
        """Sum over views of the average over draws of max(-A r, -A clip(r)); r = p / p_old is 1 in value, as parameters are
        those that sampled. mean [..., 1, L, C], draws [G, L, C], advantage [..., G]."""
        density = (-((draws - mean) ** 2) / (2.0 * std**2) - math.log(std) - 0.5 * math.log(2.0 * math.pi)).mean((-2, -1))
        r = torch.exp(density - density.detach())
        clipped = torch.clamp(r, 1.0 - self.task.clip, 1.0 + self.task.clip)
        return torch.maximum(-advantage * r, -advantage * clipped).mean(-1).sum()

    def update(self) -> float:
        """One optimiser step on the last rollout; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss


def adamw(parameters) -> torch.optim.AdamW:
    """The optimiser of configs/common.py."""
    return torch.optim.AdamW(parameters, lr=2e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4, fused=True)


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of matrix products in a call, counted by torch as it runs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The CPU's fused attention is not among the operators that torch counts; its plain form is two products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
