"""What a value of a config may be. A rule says in words what it expects, and whether a value is that."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Collection
from typing import Any, Protocol

LONGEST = 4096  # characters of a text, entries of a tuple


class Rule(Protocol):
    """expected: what a message says after 'must be'. accepts(value): whether a value is that, whatever its type."""

    @property
    def expected(self) -> str: ...

    def accepts(self, value: Any) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Int:
    """An integer, low to high, or one of `also`; True is none. zero: what 0 means, for the message."""

    low: int = 0
    high: int = 10**9
    also: tuple[int, ...] = ()
    zero: str = ""

    @property
    def expected(self) -> str:
        others = "".join(f", or {n}" for n in self.also)
        return f"an integer from {self.low} to {self.high}{others}" + (f" (0: {self.zero})" if self.zero else "")

    def accepts(self, value: Any) -> bool:
        return type(value) is int and (self.low <= value <= self.high or value in self.also)


@dataclasses.dataclass(frozen=True)
class Real:
    """A finite number, low to high; above, below: without the bound itself. zero: what 0 means."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    zero: str = ""

    @property
    def expected(self) -> str:
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        high = f"to below {self.high:g}" if self.below else f"to {self.high:g}"
        return f"a finite number {low} {high}" + (f" (0: {self.zero})" if self.zero else "")

    def accepts(self, value: Any) -> bool:
        if type(value) not in (int, float) or value != value:
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some texts (or numbers)."""

    names: tuple

    @classmethod
    def of(cls, names: Collection) -> Choice:
        return cls(tuple(names))

    @property
    def expected(self) -> str:
        return f"one of {', '.join(repr(n) if n == '' else str(n) for n in self.names)}"

    def accepts(self, value: Any) -> bool:
        return any(type(value) is type(name) and value == name for name in self.names)


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    expected = "True or False"

    def accepts(self, value: Any) -> bool:
        return type(value) is bool


@dataclasses.dataclass(frozen=True)
class Text:
    """A line of text. empty: whether it may be ''. shown: whether a message may repeat it."""

    empty: bool = True
    shown: bool = True

    @property
    def expected(self) -> str:
        return f"a text{'' if self.empty else ' that is not empty'}, of at most {LONGEST} characters without control characters"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= LONGEST and _printable(value) and (self.empty or bool(value.strip()))


@dataclasses.dataclass(frozen=True)
class Span:
    """'START:COUNT', so many iterations from one on, or '' for none."""

    expected = "'START:COUNT', so many iterations from START on, COUNT at least 1, or '' for none"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and (not value or re.fullmatch(r"\d{1,18}:[1-9]\d{0,17}", value, re.ASCII) is not None)


@dataclasses.dataclass(frozen=True)
class Tuple:
    """A tuple (or list) of values that one rule accepts."""

    of: Rule

    @property
    def expected(self) -> str:
        return f"a tuple, of which each is {self.of.expected}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) <= LONGEST and all(self.of.accepts(v) for v in value)


def _printable(text: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def of_default(default: Any) -> Rule:
    """The rule of a setting that is known by its default alone: the same type, finite, within 10^6 either side; integers not
    negative; a tuple holds what its default holds, integers where that is empty."""
    kinds = {bool: Flag(), int: Int(0, 10**6), float: Real(-1e6, 1e6), str: Text()}
    if isinstance(default, (tuple, list)):
        return Tuple(of_default(default[0]) if default else kinds[int])
    if type(default) not in kinds:
        raise TypeError(f"no rule for a default like {default!r}; expected a bool, int, float, str or a tuple of one of them")
    return kinds[type(default)]


def shown(value: Any, longest: int = 80) -> str:
    """repr of a value for a message, cut to `longest` characters."""
    if type(value) is int and abs(value) >= 10**longest:
        return f"an integer of about {round(value.bit_length() * math.log10(2))} digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # such as a tuple that holds an integer of very many digits
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= longest else f"{text[:longest]}..."
