"""Our compiled sampler beside diffusers' FluxPipeline on one pipeline, from a text to pixels: `python bench/sampler.py`.

Both read flux-nano (or --pipeline), paint the same texts from the same initial latents with the pipeline's own schedule, in
float32, and their pictures are compared before anything is timed. `diffusers` is FluxPipeline as it comes, `compiled` the same
with its transformer and the VAE's decoder under torch.compile. Rounds are interleaved; figures go to docs/bench/sampler.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import timing  # noqa: E402

if __name__ == "__main__":
    timing.begin()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import FluxPipeline  # noqa: E402

from mvgrpo_jax import pipelines  # noqa: E402
from mvgrpo_jax.errors import UserError, reports_errors  # noqa: E402
from mvgrpo_jax.nano.prompts import embedded_prompts  # noqa: E402
from mvgrpo_jax.planning import flops  # noqa: E402
from mvgrpo_jax.run import sampling  # noqa: E402

GUIDANCE = 3.5
TOLERANCE = 1e-3  # of a picture's numbers, in [0, 1]


class Ours:
    """The painter that `sample` runs."""

    def __init__(self, folder: Path, prompts: list[str], steps: int):
        self.pipeline = sampling.load(folder)
        self.painter = sampling.Painter(self.pipeline, steps=steps, guidance=GUIDANCE)
        self.prompts = prompts
        self.latents = sampling.initial_latents(0, 0, len(prompts), self.painter.shape)

    def __call__(self) -> np.ndarray:
        texts, _ = self.painter.tokenize(self.prompts)
        return self.painter.paint(texts, self.latents, batch=len(self.prompts))

    def operations(self) -> int:
        """Of matrix products and convolutions."""
        texts, _ = self.painter.tokenize(self.prompts)
        keys = jax.random.split(jax.random.key(0), len(self.prompts))
        return flops.count(self.painter.run, self.pipeline.params, *texts, self.latents, keys)


class Theirs:
    """FluxPipeline, given our initial latents."""

    def __init__(self, folder: Path, ours: Ours, steps: int, compiled: bool):
        self.pipeline = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        if compiled:
            self.pipeline.transformer = torch.compile(self.pipeline.transformer, dynamic=False)
            self.pipeline.vae.decode = torch.compile(self.pipeline.vae.decode, dynamic=False)
        side = ours.pipeline.default_size
        self.settings = dict(num_inference_steps=steps, guidance_scale=GUIDANCE, height=side, width=side, output_type="np")
        self.settings |= dict(prompt=ours.prompts, latents=torch.tensor(ours.latents), max_sequence_length=ours.painter.length)

    def __call__(self) -> np.ndarray:
        return self.pipeline(**self.settings).images


def measure(folder: Path, count: int, options) -> dict:
    """Seconds and ratios of `count` pictures at once."""
    ours = Ours(folder, embedded_prompts(count, held_out=True), options.steps)
    arms = {"ours": ours, "diffusers": Theirs(folder, ours, options.steps, compiled=False)}
    if options.compiled:
        arms["compiled"] = Theirs(folder, ours, options.steps, compiled=True)
    pictures = {name: call() for name, call in arms.items()}
    apart = {name: float(np.abs(image - pictures["ours"]).max()) for name, image in pictures.items() if name != "ours"}
    if max(apart.values()) > TOLERANCE:
        raise UserError(
            f"{folder}: the pictures differ from ours by {apart}, more than {TOLERANCE}; figures of different work "
            "tell nothing. Look at the scheduler of the pipeline"
        )
    products, product = timing.products()
    with timing.Disturbance() as others:
        seconds = timing.interleaved(arms | products, options.rounds, most=options.seconds)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratios = {name: timing.ratio(seconds[name], seconds["ours"]) for name in arms if name != "ours"}
    row = {"pictures": count, "steps": options.steps, "rounds": len(seconds["ours"]), "seconds": medians, "ratios": ratios}
    return row | {"operations": ours.operations(), "product": product, "largest_difference": apart, "others": others.share}


def show(row: dict) -> str:
    speed = lambda name: row["operations"] / row["seconds"][name] / 1e9
    names = ["ours", *row["ratios"]]
    lines = []
    for name in names:
        of = row["product"] / row["seconds"]["product, jax" if name == "ours" else "product, torch"] / 1e9
        share = f"{speed(name) / of:.0%}"
        rate = row["pictures"] / row["seconds"][name]
        lines.append((name, row["seconds"][name], rate, speed(name), share, row["ratios"].get(name, 1.0)))
    title = f"{row['pictures']} pictures, {row['steps']} steps, {row['rounds']} rounds, "
    title += f"{row['others']:.0%} of the processors used by others"
    head = ("", "seconds", "pictures/s", "GFLOP/s", "of its product", "times ours")
    return "\n".join([title, "", timing.table(head, lines), ""])


@reports_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=pipelines.EMBEDDED, help="FluxPipeline folder")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 12], help="at once")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--compiled", action="store_true", help="also diffusers under torch.compile, minutes of compiling")
    timing.add_arguments(parser, rounds=15, seconds=300.0, name="sampler")
    options = parser.parse_args()
    for count in options.pictures:
        row = measure(options.pipeline, count, options)
        timing.record(options.out, f"{count} pictures", row, row["others"])
        print(show(row), flush=True)


if __name__ == "__main__":
    main()
