"""The nano tokenizers: T5's unigram pieces and CLIP's byte-pair merges, over the world's words."""

from __future__ import annotations

import string
from pathlib import Path

from mvgrpo_jax.world import captions
from mvgrpo_jax.world.scene import BACKGROUNDS, PLACES, SHAPES, SIZES

CLIP_LENGTH = 40
T5_LENGTH = 24


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


def clip_tokenizer():
    """Byte pairs merged until the grammar's words are single tokens; lower-cased, as CLIP's."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    # The same splitting as CLIPTokenizer's own, so that merges fit.
    plain = CLIPTokenizer().backend_tokenizer
    special = ["<|startoftext|>", "<|endoftext|>"]
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token=special[1]))
    model.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    model.pre_tokenizer = plain.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=1,
        special_tokens=special,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([" ".join(words()) + " , :"] * 4, trainer)
    import json

    state = json.loads(model.to_str())["model"]
    vocab = dict(state["vocab"])
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):  # every byte can also end a word
        vocab.setdefault(character + "</w>", len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def save(folder: Path) -> None:
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    t5_tokenizer().save_pretrained(folder / "tokenizer_2")
