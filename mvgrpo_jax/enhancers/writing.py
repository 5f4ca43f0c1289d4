"""The enhance command's work: captions of many prompts into a file, a line for each prompt that is finished."""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.enhancers.offline import enhance_prompts, similarity
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.services import Service

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
