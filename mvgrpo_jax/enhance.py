"""python -m mvgrpo_jax.enhance --prompts FILE --out FILE --k 12 [--endpoint URL --model NAME]: captions before training.

With endpoints a language model rewrites the prompts (`vllm serve Qwen/Qwen3-8B`); without, the embedded world's grammar
rewrites that world's prompts. A line a prompt is appended when it is finished; a run that was stopped, by whatever, goes on
where it was. Beside FILE it leaves FILE.summary.json and FILE.png.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mvgrpo_jax import data
from mvgrpo_jax.convert.files import atomic, write_json
from mvgrpo_jax.enhancers.offline import enhance_prompts, similarity
from mvgrpo_jax.enhancers.rewriters import LlmRewriter, WorldRewriter
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.services import Service, Settings, secrets

DOWN = 50  # unanswered prompts in a row after which the service counts as down


def finished(path: Path) -> dict[str, list[dict[str, str]]]:
    """The prompts already in the file and their captions; a last line that was cut off is removed."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    try:
        items = [json.loads(line) for line in text.split("\n") if line]
        return {item["prompt"]: [{k: c[k] for k in ("text", "operation")} for c in item["captions"]] for item in items}
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path} exists and is no caption file; choose another --out") from None


def summary(table: dict[str, list[dict[str, str]]], k: int) -> tuple[dict, list[int], list[float]]:
    """Counts of what the file holds, the captions' lengths in words, and the similarity of each to the nearest of its
    prompt and the captions before it."""
    words, similar = [], []
    for prompt, captions in table.items():
        known = [prompt]
        for caption in captions:
            words.append(len(caption["text"].split()))
            similar.append(max(similarity(caption["text"], other) for other in known))
            known.append(caption["text"])
    facts = {
        "prompts": len(table),
        "captions": len(words),
        "operations": dict(sorted(collections.Counter(c["operation"] for cs in table.values() for c in cs).items())),
        "short_of_k": sum(len(captions) < k for captions in table.values()),
    }
    for name, values in (("words", words), ("similarity", similar)):
        facts[name] = {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (5, 25, 50, 75, 95)} if values else {}
    return facts, words, similar


def plot(operations: dict[str, int], words: list[int], similar: list[float], path: Path) -> None:
    """Lengths, similarities and operations as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), dpi=110)
    axes[0].hist(words, bins=min(40, max(1, len(set(words)))), color="#4060a0")
    axes[0].set(title="length", xlabel="words", ylabel="captions")
    axes[1].hist(similar, bins=40, range=(0, 1), color="#a06040")
    axes[1].set(title="similarity to the nearest earlier text", xlabel="1: equal")
    axes[2].bar(list(operations), list(operations.values()), color="#408060")
    axes[2].set(title="operations")
    figure.tight_layout()
    with atomic(path) as part:
        figure.savefig(part, format="png")
    plt.close(figure)


async def write(prompts: list[str], options, rewriter, service: Service | None) -> tuple[int, int, int, str]:
    """Appends a line for every prompt that gets finished. Returns (refused repeats, prompts that cannot have k captions,
    prompts unanswered, why)."""
    refused = short = unanswered = row = 0
    why = ""
    stream = enhance_prompts(
        prompts, rewriter, options.k, options.seed, limit=options.similarity, in_flight=options.in_flight if service else 1
    )
    with options.out.open("a", encoding="utf-8") as file, tqdm(total=len(prompts), unit="prompt") as bar:
        async for item in stream:
            bar.update()
            refused += item.refused
            if item.failure is not None:
                unanswered, row, why = unanswered + 1, row + 1, str(item.failure)
                bar.set_postfix(unanswered=unanswered)
                if item.failure.reason == "refused" or row >= DOWN:
                    break
                continue
            row = 0
            short += len(item.captions) < options.k
            file.write(json.dumps({"prompt": item.prompt, "captions": item.captions}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    await stream.aclose()
    if service is not None:
        await service.close()
    return refused, short, unanswered, why


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mvgrpo_jax.enhance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        service = Service(settings, secrets.read(settings.key_env, settings.key_file))
        rewriter = LlmRewriter(service, options.language)
    if options.similarity is None:
        options.similarity = 0.9 if service else 1.0
    if not 0 < options.similarity <= 1:
        raise UserError(f"--similarity must be above 0 and at most 1, got {options.similarity}")
    prompts = list(dict.fromkeys(data.prompts(options.prompts, options.count, held_out=False)))
    done = finished(options.out)
    known = set(prompts)
    if strangers := [p for p in done if p not in known]:
        raise UserError(
            f"{options.out} holds captions of other prompts, such as {strangers[0]!r}; choose another --out or remove it"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    refused, short, unanswered, why = asyncio.run(write([p for p in prompts if p not in done], options, rewriter, service))
    facts, words, similar = summary(finished(options.out), options.k)
    facts |= {"repeats_refused": refused, "unanswered": unanswered}
    if service is not None:
        facts["service"] = dict(sorted(service.counts.items()))
    write_json(options.out.with_name(options.out.name + ".summary.json"), facts)
    if facts["captions"]:
        plot(facts["operations"], words, similar, options.out.with_name(options.out.name + ".png"))
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
