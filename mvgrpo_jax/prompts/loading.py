"""Prompts of files or of the embedded world, as commands and runs take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.prompts import EMBEDDED, embedded_prompts
from mvgrpo_jax.prompts import sources, streaming
from mvgrpo_jax.prompts.reading import File, read, read_file
from mvgrpo_jax.prompts.records import Prompt
from mvgrpo_jax.prompts.selection import Bounds, Selection


def read_prompts(path: str | Path) -> list[str]:
    """The texts of a prompt file, in its order. UserError as reading.read_file."""
    return [prompt.text for prompt in read(path)]


def load_prompts(source: str, count: int, *, held_out: bool) -> list[str]:
    """The texts of `load`."""
    return [prompt.text for prompt in load(source, count, held_out=held_out)]


def load(source: str, count: int, *, held_out: bool) -> list[Prompt]:
    """Prompts as they are, repeats and all, from a name of EMBEDDED (the embedded world), a file, or several joined with
    commas; at most `count` of each (0: all of a file). UserError: a negative count, weights, or as reading.read_file."""
    found = sources.parse(source)
    if any(part.weight is not None for part in found):
        raise UserError(f"prompts {source!r}: weights say how often training draws from a file; leave them out here")
    return [prompt for part in found for prompt in _prompts(part.name, count, "", held_out)[0]]


def records(prompts: Iterable[Prompt]) -> dict[str, dict[str, Any]]:
    """{text: metadata} of prompts that have some; of those with one text the first one's."""
    out: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        if prompt.metadata:
            out.setdefault(prompt.text, prompt.metadata)
    return out


@dataclasses.dataclass(frozen=True)
class Part:
    """What one source gives. weight: its part of what is drawn. file: None of the embedded world's."""

    name: str
    weight: float
    prompts: list[Prompt]
    file: File | None


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prompts to train on, by source in the order of their names; a prompt is in one source alone. weighted: whether weights
    say how often each is drawn from, rather than its size."""

    parts: list[Part]
    weighted: bool
    selection: Selection

    @property
    def prompts(self) -> list[Prompt]:
        return [prompt for part in self.parts for prompt in part.prompts]

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def shares(self) -> streaming.Shares:
        """(number of prompts, weight) of each source, as `streaming.stream` takes it; () where all are drawn alike."""
        return tuple((len(part.prompts), part.weight) for part in self.parts) if self.weighted else ()

    def check(self, batch: int) -> None:
        """UserError where there are too few prompts for batches of `batch`; it says what was dropped."""
        try:
            streaming.check(len(self.prompts), batch, self.shares)
        except UserError as error:
            raise UserError(f"{error} ({self.describe()})") from None

    def kept(self) -> str:
        """What is left of each source, and how often it is drawn from where weights say that."""
        total = sum(part.weight for part in self.parts)
        return ", ".join(
            f"{len(part.prompts)} of {part.name}" + (f" ({part.weight / total:.1%} of the draws)" if self.weighted else "")
            for part in self.parts
        )

    def describe(self) -> str:
        """One line on sources and on what was dropped."""
        dropped = [f"{number} {why}" for why, (number, _) in self.selection.counts().items()]
        return f"prompts: {self.kept()}" + (f"; dropped: {', '.join(dropped)}" if dropped else "")


def load_corpus(source: str, count: int = 0, *, kind: str = "", bounds: Bounds | None = None) -> Corpus:
    """Training prompts of a source, or of several ('A,B' or 'A@WEIGHT,B@WEIGHT'), within bounds; at most `count` of each (0:
    all). kind: of every file, '' as each tells. UserError: a negative count, a source that has nothing left, or as
    reading.read_file."""
    found, selection = sources.parse(source), Selection(bounds or Bounds())
    parts = []
    for name, weight in found:
        _check(name, count)
        prompts, file = _prompts(name, count if name in EMBEDDED else 0, kind, held_out=False)
        kept = selection.keep(prompts)
        if not kept:
            why = ", ".join(f"{number} {why}" for why, (number, _) in selection.counts().items())
            raise UserError(
                f"prompts {name}: none of {len(prompts)} is left; dropped: {why}. Widen the bounds, or leave it out"
            )
        parts.append(Part(name, weight or 1.0, kept[:count] if count else kept, file))
    return Corpus(parts, len(found) > 1 and found[0].weight is not None, selection)


def of_config(prompts: Any) -> Corpus:
    """The training prompts of config.prompts. UserError as load_corpus."""
    bounds = Bounds(prompts.dedup, prompts.min_length, prompts.max_length, prompts.blocklist)
    return load_corpus(prompts.train, prompts.train_count, kind=prompts.kind, bounds=bounds)


def _prompts(name: str, count: int, kind: str, held_out: bool) -> tuple[list[Prompt], File | None]:
    """The prompts of one source, at most `count` (0: all), and the file that they are of."""
    _check(name, count)
    if name in EMBEDDED:
        texts = embedded_prompts(count, held_out=held_out, things=EMBEDDED[name])
        return [Prompt(text) for text in texts], None
    file = read_file(name, kind)
    return file.prompts[:count] if count else file.prompts, file


def _check(name: str, count: int) -> None:
    if count < 0:
        raise UserError(f"the number of prompts to take from {name} must be at least 0 (0: all), got {count}")
