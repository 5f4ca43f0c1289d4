"""Captions as CLIP's tokens: the tokenizers of transformers and of open_clip, and what is cut."""

from __future__ import annotations

import gzip
import html
import re
import unicodedata
from pathlib import Path

import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.cut import Cut

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"  # the file of merges that OpenAI's CLIP and open_clip come with
_FILES = ("tokenizer.json", "vocab.json")  # as transformers writes one
_MERGES = 49152 - 256 - 2  # of the file's lines, those that CLIP has

_STANDARD_WIDTH = {0x3000: " "} | {
    i: wide for i in range(0xFF01, 0xFFF0) if (wide := unicodedata.normalize("NFKC", chr(i))) != chr(i)
}
_LIGATURES = {ord(c): unicodedata.normalize("NFKC", c) for c in "ĲĳǄǅǆǇǈǉǊǋǌǱǲǳﬀﬁﬂﬃﬄﬆ"} | {ord("ŉ"): "ʼn", ord("ﬅ"): "ſt"}
_QUOTES = dict.fromkeys([0x2BC, *range(0x2018, 0x201C)], "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
_CONTROLS = dict.fromkeys(
    [*range(9), 11, *range(14, 32), 127, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)],
)


def cleaned(text: str) -> str:
    """A caption as open_clip has it before it looks for tokens: what ftfy does to text that is rightly encoded (entities of
    HTML, terminal colours, ligatures, wide forms, curled quotes, control characters, NFC), entities again, lower case, one
    space between words. What ftfy undoes in text that was decoded wrongly is left as it is."""
    text = text if "<" in text else html.unescape(text)
    text = re.sub("\033\\[[\\d;]*[a-zA-Z]", "", text)
    for table in (_LIGATURES, _STANDARD_WIDTH, _QUOTES, _CONTROLS):
        text = text.translate(table)
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return " ".join(text.split()).lower()


def tokenizer_of(folder: Path, needs: str):
    """The CLIPTokenizer of a folder with transformers' files or with open_clip's vocabulary. UserError says that the folder
    which `needs` names should have one."""
    from transformers import CLIPTokenizer

    if any((folder / name).exists() for name in _FILES):
        return CLIPTokenizer.from_pretrained(folder)
    if (folder / VOCABULARY).exists():
        return _from_merges(folder / VOCABULARY)
    found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
    raise UserError(
        f"{folder}: expected CLIP's tokenizer, as {_FILES[0]}, {_FILES[1]} with merges.txt, or {VOCABULARY} (open_clip); found "
        f"{found or 'nothing'}. {needs}"
    )


def _from_merges(path: Path):
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : _MERGES + 1]
        merges = [tuple(line.split()) for line in lines]
        joined = ["".join(pair) for pair in merges if len(pair) == 2]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected the compressed merges of CLIP's vocabulary ({error}); copy it again") from None
    if len(joined) != _MERGES:
        raise UserError(f"{path}: expected {_MERGES} merges, found {len(joined)}; copy it again")
    # Bytes in the order of CLIP: printable ones first, in Latin-1's order, then those that stand for others.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (ord(c) > 255, ord(c)))
    names = [*alphabet, *(c + "</w>" for c in alphabet), *joined, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=merges, model_max_length=77)


class Captions:
    """Texts to tokens of at most `length`, the end kept where a text is cut, and a count of those. label: of the judge, in the
    warning. clean: whether they are cleaned as in open_clip."""

    def __init__(self, tokenizer, places: int, label: str, clean: bool = False):
        self.tokenizer, self.clean = tokenizer, clean
        self.length = min(places, tokenizer.model_max_length)
        self.cut = Cut(label, self.length)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """int32 [N, length]."""
        given = [cleaned(text) for text in texts] if self.clean else texts
        encoded = self.tokenizer(given, padding="max_length", max_length=self.length, truncation=True)
        self.cut.note({text for text, one in zip(texts, encoded.encodings) if one.overflowing}, len(texts))
        return np.asarray(encoded["input_ids"], np.int32)

    def take_cut(self) -> int:
        """How many different texts were cut since the last call."""
        return self.cut.take()
