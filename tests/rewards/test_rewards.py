"""Judges: shapes, shared evaluation, and agreement with the torch peer."""

import warnings

import numpy as np
import pytest
import torch

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.pretrain import tokenizers
from mvgrpo_jax.nano.world import render
from mvgrpo_jax.nano.world.scene import Scene, Thing
from tests import peers

RED = Scene((Thing("circle", "red", "large", "center"),), "white", 1)
BLUE = Scene((Thing("square", "blue", "small", "top"),), "black", 1)
# [P=2, R=1, G=2]
IMAGES = np.stack([render.draw(s) for s in (RED, BLUE, BLUE, RED)]).reshape(2, 1, 2, 32, 32, 3)
CAPTIONS = [[["a red circle"], ["a blue square"]], [["a black background"], [None]]]


def test_the_exact_judge_scores_every_view():
    got = rewards.make("scene").score(IMAGES, CAPTIONS)
    assert got.shape == (2, 2, 1, 2) and got.dtype == np.float32
    assert got[0, 0, 0, 0] > 0.95 > 0.5 > got[0, 0, 0, 1]
    assert got[0, 1, 0, 0] > 0.9 > 0.5 > got[0, 1, 0, 1]
    assert got[1, 0, 0, 1] > 0.99 and (got[1, 1] == 0).all()


def write_clip(folder, side=24):
    import json

    tokenizer = tokenizers.clip_tokenizer()
    peer = peers.clip("guided", len(tokenizer))
    peer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}))
    return peer, tokenizer


def test_clip_score_is_transformers_cosine(tmp_path):
    peer, tokenizer = write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path), "scale": 2.0, "chunk": 3})
    images = np.random.default_rng(0).uniform(size=(2, 1, 2, 24, 24, 3)).astype(np.float32)
    got = judge.score(images, CAPTIONS)
    pixels = (images.reshape(-1, 24, 24, 3) - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    texts = ["a red circle", "a blue square", "a black background"]
    ids = tokenizer(texts, padding="max_length", max_length=tokenizers.CLIP_LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        out = peer(input_ids=ids, pixel_values=torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
    cosine = (out.image_embeds @ out.text_embeds.T).numpy().reshape(2, 2, 3)
    np.testing.assert_allclose(got[0, :, 0], 2 * np.stack([cosine[0, :, 0], cosine[1, :, 1]]), atol=1e-5)
    np.testing.assert_allclose(got[1, 0, 0], 2 * cosine[0, :, 2], atol=1e-5)
    assert (got[1, 1] == 0).all()


def test_every_tower_runs_once_for_each_item(tmp_path):
    write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path), "chunk": 1})
    calls = {"image": 0, "text": 0}

    def counting(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    judge._image, judge._text = counting("image", judge._image), counting("text", judge._text)
    judge.score(np.zeros((2, 1, 2, 24, 24, 3), np.float32), CAPTIONS * 5)
    assert calls == {"image": 4, "text": 3}


def test_pictures_of_another_size_are_resized_and_cropped(tmp_path):
    write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path)})
    wide = np.ones((1, 48, 96, 3), np.float32) * np.linspace(0, 1, 96)[None, None, :, None]
    prepared = np.asarray(judge.prepare(wide.astype(np.float32)))
    assert prepared.shape == (1, 24, 24, 3)
    middle = prepared * np.float32([0.2, 0.3, 0.4]) + np.float32([0.4, 0.5, 0.6])  # the middle half of the gradient is left
    np.testing.assert_allclose(middle[0, 12, [0, -1], 0], [0.255, 0.745], atol=0.02)


def test_captions_over_the_towers_length_are_counted_and_warned_of_once(tmp_path):
    _, tokenizer = write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path)})
    long = "a small red circle top-left and " * 12
    assert len(tokenizer(long)["input_ids"]) > tokenizers.CLIP_LENGTH > len(tokenizer("a red circle")["input_ids"])
    with pytest.warns(UserWarning, match=f"reads {tokenizers.CLIP_LENGTH} tokens .* of 2 of 3, such as 'a small red circle"):
        got = judge.score(IMAGES, [[["a red circle"], [long]], [[long + "more"], [None]]])
    assert judge.captions_cut == 2
    ids = tokenizer([long], max_length=tokenizers.CLIP_LENGTH, truncation=True)["input_ids"]
    assert ids[0][-1] == tokenizer.eos_token_id  # the end stays, as transformers cuts
    text = np.asarray(judge._text(judge.params, np.asarray(ids, np.int32)))[0]
    images = judge.embed_images(IMAGES[1, 0])
    np.testing.assert_allclose(got[0, 1, 0], images @ text, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge.score(IMAGES, [[[long], [long]]])
        assert judge.captions_cut == 1  # a text counts once, however often it is asked about
        judge.score(IMAGES, CAPTIONS)
    assert judge.captions_cut == 0


def test_unknown_judges_are_named():
    with pytest.raises(UserError, match="unknown reward 'clup'; Did you mean 'clip'"):
        rewards.make("clup")


def test_the_embedded_tower_tells_right_from_wrong():
    judge = rewards.make("clip")
    got = judge.score(
        IMAGES, [[["a large red circle center on a white background"], ["a small blue square top on a black background"]]]
    )
    assert got[0, 0, 0, 0] > got[0, 0, 0, 1] and got[0, 1, 0, 0] > got[0, 1, 0, 1]
