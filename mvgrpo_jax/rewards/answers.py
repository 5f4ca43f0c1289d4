"""Scores in the answers of language models: a number behind its label, or none."""

from __future__ import annotations

import re

from mvgrpo_jax.services import Rejected

_DRESS = r"[ \t*_`\"']*"  # bold, code, quotes
_SCALE = r"(?:\([ \t]*1[ \t]*(?:-|\u2013|to)[ \t]*5[ \t]*\))?"  # the label's own "(1-5)" is no score
# The whole number: '10' is not 1, '3-4', '3/10', '3,5' and '80%' are no scores of five.
_VALUE = re.compile(
    r"[ \t*_`\"'\[(]*(?P<value>[-+]?[0-9]+(?:\.[0-9]+)?)(?:[ \t]*(?:/|out of)[ \t]*5(?:\.0+)?)?"
    r"(?![\w%])(?![.,][0-9])(?![ \t]*(?:[-\u2013/]|to\b|out of\b)[ \t]*[0-9])"
)


def labelled(text: str, label: str, finish: str = "stop", low: float = 1.0, high: float = 5.0) -> float:
    """The number after 'LABEL:', 'LABEL (1-5):' and the like, on the same line, whatever its case and dress; with several the
    last, since an answer may repeat the question. finish: the finish reason; 'length' may have cut the last number.

    Raises services.Rejected: 'no score', 'out of range', 'cut off', or 'unfinished thinking'.
    """
    text = text.rpartition("</think>")[2]
    if "<think>" in text:
        raise Rejected("unfinished thinking")
    heads = list(re.finditer(rf"(?<![A-Za-z]){re.escape(label)}{_DRESS}{_SCALE}{_DRESS}[:=\uff1a]", text, re.IGNORECASE))
    found = _VALUE.match(text, heads[-1].end()) if heads else None
    if found is None:
        raise Rejected("cut off" if finish == "length" else "no score")
    if finish == "length" and text[found.end() :] in ("", "."):
        raise Rejected("cut off")
    value = float(found["value"])
    if not low <= value <= high:
        raise Rejected("out of range")
    return value
