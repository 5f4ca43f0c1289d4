"""Pictures and scores of a pipeline on a prompt set: the paper's table, a page to look at, another pipeline beside it.

python -m mvgrpo_jax.evaluate --pipeline DIR --prompts FILE --judge NAME=FOLDER ... --out DIR [--against DIR]

Picture (prompt, seed) depends on both alone. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax

from mvgrpo_jax import pipelines
from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.core.precision import DTYPES
from mvgrpo_jax.errors import Stopped, UserError, reports_errors
from mvgrpo_jax.evaluation import job as jobs
from mvgrpo_jax.evaluation import prompt_set, running, table
from mvgrpo_jax.evaluation.report import lines
from mvgrpo_jax.evaluation.side import Side
from mvgrpo_jax.evaluation.weights import Weights
from mvgrpo_jax.parallel import joining
from mvgrpo_jax.rewards import scoring
from mvgrpo_jax.run import compiled, sampling
from mvgrpo_jax.storage import place

JUDGES = ("scene", "clip")  # where none is named


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.evaluate"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--pipeline",
        default="flux-nano",
        help="FluxPipeline folder, OWNER/NAME in the Hugging Face cache, or flux-nano (embedded)",
    )
    weights.add_argument("--workdir", type=place, help="of a run: the weights of its newest checkpoint")
    flags.which_weights(parser)
    parser.add_argument("--lora", type=Path, help="LoRA file or folder for the pipeline")
    parser.add_argument("--against", help="a pipeline to compare with, painted from the same noise, or an evaluation's --out")
    parser.add_argument("--prompts", default="flux-nano", help="prompt file, or flux-nano (held-out embedded ones)")
    parser.add_argument("--count", type=flags.positive, help="prompts; default: all of a file, 64 embedded ones")
    parser.add_argument("--first", type=flags.natural, default=0, help="prompts that are skipped")
    parser.add_argument("--per-style", action="store_true", help="also a row for each style that prompts have")
    scoring.add_arguments(parser, JUDGES)
    parser.add_argument("--seeds", type=flags.positive, default=1, help="pictures of each prompt")
    parser.add_argument("--seed", type=flags.seed, default=0, help="the first seed, 0 to 2^64 - 1")
    parser.add_argument("--steps", type=flags.positive, default=50)
    parser.add_argument("--guidance", type=flags.finite, default=3.5)
    parser.add_argument("--height", type=flags.positive)
    parser.add_argument("--width", type=flags.positive)
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default: bfloat16, on CPUs float32")
    parser.add_argument("--max-sequence-length", type=flags.positive, help="T5 tokens, as in diffusers")
    parser.add_argument("--batch", type=flags.positive, default=sampling.BATCH, help="pictures at a time")
    parser.add_argument("--label", default="", help="what the table calls it; default: the weights' name")
    parser.add_argument("--trained-on", default="-", help="the table's first cell")
    parser.add_argument("--published", action="store_true", help="the paper's rows in the table, marked as published")
    parser.add_argument("--out", type=Path, required=True)
    flags.processes(parser)
    options = parser.parse_args(argv)
    if (options.best or options.step is not None) and not options.workdir:
        raise UserError("--best and --step say which weights of a run are meant: give its --workdir")
    if options.workdir and options.lora:
        raise UserError("--lora is for a pipeline; export the weights of --workdir first")
    return options


def job_of(options: argparse.Namespace, prompts: prompt_set.PromptSet, seeds: range) -> jobs.Job:
    """The job that the flags describe. UserError: no such pipeline, or a size that it does not paint."""
    if options.workdir:
        weights = Weights.of_run(options.workdir, options.step, options.best)
    else:
        weights = Weights(options.pipeline, options.lora)
    pipeline = weights.described()
    height, width = options.height or pipeline.default_size, options.width or pipeline.default_size
    tokens = pipeline.grid(height, width)
    pipeline.sigmas(options.steps, tokens[0] * tokens[1])
    dtype = options.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    length = options.max_sequence_length or pipelines.text_length(pipeline)
    for warning in pipelines.tokenize(pipeline, list(prompts.texts), length)[2]:
        print(f"warning: {warning}", file=sys.stderr)
    return jobs.Job(weights, prompts, seeds, options.steps, options.guidance, height, width, dtype, length)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    seeds = jobs.seeds(options.seed, options.seeds)
    prompts = prompt_set.read(options.prompts, options.first, options.count)
    if options.per_style and not any(prompts.styles):
        raise UserError(f"--per-style: no prompt of {options.prompts} has a style; give prompts with a field 'style'")
    judges = scoring.described(options.judge or list(JUDGES), options.option)
    running.check_judges(judges)
    if flags.joins(options):
        joining.join(options.coordinator, options.processes, options.process_id)
    compiled.keep(None, str(options.out))
    job = job_of(options, prompts, seeds)
    sides = [Side(options.out, job, label=options.label)]
    if options.against:
        sides.append(running.against(options.against, job, judges, options.out))
    shown = {"trained_on": options.trained_on, "with_published": options.published, "per_style": options.per_style}
    try:
        done = running.run(sides, judges, options.batch, **shown)
    except KeyboardInterrupt:
        raise Stopped("stopped; what is painted and judged is kept, the same command goes on") from None
    if done:
        summary, made = done
        print("\n".join(lines(summary)))
        print(table.markdown(made))
        print(f"page: {options.out / 'index.html'}")


if __name__ == "__main__":
    main()
