"""python -m mvgrpo_jax.sample --pipeline DIR --prompt "..." --out DIR: pictures from a FluxPipeline folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.core.precision import DTYPES
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.pipelines import Pipeline
from mvgrpo_jax.prompts import read_prompts
from mvgrpo_jax.run import sampling
from mvgrpo_jax.storage import place


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("mvgrpo_jax.sample"), description=__doc__)
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pipeline", default="flux-nano", help="FluxPipeline folder, or flux-nano (embedded)")
    weights.add_argument("--workdir", type=place, help="of a run: the weights of its newest checkpoint")
    flags.which_weights(parser)
    parser.add_argument("--prompt", action="append", default=[], help="may be given several times")
    parser.add_argument("--prompts", type=Path, help="prompt file: a prompt a line, JSON, JSONL, CSV, TSV or Parquet")
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
    parser.add_argument("--batch", type=flags.positive, default=sampling.BATCH, help="pictures at a time")
    parser.add_argument("--save-npy", action="store_true", help="also write images.npy, float32 [N, H, W, 3] in [0, 1]")
    options = parser.parse_args(argv)
    if (options.best or options.step is not None) and not options.workdir:
        raise UserError("--best and --step say which weights of a run are meant: give its --workdir")
    if options.workdir and options.lora:
        raise UserError("--lora is for a pipeline; export the weights of --workdir first")
    return options


def load(options: argparse.Namespace) -> Pipeline:
    dtype = DTYPES[options.dtype]
    if options.workdir:
        return sampling.load_trained(options.workdir, dtype, step=options.step, best=options.best)
    return sampling.load(options.pipeline, dtype, options.lora)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    prompts = options.prompt + (read_prompts(options.prompts) if options.prompts else [])
    if not prompts:
        raise UserError("no prompt: give --prompt TEXT or --prompts FILE")
    painter = sampling.Painter(
        load(options),
        steps=options.steps,
        guidance=options.guidance,
        height=options.height,
        width=options.width,
        solver=options.solver,
        eta=options.eta,
        dtype=DTYPES[options.dtype],
        length=options.max_sequence_length,
    )
    if options.latents:
        latents = sampling.given_latents(options.latents, len(prompts), painter.shape)
    else:
        latents = sampling.initial_latents(options.seed, 0, len(prompts), painter.shape)
    texts, warnings = painter.tokenize(prompts)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    with tqdm(total=len(prompts), desc="sampling", unit="picture") as bar:
        images = painter.paint(texts, latents, seed=options.seed, batch=options.batch, painted=bar.update)
    sampling.save(images, prompts, options.out, arrays=options.save_npy)
    print(f"{len(images)} pictures and sheet.png in {options.out}")


if __name__ == "__main__":
    main()
