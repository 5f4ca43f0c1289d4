"""Writes captions of prompts before training.

python -m mvgrpo_jax.enhance --prompts FILE --out FILE --k 12 [--endpoint URL --model NAME]

With endpoints a language model rewrites the prompts (`vllm serve Qwen/Qwen3-8B`); without, the embedded world's grammar
rewrites that world's prompts. A line a prompt is appended when its captions are there; a run that was stopped, by whatever,
goes on where it was. A fault of the service is waited out, up to --give-up-s. With prompts that are not finished the exit
status is 2. Beside FILE it leaves FILE.summary.json and FILE.png.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.enhancers import summaries, writing
from mvgrpo_jax.enhancers.rewriters import LlmRewriter
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.nano.rewriter import WorldRewriter
from mvgrpo_jax.prompts import load_prompts
from mvgrpo_jax.services import Service, Settings, keys


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.enhance"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", default="flux-nano", help="a prompt a line, or flux-nano (the embedded prompts)")
    parser.add_argument("--count", type=int, default=0, help="how many prompts (0: all of the file, 512 embedded)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, default=12, help="captions a prompt")
    parser.add_argument("--seed", type=flags.seed, default=0, help="0 to 2^64 - 1")
    parser.add_argument(
        "--similarity", type=float, help="captions this near an earlier one are refused; 0.9, or 1 without endpoint"
    )
    server = parser.add_argument_group("a language model's server")
    server.add_argument("--endpoint", action="append", default=[], help="such as http://localhost:8001/v1; may be repeated")
    server.add_argument("--model", default="Qwen/Qwen3-8B", help="the name under which it is served")
    server.add_argument("--key-env", default="", help="environment variable that holds the API key")
    server.add_argument("--key-file", default="", help="or a file that its owner alone may read")
    server.add_argument("--ca-file", default="", help="an authority of your own for https")
    server.add_argument("--concurrency", type=int, default=64, help="requests in flight at each endpoint")
    server.add_argument("--in-flight", type=int, default=4096, help="prompts being worked on at a time")
    server.add_argument("--attempt-s", type=float, default=60.0)
    server.add_argument("--request-s", type=float, default=180.0)
    server.add_argument("--retries", type=int, default=5, help="further attempts of a request after faults")
    server.add_argument("--backoff-s", type=float, default=0.5, help="first pause after a fault; doubles, with jitter")
    server.add_argument("--cooldown-s", type=float, default=10.0, help="pause after five faults of an endpoint in a row")
    server.add_argument(
        "--give-up-s", type=float, default=300.0, help="end the run when no prompt got an answer of use for so long; 0: never"
    )
    server.add_argument("--max-tokens", type=int, default=200)
    server.add_argument("--temperature", type=float, default=0.9)
    server.add_argument("--language", default="en", help="captions in others are asked for again; empty: any")
    server.add_argument(
        "--extra",
        default='{"chat_template_kwargs": {"enable_thinking": false}}',
        help="JSON of further request fields; the default turns Qwen3's thinking off",
    )
    options = parser.parse_args(argv)
    if options.k < 1 or options.in_flight < 1:
        raise UserError(f"--k and --in-flight must be at least 1, got {options.k} and {options.in_flight}")
    if options.similarity is None:
        options.similarity = 0.9 if options.endpoint else 1.0
    if not 0 < options.similarity <= 1:
        raise UserError(f"--similarity must be above 0 and at most 1, got {options.similarity}")
    if options.give_up_s and options.give_up_s < options.attempt_s:
        raise UserError(
            f"--give-up-s must be 0 (never) or at least --attempt-s, the time that one answer may take; got "
            f"{options.give_up_s:g} and {options.attempt_s:g}"
        )
    return options


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parsed(argv)
    service, rewriter = None, WorldRewriter()
    if options.endpoint:
        values = vars(options) | {"endpoints": tuple(options.endpoint), "batch_s": options.request_s}
        settings = Settings.of(values)
        service = Service(settings, keys.read(settings.key_env, settings.key_file))
        rewriter = LlmRewriter(service, options.language)
    prompts = list(dict.fromkeys(load_prompts(options.prompts, options.count, held_out=False)))
    outcome = asyncio.run(writing.write(prompts, options, rewriter, service))
    facts = summaries.save(options.out, options.k, prompts, outcome.refused, service.counts if service else None)
    print("\n".join(summaries.sentences(facts)))
    if outcome.short:
        print(f"{outcome.short} prompts have fewer than {options.k} different captions; their missing views will be masked")
    if facts["unfinished"]:
        raise UserError(
            f"{facts['unfinished']} of {len(prompts)} prompts are not finished: {outcome.why()}. What came is saved in "
            f"{options.out}; run the same command to go on"
        )


if __name__ == "__main__":
    main()
