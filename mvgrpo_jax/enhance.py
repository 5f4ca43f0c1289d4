"""Writes captions of prompts before training.

python -m mvgrpo_jax.enhance --prompts FILE --out FILE --k 12 [--endpoint URL --model NAME]

With endpoints a language model rewrites the prompts (`vllm serve Qwen/Qwen3-8B`); without, the embedded world's grammar
rewrites that world's prompts. A line a prompt is appended when it is finished; a run that was stopped, by whatever, goes on
where it was. Beside FILE it leaves FILE.summary.json and FILE.png.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from mvgrpo_jax.console.commands import program
from mvgrpo_jax.convert.files import write_json
from mvgrpo_jax.enhancers import writing
from mvgrpo_jax.enhancers.rewriters import LlmRewriter, WorldRewriter
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.run.prompts import load_prompts
from mvgrpo_jax.services import Service, Settings, keys


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.enhance"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", default="flux-nano", help="a prompt a line, or flux-nano (the embedded prompts)")
    parser.add_argument("--count", type=int, default=0, help="how many prompts (0: all of the file, 512 embedded)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, default=12, help="captions a prompt")
    parser.add_argument("--seed", type=int, default=0)
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
    server.add_argument("--retries", type=int, default=5)
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
    service, rewriter = None, WorldRewriter()
    if options.endpoint:
        values = vars(options) | {"endpoints": tuple(options.endpoint), "batch_s": options.request_s}
        settings = Settings.of(values)
        service = Service(settings, keys.read(settings.key_env, settings.key_file))
        rewriter = LlmRewriter(service, options.language)
    if options.similarity is None:
        options.similarity = 0.9 if service else 1.0
    if not 0 < options.similarity <= 1:
        raise UserError(f"--similarity must be above 0 and at most 1, got {options.similarity}")
    prompts = list(dict.fromkeys(load_prompts(options.prompts, options.count, held_out=False)))
    done = writing.finished(options.out)
    known = set(prompts)
    if strangers := [p for p in done if p not in known]:
        raise UserError(
            f"{options.out} holds captions of other prompts, such as {strangers[0]!r}; choose another --out or remove it"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    refused, short, unanswered, why = asyncio.run(
        writing.write([p for p in prompts if p not in done], options, rewriter, service)
    )
    facts, words, similar = writing.summary(writing.finished(options.out), options.k)
    facts |= {"repeats_refused": refused, "unanswered": unanswered}
    if service is not None:
        facts["service"] = dict(sorted(service.counts.items()))
    write_json(options.out.with_name(options.out.name + ".summary.json"), facts)
    if facts["captions"]:
        writing.plot(facts["operations"], words, similar, options.out.with_name(options.out.name + ".png"))
    operations = ", ".join(f"{n} {name}" for name, n in facts["operations"].items())
    print(f"{facts['prompts']} prompts, {facts['captions']} captions ({operations}); {refused} repeats refused")
    if short:
        print(f"{short} prompts have fewer than {options.k} different captions; their missing views will be masked")
    if left := len(prompts) - facts["prompts"]:
        raise UserError(
            f"{left} of {len(prompts)} prompts are not finished: the service did not answer ({why}). What came is saved in "
            f"{options.out}; run the same command to go on"
        )


if __name__ == "__main__":
    main()
