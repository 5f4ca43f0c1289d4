"""What a file of captions holds, in numbers and as a picture."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np

from mvgrpo_jax.convert.files import atomic, write_json
from mvgrpo_jax.enhancers.drafting import similarity
from mvgrpo_jax.enhancers.writing import finished


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


def save(path: Path, k: int, prompts: list[str], refused: int, requests: collections.Counter[str] | None) -> dict:
    """Writes the summary of a caption file beside it, FILE.summary.json and FILE.png, and returns its facts.

    prompts: those that the file was to hold, each with k captions. refused: near repeats. requests: what a service counted,
    None where there is no service.
    """
    facts, words, similar = summary(finished(path), k)
    facts |= {"repeats_refused": refused, "unfinished": len(prompts) - facts["prompts"]}
    if requests is not None:
        facts["service"] = dict(sorted(requests.items()))
    write_json(path.with_name(path.name + ".summary.json"), facts)
    if facts["captions"]:
        plot(facts["operations"], words, similar, path.with_name(path.name + ".png"))
    return facts


def sentences(facts: dict) -> list[str]:
    """The facts of `save` for people: a line on captions, and one on the service where there is one."""
    operations = ", ".join(f"{n} {name}" for name, n in facts["operations"].items())
    repeats = facts["repeats_refused"]
    lines = [f"{facts['prompts']} prompts, {facts['captions']} captions ({operations}); {repeats} repeats refused"]
    if "service" in facts:
        lines.append("service: " + ", ".join(f"{n} {name.replace(':', ': ')}" for name, n in facts["service"].items()))
    return lines


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
