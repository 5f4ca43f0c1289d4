"""python -m mvgrpo_jax.sample --pipeline DIR --prompt "..." --out DIR: pictures from a FluxPipeline folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mvgrpo_jax import pipelines
from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.convert import lora as lora_files
from mvgrpo_jax.core import seeds
from mvgrpo_jax.core.policy import Policy
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.models import lora
from mvgrpo_jax.run import pictures
from mvgrpo_jax.run.programs import DTYPES
from mvgrpo_jax.run.prompts import read_prompts
from mvgrpo_jax.run.sampling import given_latents, initial_latents, sampler


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("mvgrpo_jax.sample"), description=__doc__)
    parser.add_argument("--pipeline", default="flux-nano", help="FluxPipeline folder, or flux-nano (embedded)")
    parser.add_argument("--prompt", action="append", default=[], help="may be given several times")
    parser.add_argument("--prompts", type=Path, help="prompt file: a prompt a line, JSON, JSONL, CSV or TSV")
    parser.add_argument("--lora", type=Path, help="LoRA file or folder: diffusers', PEFT's, kohya's or XLabs' layout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=flags.positive, default=28)
    parser.add_argument("--guidance", type=flags.finite, default=3.5)
    parser.add_argument("--height", type=flags.positive)
    parser.add_argument("--width", type=flags.positive)
    parser.add_argument("--seed", type=flags.seed, default=0, help="0 to 2^64 - 1")
    parser.add_argument("--solver", choices=["ode", "sde"], default="ode")
    parser.add_argument("--eta", type=flags.level, default=0.7, help="noise level of the SDE solver")
    parser.add_argument("--latents", type=Path, help="initial packed latents, .npy [N, tokens, channels]")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--max-sequence-length", type=flags.positive, help="T5 tokens, as in diffusers")
    parser.add_argument("--batch", type=flags.positive, default=16, help="pictures at a time")
    parser.add_argument("--save-npy", action="store_true", help="also write images.npy, float32 [N, H, W, 3] in [0, 1]")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    prompts = options.prompt + (read_prompts(options.prompts) if options.prompts else [])
    if not prompts:
        raise UserError("no prompt: give --prompt TEXT or --prompts FILE")
    dtype = DTYPES[options.dtype]
    pipeline = pipelines.load(options.pipeline, dtype=dtype)
    height, width = options.height or pipeline.default_size, options.width or pipeline.default_size
    network = pipeline.transformer
    if options.lora:
        factors = lora_files.read(options.lora, network, pipeline.flux_config)
        adapters, adapter = lora_files.tree_of(network, factors)
        network = lora.adapt(network, adapter)
        pipeline.params["transformer"] = lora.join(pipeline.params["transformer"], adapters)
    policy = Policy(network, pipeline.grid(height, width), options.guidance, dtype, time_scale=pipeline.scheduler.time_scale)
    shape = (policy.tokens, pipeline.flux_config.in_channels)
    if options.latents:
        latents = given_latents(options.latents, len(prompts), shape)
    else:
        latents = np.asarray(initial_latents(options.seed, 0, len(prompts), shape))

    length = options.max_sequence_length or pipelines.text_length(pipeline)
    ids_clip, ids_t5, warnings = pipelines.tokenize(pipeline, prompts, length)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)

    run = sampler(pipeline, policy, pipeline.sigmas(options.steps, policy.tokens), solver=options.solver, eta=options.eta)
    size, key, images = min(options.batch, len(prompts)), seeds.key(options.seed), []
    with tqdm(total=len(prompts), desc="sampling", unit="picture") as bar:
        for first in range(0, len(prompts), size):
            rows = np.minimum(np.arange(first, first + size), len(prompts) - 1)  # the last batch is padded, one program
            batch = run(pipeline.params, ids_clip[rows], ids_t5[rows], latents[rows], jax.random.fold_in(key, first))
            images += list(np.asarray(batch)[: len(prompts) - first])
            bar.update(min(size, len(prompts) - first))

    for i, image in enumerate(images):
        pictures.save_png(image, options.out / f"{i:04d}.png")
    columns = min(8, len(images))
    cells = list(zip(images, prompts))
    pictures.sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], options.out / "sheet.png", cell=128)
    if options.save_npy:
        np.save(options.out / "images.npy", np.stack(images))
    print(f"{len(images)} pictures and sheet.png in {options.out}")


if __name__ == "__main__":
    main()
