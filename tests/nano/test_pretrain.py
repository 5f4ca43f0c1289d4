"""The pretraining command at a thousandth of its length: it writes folders that load, and goes on after a stop."""

import numpy as np
import pytest

from mvgrpo_jax import pipelines, rewards
from mvgrpo_jax.nano.pretrain import __main__ as pretrain
from mvgrpo_jax.nano.pretrain import tokenizers
from mvgrpo_jax.nano.pretrain.corpus import Corpus
from mvgrpo_jax.nano.world import captions


@pytest.mark.nightly
def test_the_command_writes_a_pipeline_and_a_tower(tmp_path):
    pretrain.main(["--out", str(tmp_path), "--scale", "0.001"])
    made, shipped = pipelines.load(tmp_path / "flux-nano"), pipelines.load("flux-nano")
    assert made.flux_config == shipped.flux_config
    assert pipelines.text_length(made) == tokenizers.T5_LENGTH
    assert np.isfinite(np.asarray(made.params["transformer"]["x_embedder"]["kernel"], np.float32)).all()
    rewards.make("clip", {"folder": str(tmp_path / "clip-nano")})
    assert (tmp_path / "curve.png").exists()
    log = (tmp_path / "work" / "flow.csv").read_text()
    pretrain.main(["--out", str(tmp_path), "--scale", "0.001"])  # everything is done: nothing changes
    assert (tmp_path / "work" / "flow.csv").read_text() == log


def test_the_corpus_is_the_seeds_alone_and_holds_out():
    a, b = Corpus.draw(50, 3), Corpus.draw(50, 3)
    assert a.scenes == b.scenes and (a.images == b.images).all()
    assert not any(s.is_held_out() for s in a.scenes)
    texts = a.captions(np.arange(50), np.random.default_rng(0))
    assert texts == a.captions(np.arange(50), np.random.default_rng(0))
    assert all(captions.read(t).stated() for t in texts)


def test_tokenizers_know_every_word():
    clip, t5 = tokenizers.clip_tokenizer(), tokenizers.t5_tokenizer()
    for word in tokenizers.words():
        assert len(t5(word)["input_ids"]) == 2, word
        assert len(clip(word)["input_ids"]) == 2 + len(word.replace("-", " - ").split()), word
    long = "a small purple triangle bottom-right, a small yellow diamond top-left and a small orange square center"
    long += " on a white background"
    assert len(t5(long)["input_ids"]) <= tokenizers.T5_LENGTH
    assert len(clip(long)["input_ids"]) <= tokenizers.CLIP_LENGTH
    assert clip.decode(clip("Ünknown wörds!")["input_ids"], skip_special_tokens=True).strip() == "ünknown wörds !"


def test_merges_by_hand():
    """aab, ab: 'a b_' occurs twice and is first; then only 'a ab_' is left. Ties go to the alphabetically first pair."""
    assert tokenizers.merges(["aab", "ab"]) == [("a", "b</w>"), ("a", "ab</w>")]
    assert tokenizers.merges(["xy", "cd"]) == [("c", "d</w>"), ("x", "y</w>")]
