"""What a plain run expects of the package: the loss of its records, its pictures."""

import dataclasses

import numpy as np
import torch

from tests.algorithms import plain
from tests.algorithms.plain import PROMPTS


@dataclasses.dataclass
class Record:
    """A trained transition of prompt p: its state, grid step, result, rewarded pictures (indices), and advantage a view."""

    p: int
    x: torch.Tensor
    k: int
    x_next: torch.Tensor
    branch: int = 0
    advantage: object = None  # of each view
    weight: float = 1.0
    stretch: float = 1.0


def surrogate_loss(run, records, kernel, eta, clip, *, ratio=None, on_policy=False, surrogate=plain.ppo, kl=None):
    """(loss with gradients, network) of 1/P 1/V sum over records and views, each record weighing weight / records of a
    prompt."""
    views = run.pooled.shape[0]
    net, old, reference = plain.Net(run.moved, True), plain.Net(run.params), plain.Net(plain.weights(1))
    total, count = 0.0, len(records) / PROMPTS
    for r in records:
        for v in range(views):
            c = run.pooled[v, r.p, r.branch]
            new, before = (
                plain.moments(kernel, r.x, n(r.x, run.sigmas[r.k], c), run.sigmas, r.k, eta)
                for n in (net, net if on_policy else old)
            )
            lp, lp_old = (plain.log_prob(kernel, r.x_next, m, s * r.stretch) for m, s in (new, before))
            rho = (
                torch.exp(lp - lp_old.detach())
                if ratio is None
                else ratio(lp, lp_old.detach(), new[0], before[0].detach(), new[1])
            )
            loss = surrogate(rho, float(r.advantage[v]), clip)
            if kl:
                other = plain.moments(kernel, r.x, reference(r.x, run.sigmas[r.k], c), run.sigmas, r.k, eta)
                loss = loss + kl(new[0], other[0].detach(), new[1], r.k)
            total = total + r.weight * loss / (PROMPTS * views * count)
    return total, net


def flow_kl(with_dt):
    def kl(mean, other, std, k):
        sigmas = plain.static(5)
        wide = std if with_dt else plain.flow_std(sigmas, k, 0.9)
        return 0.04 * ((mean - other) ** 2).mean() / (2 * wide**2)

    return kl


def pictures_match(run, pictures):
    """pictures[p][r][i] are the run's."""
    got = run.trajectory.x0
    want = np.stack([np.stack([np.stack([x.numpy() for x in r]) for r in p]) for p in pictures])
    np.testing.assert_allclose(got, want, atol=1e-5)


def judged(pictures, p, r, v):
    return [plain.reward(x, v) for x in pictures[p][r]]
