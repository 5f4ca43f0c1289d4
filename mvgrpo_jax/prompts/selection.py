"""Which prompts are kept: without repeats, of some length, without what a blocklist names; what is dropped is counted."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import text_files
from mvgrpo_jax.prompts.records import Prompt

# A word; of scripts that put no spaces between words (Chinese, Japanese) every character is one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
LISTED = "with words of the blocklist"
EXACT, FOLDED = "repeats of an earlier prompt", "equal to an earlier prompt but for case or white space"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """dedup: repeats are dropped, also those that differ in case and white space alone. min_length, max_length: characters of
    a prompt, 0 for no bound. blocklist: a file with a word or phrase a line, '' for none."""

    dedup: bool = True
    min_length: int = 0
    max_length: int = 0
    blocklist: str = ""


def folded(text: str) -> str:
    """What texts that differ in case and white space alone have in common."""
    return " ".join(text.split()).casefold()


class Selection:
    """Takes prompts one source after another. dropped: (why, prompt) of each that was not kept; phrases: of the blocklist, how
    many prompts each of them dropped.

    UserError: a blocklist that is missing, empty, not text, or has a line without a word.
    """

    def __init__(self, bounds: Bounds):
        self.bounds, self.dropped, self.phrases = bounds, [], Counter()
        self.blocklist = Blocklist.read(bounds.blocklist) if bounds.blocklist else None
        self.exact: set[str] = set()
        self.folded: set[str] = set()

    def keep(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Those that stay, in their order; of repeats the first one, over all calls."""
        kept = []
        for prompt in prompts:
            if why := self._why_not(prompt.text):
                self.dropped.append((why, prompt))
            else:
                kept.append(prompt)
        return kept

    def counts(self) -> dict[str, tuple[int, str]]:
        """{why: (how many were dropped, the first of them)}."""
        first: dict[str, str] = {}
        for why, prompt in self.dropped:
            first.setdefault(why, prompt.text)
        numbers = Counter(why for why, _ in self.dropped)
        return {why: (numbers[why], text) for why, text in first.items()}

    def _why_not(self, text: str) -> str:
        bounds = self.bounds
        if bounds.dedup:
            if text in self.exact:
                return EXACT
            key = folded(text)
            known = key in self.folded
            self.exact.add(text)
            self.folded.add(key)
            if known:
                return FOLDED
        if len(text) < bounds.min_length:
            return f"shorter than {bounds.min_length} characters"
        if bounds.max_length and len(text) > bounds.max_length:
            return f"longer than {bounds.max_length} characters"
        if self.blocklist and (phrase := self.blocklist.find(text)):
            self.phrases[phrase] += 1
            return LISTED
        return ""


class Blocklist:
    """Words and phrases that no prompt may have; case and what stands between words do not matter."""

    def __init__(self, phrases: Iterable[str]):
        self.by_first: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for phrase in phrases:
            words = _words(phrase)
            self.by_first.setdefault(words[0], []).append((words, phrase))

    @classmethod
    def read(cls, path: str | Path) -> Blocklist:
        """UserError when the file is missing, empty, not text, or has a line without a word."""
        expected = "expected a UTF-8 text file with a word or phrase a line"
        rows = text_files.lines(text_files.read(Path(path), "blocklist", expected))
        if not rows:
            raise UserError(f"blocklist {path} is empty; {expected}")
        for number, line in rows:
            if not _words(line):
                raise UserError(f"blocklist {path}: line {number} has no word ({line!r}); {expected}")
        return cls(line for _, line in rows)

    def find(self, text: str) -> str:
        """The first phrase that the text has, as the blocklist writes it; '' for none."""
        words = _words(text)
        for at, word in enumerate(words):
            for phrase, written in self.by_first.get(word, ()):
                if words[at : at + len(phrase)] == phrase:
                    return written
        return ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.casefold()))
