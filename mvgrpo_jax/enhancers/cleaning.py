"""From what a language model answers to a caption: what is not caption is taken away, what is none is rejected.

Captions are data. They end up in a tokenizer, in pictures and in an escaped report, and nowhere else.
"""

from __future__ import annotations

import collections
import re
import unicodedata

from mvgrpo_jax.services import Rejected

# What is left of an answer that was cut off must end in a sentence, or it is asked for again.
WHOLE, CUT = "stop", "length"
LANGUAGES = ("en", "")  # that `clean` knows; empty: any
LONGEST = 4000  # characters that are looked at; no caption is longer

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THOUGHT_BEGIN = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
# Thoughts whose beginning was in the server's template and whose end did not come have no tag at all.
_ALOUD = re.compile(
    r"(?:(?:okay|ok|alright|hmm+|well|so|first|wait|now)\b[,.!]*\s+)*"
    r"(?:(?:let me|i need to|i should|i have to|we need to|we should|we have to)\b|"
    r"the user (?:wants|asks|asked|is asking|gave|has given|has provided|provided|said)\b)",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok|great|alright)\b[^\n:.!]{0,60}[:.!]\s*)?"
    r"(?:here(?:'s| is| are)\b[^\n:]{0,80}:\s*)?"
    r"(?:(?:the |my |a |one )?(?:(?:new|final|rewritten|revised|edited|enhanced|shorter|longer|possible) )*"
    r"(?:captions?|prompts?|descriptions?|answers?|output|response|rewrite|version)\s*(?:\d+\s*)?[:\-]\s*)?",
    re.IGNORECASE,
)
_FRAME = re.compile(
    r"^(?:in )?(?:this|the) (?:image|picture|photo(?:graph)?|illustration|scene)(?: here)? "
    r"(?:shows|depicts|features|presents|displays|captures|portrays|contains|is of|is a picture of)\s+",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"^(?:note|explanation|please|let me know|i hope|feel free|this (?:prompt|caption|version|rewrite))\b", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"^(?:i(?:'| a)m (?:sorry|unable|not able|afraid)|sorry\b|as an ai\b|"
    r"i (?:can(?:'|no)t|cannot|won't|will not|do not|don't) |"
    r"unfortunately,? (?:i|there)|i apologi[sz]e|no (?:image|picture) (?:was|is|has)|please provide)",
    re.IGNORECASE,
)
_ENGLISH = frozenset("a an the of in on with and is are at by to from its his her their under over near".split())
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "`": "`"}


def clean(answer: str, finish: str = WHOLE, language: str = "") -> str:
    """The caption in an answer, one line. finish: the server's finish reason.

    language: 'en' rejects what is not English (letters of other scripts, or eight words and more without one of English's
    commonest); '' takes all. Raises Rejected with a reason in a few words.
    """
    if finish not in (WHOLE, CUT):
        raise Rejected(f"finish reason {finish[:20] or 'missing'}")
    if finish == CUT and not answer.strip():
        raise Rejected("no text within max_tokens")  # thoughts that the server keeps to itself
    text = _visible(_without_thoughts(answer[: 4 * LONGEST])[:LONGEST])
    text = re.sub(r"\n\s*(?=[a-z(,])", " ", _without_markup(text))  # a line that goes on
    paragraphs = [p for p in (" ".join(p.split()) for p in re.split(r"\n+", text)) if p]
    if len(paragraphs) > 1 and re.search(r"[:!.]$", paragraphs[0]) and not _PREAMBLE.sub("", paragraphs[0]):
        paragraphs.pop(0)
    text = paragraphs[0] if paragraphs else ""
    text = _unquoted(_PREAMBLE.sub("", text, count=1).strip())
    if not text and len(paragraphs) > 1:
        text = _unquoted(paragraphs[1])
    if _REFUSAL.match(text):
        raise Rejected("refusal")
    text = _FRAME.sub("", text)
    if finish == CUT:
        text = _sentences(text)
    if sum(c.isalpha() for c in text) < 3 or _CLOSING.match(text):
        raise Rejected("empty")
    if _loops(text):
        raise Rejected("repetition")
    if language == "en" and not _english(text):
        raise Rejected("language")
    return text[0].upper() + text[1:] if text != answer.strip() else text


def _without_thoughts(text: str) -> str:
    text = _THOUGHT.sub(" ", text)
    text = _THOUGHT_END.sub("", text)  # the beginning was in the server's template
    if _THOUGHT_BEGIN.search(text) or _ALOUD.match(text.lstrip()):
        raise Rejected("unfinished thinking")
    return text


def _visible(text: str) -> str:
    """Without control, direction and zero-width characters, surrogates and private ones; line breaks stay."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    kept = (c if c == "\n" or unicodedata.category(c)[0] != "C" else " " if c in "\t\r" else "" for c in text)
    return "".join(kept)


def _without_markup(text: str) -> str:
    text = re.sub(r"```[a-z]*", "", text)
    if body := re.sub(r"^\s*#{1,6}\s.*$", "", text, flags=re.MULTILINE).strip():  # headings, where there is more
        text = body
    text = re.sub(r"!?\[([^\]\n]*)\]\([^)\n]*\)", r"\1", text)
    text = re.sub(r"</?[a-zA-Z!][^<>\n]{0,200}>", "", text)
    text = re.sub(r"^\s*(?:#{1,6}\s+|>\s+|[-*\u2022]\s+|\d{1,2}[.)]\s+)", "", text, flags=re.MULTILINE)
    return re.sub(r"(\*{1,3}|_{2,3}|~~)(?=\S)(.+?)(?<=\S)\1", r"\2", text)


def _unquoted(text: str) -> str:
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not re.search(rf"{text[-1]}(?!\w)", text[1:-1]):
        text = text[1:-1].strip()
    return text


def _sentences(text: str) -> str:
    """The whole sentences of a text that was cut off."""
    end = max(text.rfind(c) for c in ".!?")
    if end < 0:
        raise Rejected("cut off")
    return text[: end + 1]


def _loops(text: str) -> bool:
    """Whether a text of more than a dozen words says the same three words over and over."""
    words = text.lower().split()
    if len(words) <= 12:
        return False
    triples = collections.Counter(zip(words, words[1:], words[2:]))
    return len(triples) < 0.5 * (len(words) - 2)


def _english(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    latin = sum("LATIN" in unicodedata.name(c, "") for c in letters)
    words = re.findall(r"[a-z]+", text.lower())
    return latin >= 0.9 * len(letters) and (len(words) < 8 or bool(_ENGLISH & set(words)))
