"""Captions of a file are joined to prompts by their text."""

import json

import pytest

from mvgrpo_jax.enhancers import FileEnhancer, offline
from mvgrpo_jax.errors import UserError

TABLE = {"A cat": ["one"], "a  CAT": ["two"], "a dog": [], "a DOG": ["three"], "a bird": []}


@pytest.mark.parametrize(
    "prompt, captions",
    [("A cat", ["one"]), ("a  CAT", ["two"]), ("a cat", ["one"]), ("a dog", ["three"]), ("A  Dog", ["three"])],
)
def test_the_same_text_comes_first_then_one_that_is_written_otherwise(prompt, captions):
    assert offline.join(TABLE, [prompt]) == {prompt: captions}


def test_what_has_none_is_not_there():
    assert offline.join(TABLE, ["a bird", "a fish", "A cat"]) == {"A cat": ["one"]}


def test_training_finds_them_and_says_what_lacks(tmp_path):
    path = tmp_path / "captions.jsonl"
    rows = [{"prompt": prompt, "captions": [{"text": text} for text in texts]} for prompt, texts in TABLE.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    enhancer = FileEnhancer.load(str(path), 2, 0, ["a cat", "a dog"])
    assert enhancer.begin(0, ["a dog", "a cat"], 1, 2).captions(0) == [["three", "one"], [None, None]]
    assert enhancer.known() == ["one", "three"]
    with pytest.raises(UserError, match="save it as UTF-8"):
        (tmp_path / "wide.jsonl").write_bytes(path.read_text().encode("utf-16"))
        FileEnhancer.load(str(tmp_path / "wide.jsonl"), 2, 0, ["a cat"])
    with pytest.raises(UserError, match="has no captions for 1 of 2 training prompts, such as 'a bird'"):
        FileEnhancer.load(str(path), 2, 0, ["a cat", "a bird"])
