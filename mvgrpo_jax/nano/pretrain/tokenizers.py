"""The nano tokenizers: T5's unigram pieces and CLIP's byte-pair merges, over the world's words."""

from __future__ import annotations

import re
import string
from collections import Counter
from pathlib import Path

from mvgrpo_jax.nano.world import captions
from mvgrpo_jax.nano.world.scene import BACKGROUNDS, PLACES, SHAPES, SIZES

CLIP_LENGTH = 40
T5_LENGTH = 24
END = "</w>"  # marks a token that ends a word


def words() -> list[str]:
    """Every word of the grammar, sorted."""
    found = {"a", "an", "and", "on", "one", "two", "three", "shape", "shapes", "background"}
    found |= {*SHAPES, *SIZES, *BACKGROUNDS, *PLACES, *captions.SYNONYMS}
    found |= {alias for aliases in captions.SYNONYMS.values() for alias in aliases}
    return sorted(found)


def t5_tokenizer():
    """Every word one piece; anything else falls apart into characters."""
    from transformers import T5TokenizerFast

    characters = string.ascii_letters + string.digits + string.punctuation
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    vocab += [("▁" + word, -3.0) for word in words()]
    vocab += [(c, -4.0 if c in ",:" else -8.0) for c in characters]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=T5_LENGTH)


def merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each word one token: always the commonest pair, the alphabetically first among equals.

    tokenizers' own trainer breaks ties by hash order, so that it gives other ids in every process.
    """
    splits = [[*word[:-1], word[-1] + END] for word in vocabulary]
    found = []
    while any(len(s) > 1 for s in splits):
        pairs = Counter(pair for s in splits for pair in zip(s, s[1:]))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append(best)
        splits = [_merged(s, best) for s in splits]
    return found


def _merged(split: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in split:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def clip_tokenizer():
    """Byte pairs merged until the grammar's words are single tokens; lower-cased, as CLIP's."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    # CLIPTokenizer splits hyphenated words at the hyphen before it merges.
    parts = sorted({part for word in words() for part in re.findall(r"[a-z]+|[^a-z]+", word)})
    found = merges(parts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(c + END for c in alphabet), *("".join(pair) for pair in found)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=found, model_max_length=CLIP_LENGTH)


def save(folder: Path) -> None:
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    t5_tokenizer().save_pretrained(folder / "tokenizer_2")
