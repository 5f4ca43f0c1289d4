"""What a corpus of prompts is, for people: counts, what was dropped and why, lengths as text and as a picture."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.prompts import kinds
from mvgrpo_jax.prompts.loading import Corpus, Part
from mvgrpo_jax.prompts.records import Prompt

BINS, BAR = 12, 40  # of the printed histogram: lines at most, characters of the longest bar
FIRST = 10
SHOWN = 100  # characters of a prompt that is shown
LABELS = ("style", "tag")  # metadata that few words describe
VALUES = 12  # of a label, or of a blocklist, that are listed


def report(corpus: Corpus) -> str:
    """Sources with their forms and counts, what was dropped, labels, lengths, the first prompts."""
    prompts = corpus.prompts
    parts = [
        *(line for part in corpus.parts for line in _source(part)),
        f"kept: {len(prompts)}" + (f" ({corpus.kept()})" if len(corpus.parts) > 1 else ""),
        *_dropped(corpus),
        *_labels(prompts),
        *_lengths([len(prompt.text) for prompt in prompts]),
        f"the first {min(FIRST, len(prompts))}:",
        *(f"  {_shown(prompt)}" for prompt in prompts[:FIRST]),
    ]
    return "\n".join(parts)


def _source(part: Part) -> list[str]:
    if not part.file:
        return [f"{part.name}: prompts of the embedded world"]
    file = part.file
    lines = [f"{part.name}: {file.kind} ({file.form}), {file.records} records, {len(file.prompts)} prompts"]
    if published := getattr(kinds.module(file.kind), "PUBLISHED", {}):
        listed = (f"{count} in {what}" + " (as here)" * (count == len(file.prompts)) for what, count in published.items())
        lines.append(f"  as published: {', '.join(listed)}")
    return [*lines, *(f"  {count} {what}" for what, count in sorted(file.notes.items()))]


def _dropped(corpus: Corpus) -> list[str]:
    counts = corpus.selection.counts()
    lines = [f"  {count} {why}, the first: {_cut(text)!r}" for why, (count, text) in counts.items()]
    if phrases := corpus.selection.phrases:
        lines.append(f"  words of the blocklist: {_most(phrases)}")
    return [f"dropped: {len(corpus.selection.dropped)}", *lines]


def _most(counts: Counter[str]) -> str:
    """The most frequent values with their numbers."""
    listed = [f"{value} {count}" for value, count in counts.most_common(VALUES)]
    return ", ".join(listed) + (f", and {len(counts) - VALUES} more" if len(counts) > VALUES else "")


def _labels(prompts: list[Prompt]) -> list[str]:
    lines = []
    for label in LABELS:
        counts = Counter(str(prompt.metadata[label]) for prompt in prompts if label in prompt.metadata)
        if counts:
            lines.append(f"{label}: {_most(counts)}")
    names = Counter(name for prompt in prompts for name in prompt.metadata)
    if names:
        lines.append("metadata: " + ", ".join(f"{name} ({count})" for name, count in names.most_common()))
    return lines


def _lengths(lengths: list[int]) -> list[str]:
    points = dict(zip(("shortest", "5 %", "median", "95 %", "longest"), np.percentile(lengths, [0, 5, 50, 95, 100])))
    lines = ["length in characters: " + ", ".join(f"{name} {value:.0f}" for name, value in points.items())]
    edges = bins(lengths, BINS)
    counts, _ = np.histogram(lengths, edges)
    width, digits = len(str(edges[-1] - 1)), len(str(max(counts)))
    for low, high, count in zip(edges, edges[1:], counts):
        bar = "#" * int(np.ceil(BAR * count / max(counts)))
        lines.append(f"  {low:>{width}} to {high - 1:>{width}}  {count:>{digits}}  {bar}".rstrip())
    return lines


def bins(lengths: list[int], most: int) -> list[int]:
    """Edges of at most `most` equal ranges of whole numbers, from the shortest to one above the longest or more."""
    low, high = min(lengths), max(lengths) + 1
    step = max(1, -(-(high - low) // most))
    return [*range(low, high, step), low + step * -(-(high - low) // step)]


def _shown(prompt: Prompt) -> str:
    labels = {name: prompt.metadata[name] for name in (*LABELS, "target") if name in prompt.metadata}
    return _cut(prompt.text) + (f"  [{', '.join(f'{name}: {value}' for name, value in labels.items())}]" if labels else "")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


def plot(corpus: Corpus, path: Path) -> None:
    """The lengths as a picture, by source where there are several."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    edges = bins([len(prompt.text) for prompt in corpus.prompts], 60)
    figure, axes = plt.subplots(figsize=(7.2, 3.6), dpi=110)
    lengths = [[len(prompt.text) for prompt in part.prompts] for part in corpus.parts]
    names = [f"{Path(part.name).name}: {len(part.prompts)}" for part in corpus.parts]
    axes.hist(lengths, edges, stacked=True, label=names)
    axes.set(xlabel="characters", ylabel="prompts", title=f"length of {sum(map(len, lengths))} prompts")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    with atomic(path) as part:
        figure.savefig(part, format="png")
    plt.close(figure)


def write(prompts: list[Prompt], path: Path) -> None:
    """The prompts with their metadata as JSON lines, which `reading.read` gives back."""
    with atomic(path) as part, part.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            record = {"prompt": None} | prompt.metadata | {"prompt": prompt.text}
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
