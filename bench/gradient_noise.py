"""Why further views help or do not: the gradients of each view on the same samples, `python bench/gradient_noise.py`.

An untrained policy draws batches as a run of configs/flux_nano.py does; for each half of every group's samples and each view
the gradient of the objective is taken. Gradients are kept as sketches (coordinates with random signs added up in WIDTH
buckets, which keeps inner products to about 1 / sqrt(WIDTH)). A batch is a file of --out; those that are there are not made
again. The table weighs the views in several ways: cosine of the gradients of two halves, cosine with the prompt's gradient
averaged over the other batches, and the share of a batch's gradient that all batches have in common. captions.csv has a line a
caption: how its gradient and its ranking of the samples agree with the prompt's.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

FACTS = ROOT / "docs" / "study" / "gradient_noise.json"
WIDTH = 2**16
COUNTS = (1, 2, 4, 10)  # captions beside the prompt
WEIGHTS = (1.0, 0.75, 0.5, 0.25, None, 0.0)  # of the prompt's own view; None: as much as each caption


def sketch(tree) -> jax.Array:
    """[WIDTH] of a tree of arrays; the same coordinates always meet in the same bucket with the same signs."""
    flat = jnp.concatenate([a.ravel() for a in jax.tree.leaves(tree)])
    order, sign = jax.random.split(jax.random.key(0))
    flat = jnp.pad(flat, (0, -flat.size % WIDTH))
    flat = jax.random.permutation(order, flat) * jax.random.rademacher(sign, flat.shape, flat.dtype)
    return flat.reshape(-1, WIDTH).sum(0)


class Batches:
    """Batches of an untrained policy, and the sketches of their gradients."""

    def __init__(self, config):
        from mvgrpo_jax.prompts import stream
        from mvgrpo_jax.run.build import build

        self.run, initial = build(config)
        self.prompts = stream(self.run.prompts, config.prompts_per_iteration, config.seed)
        self.params = jax.tree.map(jnp.asarray, initial)
        self.gradient = jax.jit(self._gradient)

    def _gradient(self, params, batch) -> jax.Array:
        from mvgrpo_jax.core.microbatches import cut

        updater = self.run.programs.updater
        micro = jax.tree.map(lambda a: a[0], cut(batch, updater.counts(batch)))
        return sketch(updater.gradients(params, None, None, None, micro, updater.scale(batch))[1])

    def make(self, number: int, prompts: list[str]) -> dict[str, np.ndarray]:
        """gradients [2, V, WIDTH] of both halves under each view; scores [V, P, R, S]; captions [V, P, R]."""
        from mvgrpo_jax.run import drawing
        from mvgrpo_jax.run import iteration as stages
        from mvgrpo_jax.run.metrics import Clock

        run, clock = self.run, Clock()
        with jax.set_mesh(run.mesh):
            samples = drawing.sample(run, number, self.params, prompts, None, clock)
            views, scores = stages.judge(run, number, samples, clock)
            batch, _ = stages.make_batch(run, number, samples, views, scores, clock)
            count, draws = batch.weight.shape[0], batch.weight.shape[-1]
            half = np.arange(draws) < draws // 2
            out = np.zeros((2, count, WIDTH), np.float32)
            for i, which in enumerate((half, ~half)):
                for view in range(count):
                    one = lambda a, view=view: a[view : view + 1]
                    weight = (one(batch.weight) > 0) * which  # each view by itself, whatever the views' weights
                    alone = batch._replace(
                        views=jax.tree.map(one, batch.views), advantage=one(batch.advantage), weight=weight.astype(jnp.float32)
                    )
                    out[i, view] = np.asarray(self.gradient(self.params, alone))
        scored = sum(weight * scores.by_judge[name] for name, weight in run.weights.items())
        return {"gradients": out, "scores": scored, "captions": np.asarray(views.captions, np.str_)}


def weights_of(prompt: float | None, captions: int, views: int) -> np.ndarray:
    """[views], summing to 1: the prompt's own and so many captions."""
    prompt = 1 / (1 + captions) if prompt is None else prompt
    out = np.zeros(views)
    out[0], out[1 : 1 + captions] = prompt, (1 - prompt) / captions
    return out


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-30)


def rows(gradients: np.ndarray) -> list[dict]:
    """Of gradients [N, 2, V, D] a row a weighting: means over batches, with standard errors of the cosines."""
    whole, count = gradients.mean(1), len(gradients)
    prompt = whole[:, 0]
    others = (prompt.sum(0) - prompt) / (count - 1)
    out = []
    for captions in (c for c in COUNTS if c < gradients.shape[2]):
        for weight in WEIGHTS:
            w = weights_of(weight, captions, gradients.shape[2])
            g = np.einsum("v,nvd->nd", w, whole)
            halves = np.einsum("v,nhvd->nhd", w, gradients)
            total = g.sum(0)
            shared = (total @ total - (g * g).sum()) / (count * (count - 1))
            found = {"halves": cosine(halves[:, 0], halves[:, 1]), "with prompt": cosine(g, others)}
            row = {"captions": 0 if weight == 1.0 else captions, "prompt weight": float(w[0])}
            for name, values in found.items():
                row |= {name: float(values.mean()), f"{name} +-": float(values.std(ddof=1) / count**0.5)}
            out.append(row | {"shared power": float(shared / (g * g).sum(-1).mean())})
    return [row for i, row in enumerate(out) if row not in out[:i]]


def lines(batch: dict[str, np.ndarray], number: int) -> list[dict]:
    """Of a batch a line a caption's view: gradients agree across halves, so that samples in common do not count."""
    from scipy.stats import spearmanr

    gradients, scores = batch["gradients"], batch["scores"]
    across = lambda k: float(np.mean([cosine(gradients[0, k], gradients[1, 0]), cosine(gradients[1, k], gradients[0, 0])]))
    out = []
    for view in range(1, gradients.shape[1]):
        ranks = []
        for a, b in zip(scores[view].reshape(-1, scores.shape[-1]), scores[0].reshape(-1, scores.shape[-1])):
            if np.isfinite(a + b).all() and a.std() > 0 and b.std() > 0:
                ranks.append(spearmanr(a, b).statistic)
        size = np.linalg.norm(gradients[:, view].mean(0)) / np.linalg.norm(gradients[:, 0].mean(0))
        out.append(
            {
                "batch": number,
                "view": view,
                "cosine with prompt": across(view),
                "cosine of prompt with itself": across(0),
                "rank correlation": float(np.mean(ranks)) if ranks else float("nan"),
                "deviation of scores": float(np.nanmean(scores[view].std(-1))),
                "relative norm": float(size),
                "first caption": str(batch["captions"][view].flat[0]),
            }
        )
    return out


def main() -> None:
    from configs import flux_nano

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gradient_noise"))
    parser.add_argument("--batches", type=int, default=32)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config = flux_nano.get_config()
    config.eval.every = 0
    batches = Batches(config)
    for number in range(options.batches):
        prompts, path = [str(p) for p in next(batches.prompts)], options.out / f"{number:03d}.npz"
        if not path.exists():
            made = batches.make(number, prompts)
            np.savez(path.with_suffix(".part.npz"), **made)
            path.with_suffix(".part.npz").rename(path)
            print(f"batch {number + 1} of {options.batches}", flush=True)
    batches.run.close()
    found = [dict(np.load(options.out / f"{n:03d}.npz")) for n in range(options.batches)]
    table = rows(np.stack([batch["gradients"] for batch in found]).astype(np.float64))
    captions = [line for number, batch in enumerate(found) for line in lines(batch, number)]
    with (options.out / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(captions[0]))
        writer.writeheader()
        writer.writerows(captions)
    FACTS.write_text(json.dumps({"batches": options.batches, "rows": table}, indent=1) + "\n")
    head = list(table[0])
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in table:
        print("| " + " | ".join(f"{row[key]:.3f}" if isinstance(row[key], float) else str(row[key]) for key in head) + " |")


if __name__ == "__main__":
    main()
