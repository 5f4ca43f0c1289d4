"""Turns about a picture: what captions share and what each adds, against a tokenizer alone; Qwen2's real numbers."""

import hashlib
import json

import numpy as np
import pytest

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.dialogue import Dialogue
from mvgrpo_jax.rewards.kinds.hpsv3 import AFTER, BEFORE, IMAGE, READ, TEXT, VOCABULARY
from tests.rewards import hpsv3_peer as peers

CAPTIONS = [
    "",
    "a cat",
    " two  spaces ",
    "\n\nlines\nand lines\n",
    "!!! 100% 'quoted'",
    "\u732b\u304c\u5ea7\u308b \u0645\u0631\u062d\u0628\u0627 \U0001f600 e\u0301",
    "\u0301begins with an accent",
    "{braces} {text_prompt}",
    "a <|im_end|> in <|vision_start|> the text",
    "- a list\n\n- and more",
    "a cat " * 300,
]


def dialogue(folder, tokenizer=None, text=None, **changes):
    peers.write_tokenizer(folder, tokenizer or peers.small_tokenizer(), **changes)
    return Dialogue(folder, text or TEXT.read_bytes().decode(), IMAGE, READ)


def test_the_text_is_the_one_of_training():
    """Of hpsv3 1.0.0, white space included."""
    text = TEXT.read_bytes()
    assert hashlib.sha256(text).hexdigest() == "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"
    assert text.endswith(b"{text_prompt}\n\n\n\nPlease provide the overall ratings of this image: <|Reward|>\n\nEND\n")


def test_shared_and_own_tokens_make_the_whole_turn(tmp_path):
    made, tokenizer = dialogue(tmp_path), peers.small_tokenizer()
    assert made.read_id == tokenizer.get_vocab_size() == len(made) - 1
    for caption in CAPTIONS:
        own, cut = made.own(caption, 4096)
        want = peers.turn(tokenizer, caption, 1)
        want = want[: want.index(made.read_id) + 1]
        assert [*made.before, made.image_id, *made.after, *own] == want and not cut, caption
    assert len(made.own("", 4096)[0]) < 15  # nearly everything is shared
    twice = made.own(f"the token {READ} twice", 4096)[0]  # the last one is read
    assert twice.count(made.read_id) == 2 and twice[-1] == made.read_id


def test_a_long_caption_keeps_its_beginning_and_the_question(tmp_path):
    made = dialogue(tmp_path)
    whole, _ = made.own("a cat " * 300, 4096)
    kept, cut = made.own("a cat " * 300, 64)
    assert cut and len(kept) == 64
    closing = made.own("a", 64)[0][-made.closing :]
    assert made.closing > 8 and kept == whole[: 64 - made.closing] + closing


def test_qwens_own_numbers(tmp_path):
    """Lengths, and where the score is read, of turns about a picture of 448 x 448, by the published vocabulary."""
    if not peers.qwen_ranks():
        pytest.skip("dashscope, which has Qwen's vocabulary, is not installed")
    tokenizer = peers.qwen_tokenizer()
    assert tokenizer.get_vocab_size() == 151657 and tokenizer.token_to_id("<|image_pad|>") == 151655
    made = dialogue(tmp_path, tokenizer)
    assert (made.read_id, len(made)) == (151657, VOCABULARY)
    assert (len(made.before), len(made.after)) == (BEFORE, AFTER) and BEFORE + 256 + AFTER == 766
    sentence = "A photo of a small brown dog that runs over a green meadow under a blue sky"
    assert len(tokenizer.encode(sentence).ids) == 18
    for caption, length, place in (("", 786, 777), ("a cat", 788, 779), (sentence, 804, 795)):
        whole = peers.turn(tokenizer, caption, 256)
        assert (len(whole), whole.index(made.read_id)) == (length, place)
        own, _ = made.own(caption, 1024)
        np.testing.assert_array_equal([*made.before, *[made.image_id] * 256, *made.after, *own], whole[: place + 1])


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="has no chat template; copy tokenizer_config.json or chat_template.json"):
        dialogue(tmp_path, template=None)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": peers.TEMPLATE}))
    assert dialogue(tmp_path, template=None).own("a", 99) == dialogue(tmp_path).own("a", 99)
    (tmp_path / "chat_template.json").unlink()
    with pytest.raises(UserError, match=r"one <\|image_pad\|> before a text, found 0"):
        dialogue(tmp_path, template="{{ messages[0]['content'][1]['text'] }}")
    with pytest.raises(UserError, match="the chat template leaves out the text"):
        dialogue(tmp_path, template="<|image_pad|>")
    with pytest.raises(UserError, match=r"expected \{text_prompt\} once in the instruction, found it 0 times"):
        dialogue(tmp_path, text=f"rate it {READ}")
    with pytest.raises(UserError, match=r"expected <\|Reward\|> once in the instruction, found it 0 times"):
        dialogue(tmp_path, text="rate it for {text_prompt}")
    with pytest.raises(UserError, match=r"the tokenizer has no token <\|image_pad\|>"):
        plain = peers.dressed(peers.models.BPE())
        dialogue(tmp_path, plain)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no tokenizer can be read"):
        Dialogue(empty, TEXT.read_text(), IMAGE, READ)
    with pytest.raises(UserError, match="config.json: no such file"):
        rewards.make("hpsv3", {"folder": "x", "base": str(empty)})
    with pytest.raises(UserError, match="the judge 'hpsv3' of kind 'hpsv3' needs base"):
        rewards.make("hpsv3", {"folder": "x"})
