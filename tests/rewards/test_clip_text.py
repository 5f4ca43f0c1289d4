"""Captions as tokens against open_clip's own tokenizer with its vocabulary."""

import shutil

import numpy as np
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import clip_text
from mvgrpo_jax.rewards.clip_text import Captions, cleaned, tokenizer_of
from tests.rewards import open_clip_peer as oc

TEXTS = [
    "a cat",
    "",
    "   two\n\tspaces  ",
    "It’s a “quoted” caption — with dashes… and 12,345 numbers!!",
    "ﬁne ﬂuﬀy ﬆ Ĳ Ǆ ŉ ﬅ",
    "ＷＩＤＥ　ｔｅｘｔ，ﾊﾝｶｸ",
    "&lt;b&gt; &amp;amp; <i>&eacute;</i> &quot;x&quot;",
    "\x1b[31mred\x1b[0m \x00\x07bell\ufeff",
    "Ünïcode cafe\u0301 ÅNGSTRÖM İSTANBUL ΣΊΣΥΦΟΣ",
    "красный круг и 猫と犬 مرحبا हिन्दी 🙂👩‍👩‍👧",
    "don't we'll I've HE'S",
    "x" * 300,
    " ".join(f"word{i}" for i in range(90)),
    "<|endoftext",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(oc.FOLDER, "")


@pytest.mark.parametrize("length", [77, 32])
@pytest.mark.filterwarnings("ignore:the .* judge reads")
def test_tokens_are_open_clips(tokenizer, length):
    """Up to the end, behind which open_clip has zeros: the text tower reads the vector there and sees nothing behind it."""
    got, want = Captions(tokenizer, length, "it", clean=True)(TEXTS), oc.tokenizer(TEXTS, length).numpy()
    assert got.shape == want.shape and got.dtype == np.int32
    for text, ours, theirs in zip(TEXTS, got, want):
        end = theirs.argmax()
        np.testing.assert_array_equal(ours[: end + 1], theirs[: end + 1], text)
        assert ours.argmax() == end and theirs[end] == 49407


def test_a_cat(tokenizer):
    assert Captions(tokenizer, 77, "it")(["a cat"])[0, :4].tolist() == [49406, 320, 2368, 49407]


def test_cleaning_is_ftfys_on_text_that_is_rightly_encoded():
    for text in TEXTS:
        assert cleaned(text) == oc.open_clip.tokenizer._clean_lower(text)


def test_the_same_tokenizer_from_transformers_files(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "json")
    (tmp_path / "files").mkdir()
    tokenizer.backend_tokenizer.model.save(str(tmp_path / "files"))  # vocab.json and merges.txt
    want = Captions(tokenizer, 32, "it")(TEXTS[:4])
    for name in ("json", "files"):
        np.testing.assert_array_equal(Captions(tokenizer_of(tmp_path / name, ""), 32, "it")(TEXTS[:4]), want)


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match="found nothing. Do this"):
        tokenizer_of(tmp_path, "Do this")
    with pytest.raises(UserError, match="found no such folder"):
        tokenizer_of(tmp_path / "gone", "")
    whole = (oc.FOLDER / clip_text.VOCABULARY).read_bytes()
    (tmp_path / clip_text.VOCABULARY).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="compressed merges of CLIP's vocabulary"):
        tokenizer_of(tmp_path, "")
    shutil.copy(oc.FOLDER / clip_text.VOCABULARY, tmp_path)
    assert len(tokenizer_of(tmp_path, "")) == 49408
