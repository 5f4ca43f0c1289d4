"""The counting of captions that are longer than a judge reads."""

from __future__ import annotations

import warnings


class Cut:
    """The texts that a judge cut at `length` tokens, and a warning of the first. label: of the judge, in the warning."""

    def __init__(self, label: str, length: int):
        self.label, self.length = label, length
        self._texts: set[str] = set()
        self._warned = False

    def note(self, texts: set[str], count: int) -> None:
        """texts: those that were cut, of `count` that were read."""
        self._texts |= texts
        if texts and not self._warned:
            self._warned = True
            warnings.warn(
                f"the {self.label} judge reads {self.length} tokens of a caption and cuts the rest, here of {len(texts)} of "
                f"{count}, such as {min(texts)[:80]!r}; reward_captions_cut counts them. Shorter captions are judged whole",
                stacklevel=4,
            )

    def take(self) -> int:
        """How many different texts were cut since the last call."""
        count, self._texts = len(self._texts), set()
        return count
